import io

import numpy as np
import pytest
from PIL import Image

from graft.service.errors import ImageError
from graft.training.data.dataset import scan
from graft.training.visualization.thumbnails import ThumbnailCache, data_uri, package_thumbnail, package_thumbnails, thumbnail


def opened(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture))


def test_photo_becomes_a_small_webp(encode):
    image = opened(thumbnail(encode(np.zeros((600, 800, 3), np.uint8), "JPEG")))
    assert (image.format, image.size) == ("WEBP", (320, 240))


def test_tall_image_is_not_cropped(encode):
    assert opened(thumbnail(encode(np.zeros((1000, 200, 3), np.uint8)))).size == (64, 320)


def test_tiny_image_is_lossless(encode):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    image = opened(thumbnail(encode(pixels)))
    assert image.format == "PNG"
    assert (np.asarray(image) == pixels).all()


def test_invalid_image_raises():
    with pytest.raises(ImageError):
        thumbnail(b"no image")


def test_data_uri_has_the_media_type(encode):
    black = np.zeros((9, 9, 3), np.uint8)
    kinds = [data_uri(encode(black, kind)).partition(";")[0] for kind in ("PNG", "JPEG", "WEBP")]
    assert kinds == ["data:image/png", "data:image/jpeg", "data:image/webp"]


def test_cache_stops_at_its_budget(encode):
    image = encode(np.zeros((9, 9, 3), np.uint8))
    cache = ThumbnailCache(lambda _: image, budget=2 * len(data_uri(thumbnail(image))))
    # The same picture shown again takes room again.
    assert [bool(cache.data_uri(path)) for path in ("a", "a", "b")] == [True, True, False]


def test_cache_skips_unreadable_files():
    def vanished(_: str) -> bytes:
        raise FileNotFoundError

    assert ThumbnailCache(vanished).data_uri("a") == ""


def test_package_thumbnail_is_a_jpeg_within_96_pixels(encode):
    shown = opened(package_thumbnail(encode(np.full((600, 800, 3), 200, np.uint8), "WEBP")))
    assert (shown.format, shown.mode, shown.size) == ("JPEG", "RGB", (96, 72))


def test_tall_package_thumbnail_is_not_cropped(encode):
    assert opened(package_thumbnail(encode(np.zeros((1000, 200, 3), np.uint8)))).size == (19, 96)


def test_tiny_package_thumbnail_is_not_enlarged(encode):
    assert opened(package_thumbnail(encode(np.zeros((20, 28, 3), np.uint8)))).size == (28, 20)


def test_package_thumbnail_is_upright_without_exif(encode, photo):
    notes = Image.Exif()
    notes[0x0112], notes[0x010F] = 6, "a camera's maker"
    picture = package_thumbnail(encode(photo, "JPEG", exif=notes))
    assert opened(picture).size == (60, 80)
    assert len(opened(picture).getexif()) == 0
    assert b"maker" not in picture


def test_package_thumbnail_of_noise_is_small(encode):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    picture = package_thumbnail(encode(noise))
    assert 1000 < len(picture) <= 4096
    assert opened(picture).size == (96, 96)


def test_package_thumbnails_keep_the_order_of_samples(make_folder):
    dataset = scan(make_folder({"cat": 3, "dog": 3}, side=8))
    (dataset.source.root / dataset.samples[1].path).unlink()
    (dataset.source.root / dataset.samples[2].path).write_bytes(b"no image any more")
    thumbnails = package_thumbnails(dataset, dataset.samples[:4])
    assert [thumbnails[row] is None for row in range(4)] == [False, True, True, False]
    assert thumbnails[3] == package_thumbnail(dataset.read(dataset.samples[3]))
