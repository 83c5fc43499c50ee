"""Occlusion maps."""

import numpy as np

from graft.service.explain.occlusion import occlusion


def test_occlusion_finds_the_only_cell_that_matters():
    for row, column in ((2, 5), (0, 0), (7, 3)):
        cell = np.s_[7 * row : 7 * row + 7, 7 * column : 7 * column + 7]  # of 56 pixels, 8 cells
        pixels = np.zeros((56, 56, 3), np.uint8)
        pixels[cell] = 200
        drops = occlusion(lambda shown, cell=cell: float(shown[cell].mean()), pixels, np.zeros(3, np.uint8))
        expected = np.zeros((8, 8))
        expected[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 50  # a corner of a patch on it lies here
        expected[row, max(0, column - 1) : column + 2] = expected[max(0, row - 1) : row + 2, column] = 100
        expected[row, column] = 200
        assert drops.tolist() == expected.tolist()


def test_occlusion_masks_every_pixel_with_the_fill_color():
    seen = []
    occlusion(lambda shown: float(seen.append(shown) or 0), np.zeros((30, 30, 3), np.uint8), np.array([1, 2, 3], np.uint8))
    masked = np.stack(seen[1:])
    assert (len(seen), seen[0].any()) == (82, False)
    assert masked.any(axis=(0, 3)).all()
    assert masked.any(axis=(1, 2, 3)).all()
    assert {tuple(pixel) for pixel in np.unique(masked.reshape(-1, 3), axis=0).tolist()} == {(0, 0, 0), (1, 2, 3)}


def test_occlusion_is_negative_where_the_score_rises():
    drops = occlusion(lambda shown: float(shown.sum()), np.zeros((16, 16, 3), np.uint8), np.ones(3, np.uint8))
    assert (drops[1:-1, 1:-1] == -48).all()
    assert drops[0, 0] == -27  # patches over the edge cover less
