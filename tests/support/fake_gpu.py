"""A machine with a GPU, without one: a stub of NVIDIA's driver, and a fake torch that checks a fake card."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent
WITHOUT_TORCH = 'import sys; sys.modules["torch"] = None  # as if it were not installed\n'


@dataclass(frozen=True)
class FakeGpu:
    """The files of the driver, of the fake torch, and of one that is not installed."""

    driver: Path
    torch: Path
    no_torch: Path

    def variables(self, card: str = "works", torch: bool = True) -> dict[str, str]:
        """Environment variables for a process on this machine.

        Args:
            card: how the card behaves, see `fake_torch`; "real torch" for the installed torch.
            torch: whether torch is installed.
        """
        paths = [str(self.torch if torch else self.no_torch)] * (card != "real torch")
        inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if os.environ.get(name)}
        return {
            "LD_LIBRARY_PATH": os.pathsep.join([str(self.driver), *filter(None, [inherited.get("LD_LIBRARY_PATH")])]),
            "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [inherited.get("PYTHONPATH")])]),
            "FAKE_CARD": card,
        }


def make_gpu(folder: Path) -> FakeGpu:
    """Compiles the driver; skips the test if there is no compiler."""
    gpu = FakeGpu(*(folder / name for name in ("driver", "with-torch", "without-torch")))
    if not (compiler := shutil.which("cc")):
        pytest.skip("needs a C compiler (cc), for a stub of NVIDIA's driver")
    gpu.driver.mkdir()
    command = [compiler, "-shared", "-fPIC", "-o", gpu.driver / "libcuda.so.1", SUPPORT / "stub_driver.c"]
    subprocess.run(command, check=True)
    (gpu.torch / "torch").mkdir(parents=True)
    shutil.copyfile(SUPPORT / "fake_torch.py", gpu.torch / "torch" / "__init__.py")
    (gpu.torch / "torch" / "version.py").write_text("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n")
    gpu.no_torch.mkdir()
    (gpu.no_torch / "sitecustomize.py").write_text(WITHOUT_TORCH)
    return gpu
