import io

import numpy as np
import pytest
from PIL import Image

from service.preprocess import ImageError
from training.thumbnails import Album, data_uri, thumbnail


def opened(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture))


def test_a_photo_becomes_a_small_jpeg_of_the_whole(encode):
    small = opened(thumbnail(encode(np.zeros((600, 800, 3), np.uint8), "JPEG")))
    assert (small.format, small.size) == ("JPEG", (128, 96))


def test_a_tall_image_is_not_cropped(encode):
    assert opened(thumbnail(encode(np.zeros((1000, 200, 3), np.uint8)))).size == (19, 96)


def test_a_tiny_image_keeps_every_pixel(encode):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    small = opened(thumbnail(encode(pixels)))
    assert small.format == "PNG"
    assert (np.asarray(small) == pixels).all()


def test_what_is_no_image_has_no_thumbnail():
    with pytest.raises(ImageError):
        thumbnail(b"no image")


def test_a_data_uri_names_the_format(encode):
    black = np.zeros((9, 9, 3), np.uint8)
    kinds = [data_uri(encode(black, kind)).partition(";")[0] for kind in ("PNG", "JPEG", "WEBP")]
    assert kinds == ["data:image/png", "data:image/jpeg", "data:image/webp"]


def test_an_album_stops_when_the_page_is_full(encode):
    image = encode(np.zeros((9, 9, 3), np.uint8))
    album = Album(lambda _: image, budget=2 * len(data_uri(thumbnail(image))))
    # The same picture shown again takes room again.
    assert [bool(album.picture(path)) for path in ("a", "a", "b")] == [True, True, False]


def test_an_album_does_without_what_cannot_be_read():
    def vanished(_: str) -> bytes:
        raise FileNotFoundError

    assert Album(vanished).picture("a") == ""
