"""Facts about the CUDA device, and switches for its arithmetic. Each function imports torch itself: a CPU run does not need it.

Tests replace these functions to imitate a GPU.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.service.inference.devices import Device


@dataclass(frozen=True)
class Card:
    """A CUDA device.

    Attributes:
        driver: the version of NVIDIA's driver; "" if it is unknown.
        capability: compute capability, major and minor.
        memory_bytes: total memory.
    """

    name: str
    driver: str
    capability: tuple[int, int]
    memory_bytes: int


def current_card() -> Card:
    """The CUDA device that this process uses."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Card(properties.name, driver_version(), (properties.major, properties.minor), properties.total_memory)


def card_of(device: Device) -> Card | None:
    """The card that a run on this device uses; None for a CPU."""
    return current_card() if device == "cuda" else None


def driver_version(source: Path = Path("/proc/driver/nvidia/version")) -> str:
    """The version of NVIDIA's driver, such as `550.54.14`; "" if the driver does not tell it."""
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", lines[0]) if lines else None
    return found[0] if found else ""


def free_bytes() -> int:
    """Free memory of the CUDA device in bytes."""
    import torch

    return int(torch.cuda.mem_get_info()[0])


def synchronize(device: Device) -> None:
    """Waits until the device has finished, so that a time can be taken."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def machine_record(device: Device) -> dict[str, str]:
    """What a run records about its device, as text by name; for a GPU also the card, its driver and compute capability."""
    card = card_of(device)
    if card is None:
        return {"device": device}
    capability = ".".join(map(str, card.capability))
    return {"device": device, "card": card.name, "driver": card.driver, "compute capability": capability}


def describe_machine(record: dict[str, str]) -> str:
    """A recorded device as text: `a CPU`, or `NVIDIA L4 (driver 550.54.14)`."""
    if record.get("device") != "cuda":
        return "a CPU"
    driver = f" (driver {record['driver']})" if record.get("driver") else ""
    return f"{record.get('card', 'a GPU')}{driver}"


@contextmanager
def deterministic(device: Device) -> Iterator[None]:
    """On a GPU, uses deterministic algorithms where torch has them, so that a run can be resumed and repeated exactly.

    It is what Lightning's `deterministic="warn"` does, and ends with the block. cuBLAS needs CUBLAS_WORKSPACE_CONFIG too, from
    before its first call; `graft.training.runtime.isolation` sets it.
    """
    if device == "cpu":
        yield
        return
    import torch

    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # a module with properties
    previous = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark = False  # it would choose algorithms by their time, which varies
    memory.fill_uninitialized_memory = False  # it costs time, and no operation here reads uninitialized memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(previous[0], warn_only=previous[1])
        cudnn.benchmark, memory.fill_uninitialized_memory = benchmark, fill
