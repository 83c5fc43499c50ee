"""A script that finds out whether torch can compute on this machine's GPU; prints the fields of a `CudaCheck` as JSON.

A process of its own, because a broken driver may hang or crash the process that calls it. It imports nothing of Graft, and
torch only if its argument is `torch`, because that takes seconds.
"""

import ctypes
import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NO_DEVICE, STUB_LIBRARY = 100, 34  # results of cuInit; a toolkit has a stub of the driver, to link against
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
KERNEL_MODULE = Path("/sys/module/nvidia/version")
MIN_FREE_BYTES = 2**28  # what a small network needs, besides the libraries
TOLERANCE = 1.0  # of sums of about 1,000; a kernel may transform the numbers, and round them

Capability = tuple[int, int]  # major, minor


def main(arguments: Sequence[str]) -> None:
    """Asks the driver, and then torch if `arguments` say so. The last line holds; the first remains if torch crashes."""
    facts = ask_driver()
    print(json.dumps(facts), flush=True)
    if facts["n_devices"] and "torch" in arguments:
        major, minor = map(int, facts["capability"].split("."))
        print(json.dumps(facts | {"problem": _import_and_check(facts["name"], (major, minor))}))


def ask_driver() -> dict[str, Any]:
    """The number of CUDA devices, and the first of them; or why the driver does not start."""
    facts: dict[str, Any] = {"problem": "", "n_devices": 0}
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return facts
    if result := driver.cuInit(0):
        if result not in (NO_DEVICE, STUB_LIBRARY):
            facts["problem"] = f"the NVIDIA driver does not start: {_error_text(driver, result)}"
        return facts
    n_devices, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(n_devices))
    if not n_devices.value:
        return facts
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    name, n_bytes = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(n_bytes), device)
    return facts | {
        "n_devices": n_devices.value,
        "name": name.value.decode(errors="replace"),
        "capability": _dotted((_attribute(driver, device, MAJOR), _attribute(driver, device, MINOR))),
        "memory_bytes": n_bytes.value,
        "driver": _driver_text(version.value),
    }


def _attribute(driver: Any, device: Any, number: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value


def _error_text(driver: Any, result: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(result, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode(errors='replace')} (error {result})"


def _driver_text(cuda_version: int) -> str:
    """`570.86.15 (CUDA 12.8)`: the version of the driver, and the newest CUDA that it supports."""
    cuda = f"CUDA {cuda_version // 1000}.{cuda_version % 1000 // 10}"
    try:
        return f"{KERNEL_MODULE.read_text(encoding='utf-8').strip()} ({cuda})"
    except OSError:
        return cuda


def _import_and_check(name: str, capability: Capability) -> str:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation may raise anything
        return f"the installed torch cannot be imported: {_first_line(error)}"
    return torch_problem(torch, name, capability)


def torch_problem(torch: Any, name: str, capability: Capability) -> str:
    """Why torch cannot compute on the first CUDA device, as a clause; "" if it can.

    Args:
        torch: the module.
        name, capability: of the device.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    if not is_available:
        return f"torch cannot use {name}{_reason(caught)}"
    built_for = torch.cuda.get_arch_list()
    if not is_supported(capability, built_for):
        capabilities = _listed(_architectures(built_for))
        return f"{name} has compute capability {_dotted(capability)}, and the installed torch is built for {capabilities}"
    try:
        expected, found = _convolve(torch, "cpu"), _convolve(torch, "cuda")
        free_bytes, _ = torch.cuda.mem_get_info()
    except Exception as error:  # noqa: BLE001 - whatever a broken driver raises
        if re.search("out of memory|ALLOC_FAILED", str(error)):
            return f"the memory of {name} is full"
        return f"a convolution on {name} fails: {_first_line(error)}"
    if not all(abs(one - other) <= TOLERANCE for one, other in zip(expected, found, strict=True)):  # NaN is wrong too
        return f"a convolution on {name} gives wrong numbers"
    if free_bytes < MIN_FREE_BYTES:
        return f"the memory of {name} is nearly full: {free_bytes // 2**20} MiB are free"
    return ""


def is_supported(capability: Capability, architectures: Sequence[str]) -> bool:
    """Whether code for some of the architectures, such as sm_86, runs on a device; True if none are known.

    sm_86 runs on 8.6 and 8.9, sm_90a on 9.0 only, and compute_86 is compiled for any newer device when it is loaded.
    """
    if not architectures:
        return True
    major, minor = capability
    for kind, built, suffix in _parse(architectures):
        if kind == "compute" and built <= capability:
            return True
        if kind == "sm" and built[0] == major and (built[1] == minor or (built[1] < minor and suffix != "a")):
            return True
    return False


def _architectures(architectures: Sequence[str]) -> list[str]:
    return [_dotted(built) for built in sorted({built for _, built, _ in _parse(architectures)})]


def _parse(architectures: Sequence[str]) -> list[tuple[str, Capability, str]]:
    """(`sm` or `compute`, capability, suffix) of each architecture; unknown spellings are left out."""
    matches = (re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", text) for text in architectures)
    return [(match[1], (int(match[2]), int(match[3])), match[4]) for match in matches if match]


def _convolve(torch: Any, device: str) -> list[float]:
    """A convolution of small whole numbers, so that every device and precision computes nearly the same sums."""
    pixels = (torch.arange(8 * 16 * 16, device=device) % 11).reshape(1, 8, 16, 16).float()
    weights = (torch.arange(8 * 8 * 3 * 3, device=device) % 7).reshape(8, 8, 3, 3).float()
    values: list[float] = torch.nn.functional.conv2d(pixels, weights).flatten().tolist()
    return values


def _reason(caught: Sequence[warnings.WarningMessage]) -> str:
    """The first sentence of torch's warning, which names the version of a driver that is too old."""
    if not caught:
        return ""
    text = str(caught[0].message).removeprefix("CUDA initialization: ").splitlines()[0]
    sentence = re.split(r"[.](?:\s|$)|\s*\(Triggered ", text, maxsplit=1)[0]
    return f": {sentence}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


if __name__ == "__main__":
    main(sys.argv[1:])
