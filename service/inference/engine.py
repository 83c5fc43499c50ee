"""The engine interface: uint8 pixels in, logits and feature vectors out.

`graft.service.inference.openvino` implements it for CPUs, `graft.service.inference.cuda` for GPUs. Normalization by mean and
standard deviation is part of the network, so callers pass raw pixels.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..manifest import Precision
from .devices import Device

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
LOGITS = "logits"
VECTORS = "vectors"


class Outputs(NamedTuple):
    """The outputs of the network for N images.

    Attributes:
        logits: float32 (N, C), before temperature scaling and softmax.
        vectors: float32 (N, D), the feature vectors.
    """

    logits: Floats
    vectors: Floats


class Engine(Protocol):
    """A loaded network. Calls may come from several threads at once.

    Attributes:
        device: where it runs.
        precision: numeric type of the computation.
        streams: number of calls that can run in parallel.
        max_batch: largest useful batch size.
    """

    device: Device
    precision: Precision
    streams: int
    max_batch: int

    def __call__(self, batch: Pixels) -> Outputs:
        """Runs a batch of RGB pixels, uint8 (N, S, S, 3)."""
        ...
