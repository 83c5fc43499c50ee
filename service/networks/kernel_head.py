"""A linear head with an RBF kernel machine beside it, in torch: the same function as `graft.service.inference.head.Head`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..manifest import KernelShape


class KernelHead(nn.Module):
    """The linear head's logits plus `exp(-|axes - centers|^2) @ coefficients.T`.

    Args:
        width: D, the number of inputs.
        n_labels: C.
        shape: the number of axes and centers.
    """

    def __init__(self, width: int, n_labels: int, shape: KernelShape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_labels, width))
        self.bias = nn.Parameter(torch.zeros(n_labels))
        self.offset = nn.Parameter(torch.ones(width))
        self.projection = nn.Parameter(torch.zeros(shape.axes, width))
        self.shift = nn.Parameter(torch.zeros(shape.axes))
        self.centers = nn.Parameter(torch.zeros(shape.centers, shape.axes))
        self.coefficients = nn.Parameter(torch.zeros(n_labels, shape.centers))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits float (N, C) of inputs float (N, D)."""
        roots = inputs.sign() * ((inputs.abs() + self.offset).sqrt() - self.offset.sqrt())
        axes = F.linear(roots, self.projection, self.shift)
        squared = axes.square().sum(1, keepdim=True) + self.centers.square().sum(1) - 2 * axes @ self.centers.T
        return F.linear(inputs, self.weight, self.bias) + F.linear((-squared.clamp(min=0)).exp(), self.coefficients)
