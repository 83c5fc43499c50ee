"""The pooling matrix of the ONNX export."""

import pytest
import torch

from graft.training.backbones.onnx_export import pooling_matrix


def test_a_cell_can_belong_to_two_bins():
    assert pooling_matrix(2, 3).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]


@pytest.mark.parametrize(("n_cells", "n_bins"), [(4, 7), (11, 6), (9, 3), (5, 1), (6, 6)])
def test_pooling_matrix_matches_torch(n_cells: int, n_bins: int):
    maps = torch.rand(2, 3, n_cells, n_cells)
    pooled = pooling_matrix(n_cells, n_bins) @ maps @ pooling_matrix(n_cells, n_bins).T
    assert torch.allclose(pooled, torch.nn.functional.adaptive_avg_pool2d(maps, n_bins), atol=1e-6)
