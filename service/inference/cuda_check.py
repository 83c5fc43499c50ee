"""Whether this machine's GPU can be used, found out at most once in a process. Imports no torch, and starts no driver.

`graft.service.inference.cuda_probe` asks the driver and torch in a process of its own: a broken driver may hang or crash, and a
process that has started it cannot fork workers that use it.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

PROBE = Path(__file__).with_name("cuda_probe.py")
TIMEOUT_S = 60.0  # importing torch from a slow disk and starting the driver of eight cards take half of it
KILL_S = 5.0
HIDDEN = "CUDA_VISIBLE_DEVICES hides all CUDA devices"
ABSENT = "this machine has no CUDA device, or no NVIDIA driver; nvidia-smi lists them"


@dataclass(frozen=True)
class CudaCheck:
    """The first CUDA device, and whether it can be used.

    Attributes:
        problem: why no device can be used, as a clause; "" if one can.
        is_absent: whether there is none, or `CUDA_VISIBLE_DEVICES` hides all: then nobody expects that one is used.
        n_devices: number of devices that the driver shows.
        name, capability, driver: of the first one, such as "8.6" and "570.86.15 (CUDA 12.8)"; "" if unknown.
        memory_bytes: of the first one; 0 if unknown.
    """

    problem: str = ""
    is_absent: bool = False
    n_devices: int = 0
    name: str = ""
    capability: str = ""
    memory_bytes: int = 0
    driver: str = ""


_lock = threading.Lock()
_known: CudaCheck | None = None


def check_cuda() -> CudaCheck:
    """The device that torch can use in this process, or why there is none. The first call may take seconds."""
    global _known
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return CudaCheck(HIDDEN, is_absent=True)
    with _lock:
        if _known is None:
            _known = _look()
        return _known


def known_check() -> CudaCheck | None:
    """What was found in this process; None if nobody has asked."""
    return _known


def adopt(check: CudaCheck | None) -> None:
    """Takes over what another process has found; None: look at the next call."""
    global _known
    with _lock:
        _known = check


def _look() -> CudaCheck:
    if not _has_driver():
        return CudaCheck(ABSENT, is_absent=True)
    problem = _torch_problem()
    found = _probe(with_torch=not problem)
    if not found.problem and not found.n_devices:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        absent = ABSENT if visible is None else f"CUDA_VISIBLE_DEVICES={visible} names no CUDA device of this machine"
        return CudaCheck(absent, is_absent=True)
    return CudaCheck(**(vars(found) | {"problem": found.problem or problem}))


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _torch_problem() -> str:
    """Why torch cannot use any CUDA device, as far as its files tell; "" if they do not."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "torch is not installed"
    source = Path(spec.origin).with_name("version.py")  # says `cuda: Optional[str] = None` in a build for the CPU
    if source.is_file() and re.search(r"^cuda\b.*=\s*None\s*$", source.read_text(encoding="utf-8"), re.MULTILINE):
        return "the installed torch is a build without CUDA"
    return ""


def _probe(with_torch: bool) -> CudaCheck:
    """What the probe prints, or how it fails."""
    command = [sys.executable, "-P", str(PROBE), *["torch"] * with_torch]
    # With the search path of this process, so that it finds the same torch.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return CudaCheck(f"the check of the GPU did not end within {TIMEOUT_S:.0f} seconds")
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # the kernel ends no process that waits in a broken driver
            process.wait(KILL_S)
    try:
        found = CudaCheck(**json.loads(output.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        return CudaCheck(f"the check of the GPU ended {_describe_exit(process.returncode)}")
    if process.returncode:
        return replace(found, problem=f"the check of {found.name or 'the GPU'} ended {_describe_exit(process.returncode)}")
    return found


def _describe_exit(exit_code: int) -> str:
    """How a process ended, as `with exit code 1` or `by SIGSEGV`."""
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        return f"by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"by signal {-exit_code}"
