"""The cores and CUDA devices that this process may use."""

import ctypes
import math
import os
from functools import cache
from pathlib import Path


@cache
def cuda_devices() -> int:
    """How many CUDA devices the driver offers. Asks the driver itself, because importing torch takes seconds."""
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


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The processors that this process may really use: a container's share, not the machine's total.

    Args:
        groups: where the kernel tells a container's share of time.
    """
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(seen, _share(groups)))


def _share(groups: Path) -> float:
    """The processors' worth of time that a container gets, by `docker run --cpus` or a limit on Kubernetes.

    It sees all the machine's processors nevertheless; a thread on each would spend most of its time held up.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # control groups of version 2, of 1
        try:
            quota, period = " ".join((groups / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf
