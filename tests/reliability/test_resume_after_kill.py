"""Killed at any moment, a fine-tuning goes on as if nothing had happened."""

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
from conftest import Nursery
from safetensors.numpy import load_file

from graft.service import artifact
from graft.training.finetuning import checkpoints

CHOICES = ["--strategy", "finetune", "--epochs", "3", "--input-size", "32", "--batch-size", "8", "--augment", "none"]
RATES = ["--head-rate", "1e-2", "--backbone-rate", "1e-5", "--label-smoothing", "0", "--dropout", "0"]


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody disturbed, and how long it took."""

    photos: Path
    run: Path
    seconds: float


@pytest.fixture(scope="module")
def unbroken(nursery: Nursery, tmp_path_factory) -> Unbroken:
    from PIL import Image

    folder = tmp_path_factory.mktemp("unbroken")
    noise = np.random.default_rng(0)
    for number in range(24):
        path = folder / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 200, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 15  # a faint tint: something to learn, not all of which the probe has learned
        Image.fromarray(pixels).save(path)
    fit = ("fit", str(folder / "photos"), *CHOICES, *RATES)
    assert nursery.run(folder, *fit, "--out", "first") == 0  # exports the backbone
    begun = time.monotonic()
    assert nursery.run(folder, *fit, "--out", "run") == 0
    return Unbroken(folder / "photos", folder / "run", time.monotonic() - begun)


def test_what_is_compared_has_learned(unbroken: Unbroken):
    losses = [float(row["val/loss"]) for row in rows(unbroken.run)]
    assert len(losses) == 4
    assert losses.index(min(losses)) > 0


def test_same_seed_gives_the_same_metrics_and_weights(unbroken: Unbroken):
    assert_equal(unbroken.run.parent / "first", unbroken.run)


def test_killed_20_times_it_ends_as_if_never_killed(nursery: Nursery, unbroken: Unbroken, tmp_path: Path):
    kill(20, nursery, unbroken, tmp_path)


@pytest.mark.nightly
def test_killed_200_times_it_ends_as_if_never_killed(nursery: Nursery, unbroken: Unbroken, tmp_path: Path):
    kill(200, nursery, unbroken, tmp_path)


def kill(times: int, nursery: Nursery, unbroken: Unbroken, folder: Path) -> None:
    """Kills runs at random moments, and resumes each until it ends."""
    seed = int(os.environ.get("GRAFT_TEST_SEED", time.time_ns() % 2**32))
    print(f"to repeat: GRAFT_TEST_SEED={seed} pytest {__file__}")
    moments, killed, number = random.Random(seed), 0, 0
    while killed < times:
        number += 1
        done = kept = 0
        words = ("fit", str(unbroken.photos), *CHOICES, *RATES, "--out", f"run-{number}", "--resume")
        run = folder / f"run-{number}"
        while code := nursery.run(folder, *words, kill_after_s=moments.uniform(0, unbroken.seconds)):
            said = (folder / "said").read_text()
            assert code == -signal.SIGKILL, said
            killed += 1
            assert_whole(run)
            done = max(done, len(re.findall(r"^epoch \d+/\d+:", said, re.MULTILINE)) + kept)
            kept = epochs_kept(run)
            assert kept >= done - 1
        assert_equal(unbroken.run, run)
        assert not list(run.rglob(".*"))


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_says_how_to_go_on_and_goes_on_exactly(
    nursery: Nursery, unbroken: Unbroken, tmp_path: Path, asked: signal.Signals, code: int
):
    words = ("fit", str(unbroken.photos), *CHOICES, *RATES, "--out", "my run")
    assert nursery.run(tmp_path, *words, interrupt=("epoch 1/3:", asked)) == code
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    assert_whole(tmp_path / "my run")
    [line] = [line for line in said.splitlines() if line.startswith("go on with: graft ")]
    assert nursery.run(tmp_path, *shlex.split(line)[4:]) == 0
    assert_equal(unbroken.run, tmp_path / "my run")


@pytest.fixture(scope="module")
def stopped(nursery: Nursery, unbroken: Unbroken, tmp_path_factory) -> Path:
    """A folder with photos/ and a run/ of them that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(unbroken.photos, folder / "photos")
    words = ("fit", "photos", *CHOICES, *RATES, "--out", "run")
    assert nursery.run(folder, *words, interrupt=("epoch 1/3:", signal.SIGTERM)) == 143
    return folder


@pytest.fixture
def again(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, to do harm to."""
    return Path(shutil.copytree(stopped, tmp_path / "again"))


def resumed(nursery: Nursery, folder: Path, *more: str) -> tuple[int, str]:
    """The exit code of going on, and what was said."""
    code = nursery.run(folder, "fit", "photos", "--out", "run", "--resume", *more)
    said = (folder / "said").read_text()
    assert "Traceback" not in said
    return code, said


def test_without_a_good_checkpoint_it_exits_3_every_time(nursery: Nursery, again: Path):
    for path in (again / "run").rglob("*.ckpt"):
        os.truncate(path, path.stat().st_size - 1)
    for _ in range(2):
        code, said = resumed(nursery, again)
        assert code == 3
        assert "error: No checkpoint in run/finetune/checkpoints is good." in said


@pytest.mark.parametrize(
    ("choice", "row"),
    [
        (["--input-size", "64"], "--input-size 32 64"),
        (["--backbone", "tf_efficientnet_lite1"], "--backbone tf_efficientnet_lite0 tf_efficientnet_lite1"),
        (["--epochs", "9"], "--epochs 3 9"),
    ],
)
def test_going_on_with_another_choice_is_refused_with_a_table(nursery: Nursery, again: Path, choice: list[str], row: str):
    code, said = resumed(nursery, again, *choice)
    assert code == 2
    assert "error: run began with something else:" in said
    assert row in [" ".join(line.split()) for line in said.splitlines()]


def one_more(photos: Path) -> str:
    (photos / "cat/new.png").write_bytes((photos / "cat/1.png").read_bytes() + b"\0")
    return "cat/new.png not there cat, sha256"


def one_less(photos: Path) -> str:
    (photos / "cat/1.png").unlink()
    return "cat/1.png cat, sha256"


def another_image(photos: Path) -> str:
    (photos / "cat/1.png").write_bytes((photos / "cat/3.png").read_bytes() + b"\0")
    return "cat/1.png cat, sha256"


def another_label(photos: Path) -> str:
    (photos / "cat").rename(photos / "lion")
    return "cat/1.png cat, sha256"


def one_label_more(photos: Path) -> str:
    shutil.copytree(photos / "cat", photos / "lion")
    for path in (photos / "lion").iterdir():
        path.write_bytes(path.read_bytes() + b"\0" * int(path.stem))
    return "lion/1.png not there lion, sha256"


@pytest.mark.parametrize("change", [one_more, one_less, another_image, another_label, one_label_more])
def test_going_on_with_other_images_or_labels_is_refused_with_a_table(nursery: Nursery, again: Path, change):
    row = change(again / "photos")
    code, said = resumed(nursery, again)
    assert code == 2
    assert "error: run began with something else:" in said
    assert any(" ".join(line.split()).startswith(row) for line in said.splitlines()), said


def test_rates_that_ruin_it_exit_4_and_keep_the_last_good_checkpoint(nursery: Nursery, unbroken: Unbroken, tmp_path: Path):
    # The weights shrink by a hundredfold of themselves at each step: they grow, and change their sign.
    ruinous = ("--optimizer", "sgd", "--schedule", "plateau", "--warmup", "0", "--weight-decay", "10", "--batch-size", "2")
    rates = ("--head-rate", "10", "--backbone-rate", "10")
    assert nursery.run(tmp_path, "fit", str(unbroken.photos), *CHOICES, *ruinous, *rates, "--out", "run") == 4
    said = (tmp_path / "said").read_text()
    assert "error: The loss " in said
    assert "Traceback" not in said
    kept = checkpoints.newest(tmp_path / "run/finetune/checkpoints")
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
    assert not (tmp_path / "run/package").exists()


def test_full_disk_exits_6_and_keeps_the_last_good_checkpoint(nursery: Nursery, unbroken: Unbroken, tmp_path: Path):
    words = ("fit", str(unbroken.photos), *CHOICES, *RATES, "--out", "run")
    assert nursery.run(tmp_path, *words, file_bytes=20_000_000) == 6  # enough for the weights, not for their moments
    said = (tmp_path / "said").read_text()
    assert "epoch-0001.ckpt: The disk is full: " in said
    assert "Traceback" not in said
    assert_whole(tmp_path / "run")
    assert checkpoints.newest(tmp_path / "run/finetune/checkpoints")["best"] == 0
    assert nursery.run(tmp_path, *words, "--resume") == 0
    assert_equal(unbroken.run, tmp_path / "run")


def epochs_kept(run: Path) -> int:
    """How many epochs of fine-tuning need not be done again."""
    if (run / "finetune/checkpoints/best.ckpt").exists():
        return 3
    return max((int(path.stem[-4:]) for path in run.glob("finetune/checkpoints/epoch-*.ckpt")), default=0)


def assert_whole(run: Path) -> None:
    """Nothing partial lies under a final name."""
    for path in run.rglob("*"):
        if path.suffix == ".ckpt":
            promised = path.with_name(f"{path.name}.sha256").read_text().split()[0]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == promised, path
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
