"""Fine-tuning that is killed at any time resumes with the same result as without interruption."""

import csv
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import ForkServer
from safetensors.numpy import load_file

from graft.service import artifact
from graft.training.finetuning import checkpoints

pytestmark = pytest.mark.slow

OPTIONS = ["--strategy", "finetune", "--epochs", "3", "--input-size", "32", "--batch-size", "8", "--augment", "none"]
RATE_OPTIONS = ["--head-lr", "1e-2", "--backbone-lr", "1e-5", "--label-smoothing", "0", "--dropout", "0"]


@dataclass(frozen=True)
class ReferenceRun:
    """An uninterrupted run and its duration."""

    photos: Path
    run: Path
    seconds: float


@pytest.fixture(scope="module")
def unbroken(fork_server: ForkServer, tmp_path_factory) -> ReferenceRun:
    from PIL import Image

    folder = tmp_path_factory.mktemp("unbroken")
    noise = np.random.default_rng(0)
    for number in range(24):
        path = folder / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 200, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 40  # a faint tint: learnable, but not fully by the probe
        Image.fromarray(pixels).save(path)
    fit = ("fit", str(folder / "photos"), *OPTIONS, *RATE_OPTIONS)
    assert fork_server.run(folder, *fit, "--out", "first") == 0  # exports the backbone
    started = time.monotonic()
    assert fork_server.run(folder, *fit, "--out", "run") == 0
    return ReferenceRun(folder / "photos", folder / "run", time.monotonic() - started)


def test_reference_run_improves(unbroken: ReferenceRun):
    losses = [float(row["val/loss"]) for row in rows(unbroken.run)]
    assert len(losses) == 4
    assert losses.index(min(losses)) > 0


def test_same_seed_gives_the_same_metrics_and_weights(unbroken: ReferenceRun):
    assert_equal(unbroken.run.parent / "first", unbroken.run)


def test_run_killed_20_times_gives_the_same_result(fork_server: ForkServer, unbroken: ReferenceRun, tmp_path: Path):
    kill_and_resume(20, fork_server, unbroken, tmp_path)


@pytest.mark.nightly
def test_run_killed_200_times_gives_the_same_result(fork_server: ForkServer, unbroken: ReferenceRun, tmp_path: Path):
    kill_and_resume(200, fork_server, unbroken, tmp_path)


def kill_and_resume(n_kills: int, fork_server: ForkServer, unbroken: ReferenceRun, folder: Path) -> None:
    """Kill runs at random times and resume each until it finishes."""
    seed = int(os.environ.get("GRAFT_TEST_SEED", time.time_ns() % 2**32))
    print(f"to repeat: GRAFT_TEST_SEED={seed} pytest {__file__}")
    rng, n_killed, number = random.Random(seed), 0, 0
    while n_killed < n_kills:
        number += 1
        n_done = n_saved = 0
        arguments = ("fit", str(unbroken.photos), *OPTIONS, *RATE_OPTIONS, "--out", f"run-{number}")
        run = folder / f"run-{number}"
        while code := fork_server.run(
            folder, *arguments, *(["--resume"] if run.exists() else []), kill_after_s=rng.uniform(0, unbroken.seconds)
        ):
            output = (folder / "output").read_text()
            assert code == -signal.SIGKILL, output
            n_killed += 1
            assert_complete(run)
            n_done = max(n_done, len(re.findall(r"^epoch \d+/\d+:", output, re.MULTILINE)) + n_saved)
            n_saved = n_saved_epochs(run)
            assert n_saved >= n_done - 1
        assert_equal(unbroken.run, run)
        assert not list(run.rglob(".*"))


@pytest.mark.parametrize(("stop_signal", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run_prints_the_resume_command_and_resumes_exactly(
    fork_server: ForkServer, unbroken: ReferenceRun, tmp_path: Path, stop_signal: signal.Signals, code: int
):
    arguments = ("fit", str(unbroken.photos), *OPTIONS, *RATE_OPTIONS, "--out", "my run")
    assert fork_server.run(tmp_path, *arguments, interrupt=("epoch 1/3:", stop_signal)) == code
    output = (tmp_path / "output").read_text()
    assert "Traceback" not in output
    assert_complete(tmp_path / "my run")
    [line] = [line for line in output.splitlines() if line.startswith("resume with: graft ")]
    assert fork_server.run(tmp_path, *shlex.split(line)[3:]) == 0
    assert_equal(unbroken.run, tmp_path / "my run")


@pytest.fixture(scope="module")
def stopped(fork_server: ForkServer, unbroken: ReferenceRun, tmp_path_factory) -> Path:
    """A folder with photos/ and a run/ that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(unbroken.photos, folder / "photos")
    arguments = ("fit", "photos", *OPTIONS, *RATE_OPTIONS, "--out", "run")
    assert fork_server.run(folder, *arguments, interrupt=("epoch 1/3:", signal.SIGTERM)) == 143
    return folder


@pytest.fixture
def again(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run that a test may modify."""
    return Path(shutil.copytree(stopped, tmp_path / "again"))


def resume(fork_server: ForkServer, folder: Path, *options: str) -> tuple[int, str]:
    """Resume the run; return exit code and output."""
    code = fork_server.run(folder, "fit", "photos", "--out", "run", "--resume", *options)
    output = (folder / "output").read_text()
    assert "Traceback" not in output
    return code, output


def test_resume_without_a_valid_checkpoint_exits_3(fork_server: ForkServer, again: Path):
    for path in (again / "run").rglob("*.ckpt"):
        os.truncate(path, path.stat().st_size - 1)
    for _ in range(2):
        code, output = resume(fork_server, again)
        assert code == 3
        assert "error: All checkpoints in run/finetune/checkpoints are corrupt." in output


@pytest.mark.parametrize(
    ("choice", "row"),
    [
        (["--input-size", "64"], "--input-size 32 64"),
        (["--backbone", "tf_efficientnet_lite1"], "--backbone tf_efficientnet_lite0 tf_efficientnet_lite1"),
        (["--epochs", "9"], "--epochs 3 9"),
    ],
)
def test_resume_with_different_options_is_rejected_with_a_table(
    fork_server: ForkServer, again: Path, choice: list[str], row: str
):
    code, output = resume(fork_server, again, *choice)
    assert code == 2
    assert "error: run was started with different inputs:" in output
    assert row in [" ".join(line.split()) for line in output.splitlines()]


def add_image(photos: Path) -> str:
    (photos / "cat/new.png").write_bytes((photos / "cat/1.png").read_bytes() + b"\0")
    return "cat/new.png missing cat, sha256"


def remove_image(photos: Path) -> str:
    (photos / "cat/1.png").unlink()
    return "cat/1.png cat, sha256"


def replace_image(photos: Path) -> str:
    (photos / "cat/1.png").write_bytes((photos / "cat/3.png").read_bytes() + b"\0")
    return "cat/1.png cat, sha256"


def rename_label(photos: Path) -> str:
    (photos / "cat").rename(photos / "lion")
    return "cat/1.png cat, sha256"


def add_label(photos: Path) -> str:
    shutil.copytree(photos / "cat", photos / "lion")
    for path in (photos / "lion").iterdir():
        path.write_bytes(path.read_bytes() + b"\0" * int(path.stem))
    return "lion/1.png missing lion, sha256"


@pytest.mark.parametrize("change", [add_image, remove_image, replace_image, rename_label, add_label])
def test_resume_with_different_images_or_labels_is_rejected_with_a_table(fork_server: ForkServer, again: Path, change):
    row = change(again / "photos")
    code, output = resume(fork_server, again)
    assert code == 2
    assert "error: run was started with different inputs:" in output
    assert any(" ".join(line.split()).startswith(row) for line in output.splitlines()), output


def test_divergence_exits_4_and_keeps_the_last_good_checkpoint(fork_server: ForkServer, unbroken: ReferenceRun, tmp_path: Path):
    # Weight decay times rate is 100: each step multiplies the weights by -99, so training diverges.
    diverging = ("--optimizer", "sgd", "--schedule", "plateau", "--warmup", "0", "--weight-decay", "10", "--batch-size", "2")
    rates = ("--head-lr", "10", "--backbone-lr", "10")
    assert fork_server.run(tmp_path, "fit", str(unbroken.photos), *OPTIONS, *diverging, *rates, "--out", "run") == 4
    output = (tmp_path / "output").read_text()
    assert "error: The loss " in output
    assert "Traceback" not in output
    checkpoint = checkpoints.load_newest(tmp_path / "run/finetune/checkpoints")
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())
    assert not (tmp_path / "run/package").exists()


def test_full_disk_exits_6_and_keeps_the_last_good_checkpoint(fork_server: ForkServer, unbroken: ReferenceRun, tmp_path: Path):
    arguments = ("fit", str(unbroken.photos), *OPTIONS, *RATE_OPTIONS, "--out", "run")
    # Enough for the weights, not for the optimizer state.
    assert fork_server.run(tmp_path, *arguments, file_bytes=20_000_000) == 6
    output = (tmp_path / "output").read_text()
    assert "epoch-0001.ckpt: The disk is full: " in output
    assert "Traceback" not in output
    assert_complete(tmp_path / "run")
    assert checkpoints.load_newest(tmp_path / "run/finetune/checkpoints")["best"] == 0
    assert fork_server.run(tmp_path, *arguments, "--resume") == 0
    assert_equal(unbroken.run, tmp_path / "run")


def n_saved_epochs(run: Path) -> int:
    """Number of fine-tuning epochs saved in checkpoints."""
    if (run / "finetune/checkpoints/best.ckpt").exists():
        return 3
    return max((int(path.stem[-4:]) for path in run.glob("finetune/checkpoints/epoch-*.ckpt")), default=0)


def assert_complete(run: Path) -> None:
    """Check that no file with a final name is incomplete."""
    for path in run.rglob("*"):
        if path.suffix == ".ckpt":
            expected = path.with_name(f"{path.name}.sha256").read_text().split()[0]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected, path
        if path.suffix == ".json" and not any(part.startswith(".") for part in path.parts):
            json.loads(path.read_text())
        if path.suffix in (".csv", ".yaml"):
            assert path.read_text().endswith("\n"), path
    if (run / "package").exists():
        artifact.read(run / "package")


def assert_equal(expected: Path, run: Path) -> None:
    for before, after in zip(rows(expected), rows(run), strict=True):
        assert [float(value or 0) for value in after.values()] == pytest.approx(
            [float(v or 0) for v in before.values()], abs=1e-6
        )
    before, after = (load_file(folder / "package/weights.safetensors") for folder in (expected, run))
    assert before.keys() == after.keys()
    assert max(float(np.abs(before[name].astype(np.float64) - after[name]).max(initial=0)) for name in before) <= 1e-6


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "finetune/metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
