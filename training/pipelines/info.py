"""`graft info`: versions, hardware and settings, to paste into a bug report. Shows no key, no user name and no home folder."""

import getpass
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from graft.service.inference import devices
from graft.service.inference.cuda_check import CudaCheck, check_cuda
from graft.service.settings import ENV_PREFIX, Settings
from graft.training.runtime.cache_dir import cache_folder

LIBRARIES = (
    "graft-vision",
    "torch",
    "torchvision",
    "timm",
    "pytorch-lightning",
    "bentoml",
    "openvino",
    "onnx",
    "numpy",
    "pillow",
    "albumentations",
    "pydantic",
)
# Flag in /proc/cpuinfo -> name; the second half is for Arm.
INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "sve": "SVE",
    "i8mm": "int8 matrix multiply",
    "bf16": "bf16",
}
MAX_CACHE_SCAN_S = 1.0
PLAIN_SETTINGS = {"GRAFT_CACHE", *(f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields)} - {"GRAFT_API_KEY"}


@dataclass(frozen=True)
class Memory:
    """Memory in bytes; None if unknown. `limit` is that of the container."""

    total: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True)
class Inference:
    """The engine that inference uses with the current settings; `error` says why there is none."""

    device: str
    engine: str
    precisions: tuple[str, ...]
    error: str | None = None


@dataclass(frozen=True)
class Info:
    """This installation and this machine.

    Attributes:
        libraries: version of each library; None if it is not installed.
        gpu: the first CUDA device, and why it cannot be used.
        cores: cores that this process may use.
        cache_complete: whether `cache_bytes` covers the whole folder; a large one is not counted to the end.
        settings: GRAFT_* environment variables; "set" stands for a value that may be secret.
    """

    python: str
    libraries: dict[str, str | None]
    system: str
    processor: str
    cores: int
    cores_total: int
    instruction_sets: tuple[str, ...]
    memory: Memory
    inference: Inference
    gpu: CudaCheck
    cache: str
    cache_bytes: int
    cache_complete: bool
    settings: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self)


def collect() -> Info:
    """Collects everything; whatever cannot be found out is left empty."""
    cpu = _read_cpuinfo()
    folder = cache_folder()
    cache_bytes, complete = _folder_bytes(folder)
    return Info(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries={name: _version(name) for name in LIBRARIES},
        system=_system(),
        processor=cpu.get("model name") or platform.processor() or platform.machine(),
        cores=devices.available_cpus(),
        cores_total=os.cpu_count() or 1,
        instruction_sets=instruction_sets(cpu.get("flags") or cpu.get("Features") or ""),
        memory=_memory(),
        inference=_inference(),
        gpu=_gpu(),
        cache=anonymize(str(folder)),
        cache_bytes=cache_bytes,
        cache_complete=complete,
        settings=settings(os.environ),
    )


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The GRAFT_* variables. The values of the API key and of unknown variables, which may be secret, are not shown."""
    return {
        name: anonymize(value) if name in PLAIN_SETTINGS else "set"
        for name, value in sorted(environment.items())
        if name.startswith(ENV_PREFIX)
    }


def anonymize(text: str) -> str:
    """Replaces the home folder in a text with `~`, and the user's name elsewhere in a path with `USER`."""
    home, user = os.path.expanduser("~").rstrip("/"), _user_name()
    if home not in ("", "~"):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return re.sub(rf"(?<=/){re.escape(user)}(?![\w.-])", "USER", text) if user else text


def instruction_sets(flags: str) -> tuple[str, ...]:
    """The instruction sets that speed up a network, from the flags in /proc/cpuinfo."""
    present = set(flags.split())
    return tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in present)


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run under an unknown user id
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _system() -> str:
    """The operating system and its kernel."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{name}, {kernel}" if name else kernel


def _read_cpuinfo() -> dict[str, str]:
    """The entries of the first core; empty on other systems than Linux."""
    first_core = _read("/proc/cpuinfo").partition("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first_core.splitlines())}


def _memory() -> Memory:
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE))
    limit = (_read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")).strip()
    total = int(kib["MemTotal"]) * 1024 if "MemTotal" in kib else None
    available = int(kib["MemAvailable"]) * 1024 if "MemAvailable" in kib else None
    # Without a limit, cgroup v1 reports a number close to 2**63.
    has_limit = limit.isdecimal() and int(limit) < (total or 2**60)
    return Memory(total, available, int(limit) if has_limit else None)


def _inference() -> Inference:
    """Loads the inference library, because only it knows what the processor supports."""
    from graft.service.inference import loader

    setting, problem = os.environ.get("GRAFT_DEVICE", "auto"), check_cuda().problem
    device: devices.Device = "cuda" if setting == "cuda" or (setting != "cpu" and not problem) else "cpu"
    engine = "PyTorch" if device == "cuda" else "OpenVINO"
    if device == "cuda" and problem:
        return Inference(device, engine, (), anonymize(problem))
    try:
        return Inference(device, engine, loader.supported_precisions(device))
    except Exception as error:  # noqa: BLE001 - a broken installation is what the bug report is about
        return Inference(device, engine, (), f"{type(error).__name__}: {anonymize(str(error))}")


def _gpu() -> CudaCheck:
    check = check_cuda()
    return replace(check, problem=anonymize(check.problem))  # the error of a library may name its file


def _folder_bytes(folder: Path) -> tuple[int, bool]:
    """The size of a folder, and whether it was counted completely within the time limit."""
    total, deadline = 0, time.monotonic() + MAX_CACHE_SCAN_S
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:  # removed meanwhile
                continue
        if time.monotonic() > deadline:
            return total, False
    return total, True


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
