"""A full disk of the cache ends a command with exit code 6 and one line, and leaves nothing unfinished behind."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from graft.training.sample import SAMPLE

ROOT = Path(__file__).parents[2]
EXPORT_MIB, FEATURES_MIB = 20, 32  # the sample needs 26 MiB for the network and 9 MiB for the features

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of some MiB; skips the test without the right to."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(n_mib: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={n_mib}m", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("n_mib", [EXPORT_MIB, FEATURES_MIB])
def test_fit_ends_with_exit_code_6_and_one_line(small_disk, tmp_path, n_mib: int):
    disk = small_disk(n_mib)
    settings = {"GRAFT_CACHE": str(disk / "cache"), "TMPDIR": str(disk), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "graft", "fit", str(SAMPLE), "--strategy", "probe"]
    (tmp_path / "work").mkdir()
    result = subprocess.run(
        command, cwd=tmp_path / "work", env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert result.returncode == 6, result.stderr
    [line] = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: {disk}/cache/")
    assert "Set GRAFT_CACHE to a folder that can be written and has space" in line
    assert "Traceback" not in result.stderr
    assert list(disk.rglob(".*")) == []
    for features in disk.rglob("*.npz"):  # of a pass that was complete before the disk was full
        np.load(features)
    assert list((tmp_path / "work").rglob("package")) == []
