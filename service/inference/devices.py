"""The devices that this process may use: its CPUs and CUDA devices."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ..settings import DeviceSetting
from .cuda_check import CudaCheck, adopt, check_cuda

Device = Literal["cpu", "cuda"]  # in torch's words

_warned_of: set[str] = set()  # problems of the GPU, so that one command warns once


class DeviceError(ValueError):
    """The requested device cannot be used; the message says why."""


def _print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def resolve_device(setting: DeviceSetting, warn: Callable[[str], object] = _print_warning) -> Device:
    """The device to use: "auto" is CUDA if torch can compute on it, else the CPU.

    Args:
        warn: called with the reason if "auto" does not use a GPU that is there; once for each reason in a process.

    Raises:
        DeviceError: for "cuda" if it cannot be used.
    """
    if setting == "cpu":
        return "cpu"
    check = check_cuda()
    if not check.problem:
        return "cuda"
    if setting == "cuda":
        raise DeviceError(f"device cuda: {check.problem}. Use auto or cpu.")
    if not check.is_absent and check.problem not in _warned_of:
        _warned_of.add(check.problem)
        warn(f"the CPU is used, not the GPU: {check.problem}")
    return "cpu"


def adopt_check(check: CudaCheck) -> None:
    """Takes over what a parent process has found about the GPU, and has warned of."""
    adopt(check)
    _warned_of.add(check.problem)


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
