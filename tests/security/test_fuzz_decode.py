"""Mutated images never raise anything but an ImageError."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris is not installed; it exists for Linux only")

ROOT = Path(__file__).parents[2]
SEED = 20260101


def fuzz(folder: Path, *arguments: str) -> str:
    """What the fuzzer says; the test fails with it if something was found."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "fuzz_decode.py"),
        f"-seed={SEED}",
        "-timeout=10",
        "-rss_limit_mb=1500",
    ]
    command += ["-max_len=16384", f"-artifact_prefix={folder}/", *arguments, str(folder / "seeds")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # By a shell that forks: Linux counts the memory of whoever starts a program as the program's own peak.
    shell = ["sh", "-c", '"$@"; exit "$?"', "sh"]
    done = subprocess.run([*shell, *command], cwd=folder, env=environment, capture_output=True, check=False, timeout=500)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, f"again: {' '.join(command)}\n{said[-3000:]}"
    return said


def runs(said: str) -> int:
    [number] = re.findall(r"^Done (\d+) runs? in", said, re.MULTILINE)
    return int(number)


def test_a_short_run_finds_nothing(tmp_path):
    assert runs(fuzz(tmp_path, "-runs=5000")) >= 5000


@pytest.mark.nightly
def test_a_minutes_run_finds_nothing(tmp_path):
    assert runs(fuzz(tmp_path, "-max_total_time=60")) >= 20_000


def test_a_bug_would_be_found(tmp_path):
    """The harness itself: an image that makes Pillow raise what nobody expects must end the run."""
    (tmp_path / "sitecustomize.py").write_text(
        "from PIL import ImageFile\nImageFile.ImageFile.load = lambda self: {}['nothing']\n", encoding="utf-8"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, str(ROOT / "tests" / "support" / "fuzz_decode.py"), "-runs=1000", str(tmp_path / "seeds")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=500)
    assert (done.returncode != 0, b"KeyError: 'nothing'" in done.stdout + done.stderr) == (True, True)
