"""The device that a command computes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from graft.service.inference.devices import Device, resolve_device
from graft.service.settings import DeviceSetting
from graft.training.runtime.progress import log, step


def select_device(setting: DeviceSetting) -> Device:
    """As `resolve_device`, and says what takes so long, and why "auto" does not use a GPU that is there. Imports no torch.

    Raises:
        DeviceError: for "cuda" if it cannot be used.
    """
    with step("checking the GPU"):
        return resolve_device(setting, lambda reason: log(f"warning: {reason}"))


@contextmanager
def without_cuda(device: Device) -> Iterator[None]:
    """On the CPU, hides the GPU from Lightning and torch's optimizers: they ask it, and one that is full or broken raises."""
    if device == "cuda":
        yield
        return
    import torch

    is_available = torch.cuda.is_available
    torch.cuda.is_available = lambda: False
    try:
        yield
    finally:
        torch.cuda.is_available = is_available
