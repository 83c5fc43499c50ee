"""What a network loses where an image is covered."""

import numpy as np

from graft.service.explain.occlusion import occlusion


def test_occlusion_finds_the_only_cell_that_matters():
    for row, column in ((2, 5), (0, 0), (7, 3)):
        place = np.s_[7 * row : 7 * row + 7, 7 * column : 7 * column + 7]  # of 56 pixels, 8 cells
        pixels = np.zeros((56, 56, 3), np.uint8)
        pixels[place] = 200
        found = occlusion(lambda shown, place=place: float(shown[place].mean()), pixels, np.zeros(3, np.uint8))
        expected = np.zeros((8, 8))
        expected[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 50  # a corner of a patch on it lies here
        expected[row, max(0, column - 1) : column + 2] = expected[max(0, row - 1) : row + 2, column] = 100
        expected[row, column] = 200
        assert found.tolist() == expected.tolist()


def test_occlusion_covers_everything_with_the_colour():
    seen = []
    occlusion(lambda shown: float(seen.append(shown) or 0), np.zeros((30, 30, 3), np.uint8), np.array([1, 2, 3], np.uint8))
    covered = np.stack(seen[1:])
    assert (len(seen), seen[0].any()) == (82, False)
    assert covered.any(axis=(0, 3)).all()
    assert covered.any(axis=(1, 2, 3)).all()
    assert {tuple(pixel) for pixel in np.unique(covered.reshape(-1, 3), axis=0).tolist()} == {(0, 0, 0), (1, 2, 3)}


def test_occlusion_of_what_rises_is_negative():
    found = occlusion(lambda shown: float(shown.sum()), np.zeros((16, 16, 3), np.uint8), np.ones(3, np.uint8))
    assert (found[1:-1, 1:-1] == -48).all()
    assert found[0, 0] == -27  # patches over the edge cover less
