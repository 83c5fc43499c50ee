import pytest
import torch

from graft.training.backbones.onnx_export import means


def test_two_cells_become_three_means_by_counting_twice():
    assert means(2, 3).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]


@pytest.mark.parametrize(("n", "wanted"), [(4, 7), (11, 6), (9, 3), (5, 1), (6, 6)])
def test_means_are_those_of_torch(n: int, wanted: int):
    maps = torch.rand(2, 3, n, n)
    found = means(n, wanted) @ maps @ means(n, wanted).T
    assert torch.allclose(found, torch.nn.functional.adaptive_avg_pool2d(maps, wanted), atol=1e-6)
