"""The network, run: uint8 pixels in, logits and feature vectors out. OpenVINO on a CPU; on CUDA torch, in `graft.service.inference.cuda`.

The graph itself subtracts the mean and divides by the deviation, so nobody downstream can forget to.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..artifact import Precision

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
LOGITS = "logits"
VECTORS = "vectors"


class Outputs(NamedTuple):
    """What the network says of N images.

    Attributes:
        logits: float32 (N, C), before the temperature and the softmax.
        vectors: float32 (N, D), what the head saw.
    """

    logits: Floats
    vectors: Floats


class Engine(Protocol):
    """A loaded network. Calls may come from several threads at once.

    Attributes:
        device: "cpu" or "cuda".
        precision: what it computes in.
        lanes: how many calls run side by side without slowing each other.
        max_batch: the most images of one call that pay off.
    """

    device: str
    precision: Precision
    lanes: int
    max_batch: int

    def __call__(self, batch: Pixels) -> Outputs:
        """The outputs for a batch, uint8 (N, S, S, 3) in RGB."""
        ...
