"""Decoding mutated images raises no exception but ImageError."""

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
    """Run the fuzzer and return its output; fail if it found something."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "support" / "fuzz_decode.py"),
        f"-seed={SEED}",
        "-timeout=10",
        "-rss_limit_mb=1500",
    ]
    command += ["-max_len=16384", f"-artifact_prefix={folder}/", *arguments, str(folder / "seeds")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # Run through a shell that forks: on Linux, the peak memory of the starting process counts for the program.
    shell = ["sh", "-c", '"$@"; exit "$?"', "sh"]
    result = subprocess.run([*shell, *command], cwd=folder, env=environment, capture_output=True, check=False, timeout=500)
    output = (result.stdout + result.stderr).decode(errors="replace")
    assert result.returncode == 0, f"to repeat: {' '.join(command)}\n{output[-3000:]}"
    return output


def n_runs(output: str) -> int:
    [number] = re.findall(r"^Done (\d+) runs? in", output, re.MULTILINE)
    return int(number)


def test_short_run_finds_nothing(tmp_path):
    assert n_runs(fuzz(tmp_path, "-runs=5000")) >= 5000


@pytest.mark.nightly
def test_one_minute_run_finds_nothing(tmp_path):
    assert n_runs(fuzz(tmp_path, "-max_total_time=60")) >= 20_000


def test_fuzzer_detects_an_unexpected_exception(tmp_path):
    """Checks the harness: an unexpected exception in Pillow must end the run."""
    (tmp_path / "sitecustomize.py").write_text(
        "from PIL import ImageFile\nImageFile.ImageFile.load = lambda self: {}['nothing']\n", encoding="utf-8"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, str(ROOT / "tests" / "support" / "fuzz_decode.py"), "-runs=1000", str(tmp_path / "seeds")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=500)
    assert (result.returncode != 0, b"KeyError: 'nothing'" in result.stdout + result.stderr) == (True, True)
