"""Adaptive average pooling as ONNX. torch's exporter writes it only where one size divides the other.

So VGG and AlexNet, whose fully connected layers want a map of one size, take images of any.
"""

from typing import Any

import torch
from torch import Tensor
from torch.onnx import symbolic_helper


@symbolic_helper.parse_args("v", "is")
def written(graph: Any, maps: Any, wanted: list[int]) -> Any:
    """The operations that make maps (N, C, h, w), h and w known, maps of the wanted size.

    Args:
        graph: torch's, that is being made.
        maps: a value of it.
    """
    *_, height, width = maps.type().varyingSizes()
    if [height, width] == wanted:
        return maps
    if wanted == [1, 1]:
        return graph.op("GlobalAveragePool", maps)
    down, across = means(height, wanted[0]), means(width, wanted[1]).T.contiguous()
    rows = graph.op("MatMul", graph.op("Constant", value_t=down), maps)
    return graph.op("MatMul", rows, graph.op("Constant", value_t=across))


def means(n: int, wanted: int) -> Tensor:
    """The matrix float (wanted, n) that makes `n` cells `wanted` means of neighbours; some cells may count twice."""
    ends = [(place * n // wanted, -(-(place + 1) * n // wanted)) for place in range(wanted)]
    cells = torch.arange(n)
    return torch.stack([((cells >= start) & (cells < end)) / (end - start) for start, end in ends])
