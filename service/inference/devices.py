"""The devices that this process may use: its CPUs and CUDA devices."""

import ctypes
import math
import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ..settings import DeviceSetting

Device = Literal["cpu", "cuda"]  # in torch's words


class DeviceError(ValueError):
    """The requested device cannot be used; the message says why."""


def resolve_device(setting: DeviceSetting) -> Device:
    """The device to use: "auto" is CUDA if it can be used, else the CPU. Raises DeviceError for "cuda" if it cannot."""
    if setting == "cpu" or (setting == "auto" and cuda_problem()):
        return "cpu"
    if problem := cuda_problem():
        raise DeviceError(f"device cuda: {problem}. Use auto or cpu.")
    return "cuda"


def cuda_problem() -> str:
    """Why no CUDA device can be used; "" if one can. Imports no torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all CUDA devices"
    if not cuda_device_count():
        return "this machine has no CUDA device, or no NVIDIA driver; nvidia-smi lists them"
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    source = Path(spec.origin).with_name("version.py")  # says `cuda: Optional[str] = None` in a build for the CPU
    if source.is_file() and re.search(r"^cuda\b.*=\s*None\s*$", source.read_text(encoding="utf-8"), re.MULTILINE):
        return "the installed torch is a build without CUDA"
    return ""


@cache
def cuda_device_count() -> int:
    """The number of CUDA devices. Asks the driver directly, because importing torch takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def available_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of CPUs that this process may use: the container's limit, not the machine's total.

    Args:
        cgroup_root: where the kernel mounts the control groups.
    """
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(n_cpus, _cgroup_cpu_limit(cgroup_root)))


def _cgroup_cpu_limit(cgroup_root: Path) -> float:
    """The CPU limit of the container, set by `docker run --cpus` or a Kubernetes limit; infinite if there is none.

    A limited container still shows all CPUs of the machine. With a thread on each, the threads would be throttled.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroup v2, v1
        try:
            quota, period = " ".join((cgroup_root / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf
