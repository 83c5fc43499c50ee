"""Many small pictures in one file."""

import io

import numpy as np
from PIL import Image

from graft.training.visualization.contact_sheet import contact_sheet, photo, sheet

RED, BLUE = (np.tile(np.array(colour, np.uint8), (2, 2, 1)) for colour in ([255, 0, 0], [0, 0, 255]))


def test_tiles_lie_row_by_row_with_nothing_between_them():
    found = Image.open(io.BytesIO(sheet([RED, BLUE, RED], 2, 4)))
    assert (found.format, found.mode, found.size) == ("PNG", "RGBA", (10, 10))
    assert found.getpixel((0, 0)) == (255, 0, 0, 255)
    assert found.getpixel((9, 3)) == (0, 0, 255, 255)
    assert found.getpixel((0, 9)) == (255, 0, 0, 255)
    assert found.getpixel((4, 0))[3] == found.getpixel((9, 9))[3] == 0


def test_every_pixel_of_a_tile_is_visible():
    checked = np.zeros((2, 2, 3), np.uint8)
    checked[0, 1] = 255
    found = np.asarray(Image.open(io.BytesIO(sheet([checked], 1, 8))))
    assert (found[:4, 4:, :3] == 255).all()
    assert found[..., :3].sum() == 4 * 4 * 3 * 255


def test_photos_lie_close_together():
    found = Image.open(io.BytesIO(contact_sheet([RED, BLUE, BLUE], 2, 16)))
    assert (found.format, found.size) == ("WEBP", (32, 32))
    assert found.getpixel((8, 8))[0] > 200
    assert found.getpixel((24, 8))[2] > 200
    assert max(found.getpixel((24, 24))) < 60


def test_a_photo_is_as_large_as_was_asked_for():
    found = Image.open(io.BytesIO(photo(np.zeros((30, 30, 3), np.uint8), 50)))
    assert (found.format, found.size) == ("WEBP", (50, 50))
