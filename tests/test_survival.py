"""Killed at any moment, a fine-tuning goes on as if nothing had happened."""

import csv
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from service import artifact

ROOT = Path(__file__).parent.parent
CHOICES = ["--strategy", "finetune", "--epochs", "3", "--input-size", "32", "--batch-size", "8", "--augment", "none"]
RATES = ["--head-rate", "1e-2", "--backbone-rate", "1e-5", "--label-smoothing", "0", "--dropout", "0"]

# Importing takes longer than learning here; so one process imports, computes nothing, and is forked for each fit.
NURSERY = """
import json, os, sys
import sklearn.linear_model, threadpoolctl, safetensors.torch, timm, torch.onnx, openvino
import training.export, training.extractor, training.learning, training.rungs, training.run
from training.__main__ import main

print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(order["folder"])
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (0, 1, 2):
            os.dup2(said, stream)
        os._exit(main(order["words"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Nursery:
    """Starts `graft` as children of a process that has imported everything."""

    process: subprocess.Popen[str]

    def run(self, folder: Path, *words: str, kill_after_s: float | None = None) -> int:
        """The exit code of `graft WORDS`; -9 if it was killed before it ended."""
        self.process.stdin.write(json.dumps({"folder": str(folder), "words": words}) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill_after_s is not None and not select.select([self.process.stdout], [], [], kill_after_s)[0]:
            os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody disturbed, and how long it took."""

    photos: Path
    run: Path
    seconds: float


@pytest.fixture(scope="module")
def nursery(cache: Path) -> Iterator[Nursery]:
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings, bufsize=1
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process)
        process.stdin.close()


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
            done = max(done, sum(line.startswith("epoch ") for line in said.splitlines()) + kept)
            kept = epochs_kept(run)
            assert kept >= done - 1
        assert_equal(unbroken.run, run)
        assert not list(run.rglob(".*"))


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
