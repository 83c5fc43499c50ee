"""Contact sheets of small images."""

import io

import numpy as np
from PIL import Image

from graft.training.visualization.contact_sheet import contact_sheet, square_webp, tile_sheet

RED, BLUE = (np.tile(np.array(color, np.uint8), (2, 2, 1)) for color in ([255, 0, 0], [0, 0, 255]))


def test_tiles_are_in_row_major_order_with_transparent_gaps():
    image = Image.open(io.BytesIO(tile_sheet([RED, BLUE, RED], 2, 4)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (10, 10))
    assert image.getpixel((0, 0)) == (255, 0, 0, 255)
    assert image.getpixel((9, 3)) == (0, 0, 255, 255)
    assert image.getpixel((0, 9)) == (255, 0, 0, 255)
    assert image.getpixel((4, 0))[3] == image.getpixel((9, 9))[3] == 0


def test_tiles_are_enlarged_by_nearest_neighbor():
    checked = np.zeros((2, 2, 3), np.uint8)
    checked[0, 1] = 255
    image = np.asarray(Image.open(io.BytesIO(tile_sheet([checked], 1, 8))))
    assert (image[:4, 4:, :3] == 255).all()
    assert image[..., :3].sum() == 4 * 4 * 3 * 255


def test_contact_sheet_has_no_gaps():
    image = Image.open(io.BytesIO(contact_sheet([RED, BLUE, BLUE], 2, 16)))
    assert (image.format, image.size) == ("WEBP", (32, 32))
    assert image.getpixel((8, 8))[0] > 200
    assert image.getpixel((24, 8))[2] > 200
    assert max(image.getpixel((24, 24))) < 60


def test_photo_has_the_requested_size():
    image = Image.open(io.BytesIO(square_webp(np.zeros((30, 30, 3), np.uint8), 50)))
    assert (image.format, image.size) == ("WEBP", (50, 50))
