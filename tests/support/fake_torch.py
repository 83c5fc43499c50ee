"""Stands in for torch where the GPU is checked: a card that works, or fails in the way that FAKE_CARD names.

`fake_gpu` copies it into a package of that name.
"""

import os
import signal
import time
import warnings
from types import SimpleNamespace
from typing import Any

CARD = os.environ.get("FAKE_CARD", "works")
OLD_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by"
    " downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx (Triggered internally at"
    " /pytorch/c10/cuda/CUDAFunctions.cpp:109.)"
)
ERRORS = {
    "full": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
    "full for cuDNN": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "broken": "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`.",
}
WRONG = {"wrong": [1.0, 2.0, 300.0], "not finite": [float("nan")] * 3}


class Values:
    """A tensor, of which only the device matters."""

    def __init__(self, device: str, values: list[float]) -> None:
        self.device, self.values = device, values

    def __mod__(self, _: int) -> "Values":
        return self

    def reshape(self, *_: int) -> "Values":
        return self

    def float(self) -> "Values":
        return self

    def flatten(self) -> "Values":
        return self

    def tolist(self) -> list[Any]:
        return self.values


def arange(_: int, device: str) -> Values:
    return Values(device, [])


def conv2d(pixels: Values, weights: Values) -> Values:
    assert pixels.device == weights.device
    if pixels.device == "cpu":
        return Values("cpu", [1.0, 2.0, 3.0])
    if CARD in ERRORS:
        raise RuntimeError(ERRORS[CARD])
    if CARD == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if CARD == "hangs":
        time.sleep(600)
    return Values("cuda", WRONG.get(CARD, [1.0, 2.0, 3.0]))


def is_available() -> bool:
    if CARD == "old driver":
        warnings.warn(OLD_DRIVER, stacklevel=2)
    return CARD not in ("old driver", "not available")


cuda = SimpleNamespace(
    is_available=is_available,
    get_arch_list=lambda: ["sm_90", "sm_100"] if CARD == "unsupported" else ["sm_75", "sm_80", "sm_90"],
    mem_get_info=lambda: ((100 if CARD == "nearly full" else 4000) * 2**20, 8 * 2**30),
)
nn = SimpleNamespace(functional=SimpleNamespace(conv2d=conv2d))

if CARD == "cannot be imported":
    raise OSError("libcudart.so.13: cannot open shared object file")
