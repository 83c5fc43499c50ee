"""The engine interface: uint8 pixels in, logits and feature vectors out.

`graft.service.inference.openvino` implements it for CPUs, `graft.service.inference.cuda` for GPUs. Normalization by mean and
standard deviation is part of the network, so callers pass raw pixels.
"""

import re
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..fidelity import Precision
from .devices import Device

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
LOGITS = "logits"
VECTORS = "vectors"
FAILURE = re.compile("CUDA error|cuDNN error|(CUDNN|CUBLAS)_STATUS")


class Outputs(NamedTuple):
    """The outputs of the network for N images.

    Attributes:
        logits: float32 (N, C), before temperature scaling and softmax.
        vectors: float32 (N, D), the feature vectors.
    """

    logits: Floats
    vectors: Floats


class DeviceFailed(RuntimeError):
    """The device can no longer compute, and will not until this process has ended: most CUDA errors stay for ever."""

    @classmethod
    def of(cls, error: Exception) -> "DeviceFailed":
        """The failure that an error of torch means, with the first line of its text."""
        return cls(first_line(error))


def first_line(error: Exception) -> str:
    """The first line of an error's text: those of torch go on with advice for programmers."""
    return (str(error).splitlines() or ["unknown error"])[0]


def device_failure(error: Exception) -> DeviceFailed | None:
    """The failure of a device that an engine's error means; None for any other. Imports no torch.

    Errors of torch are known by name and by text: those of cuDNN and cuBLAS are plain RuntimeErrors.
    """
    if isinstance(error, DeviceFailed):
        return error
    names, text = {kind.__name__ for kind in type(error).__mro__}, str(error)
    is_failure = "AcceleratorError" in names or FAILURE.search(text)
    if not is_failure or "OutOfMemoryError" in names:
        return None
    return DeviceFailed.of(error)


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
        """Runs a batch of RGB pixels, uint8 (N, S, S, 3). Raises DeviceFailed if the device has failed."""
        ...
