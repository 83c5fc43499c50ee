"""Training's table of contents, and the folder that a run leaves."""

import csv
import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from service.artifact import Artifact, Score
from service.model import Model
from service.preprocess import ImageError, dimensions
from training import backbones, graphs, ladder, package
from training.audit import settled
from training.dataset import Dataset, DatasetError, describe, scan
from training.evaluate import score
from training.graphs import Exported
from training.ladder import Trained
from training.progress import duration, say
from training.recipe import Recipe
from training.splits import Splits, split

RUNS = Path("runs")


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    run: Path
    artifact: Artifact
    trained: Trained
    seconds: float

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        manifest = self.artifact.manifest
        test, validation = manifest.scores["test"], manifest.scores["validation"]
        facts: dict[str, object] = {
            "run": str(self.run),
            "package": str(self.artifact.path),
            "strategy": manifest.strategy,
            "backbone": manifest.backbone.name,
            "labels": list(manifest.labels),
            "test": test.model_dump(),
            "validation": {"accuracy": validation.accuracy, "n": validation.n},
            "seconds": round(self.seconds, 2),
        }
        if self.trained.gain:
            facts["gain_over_probe"] = dict(zip(("difference", "low", "high"), self.trained.gain, strict=True))
        return facts


def fit(data: Path, run: Path | None, recipe: Recipe) -> Result:
    """Learns from a folder or zip of labelled images; leaves everything about the run, and the package, in `run`.

    Raises:
        BackboneError, DatasetError, ArtifactError, OSError: with what to do about it.
    """
    begun = time.monotonic()
    choice = backbones.choose(recipe.backbone, recipe.weights)
    run = run or _fresh(data)
    _check_writable(run)
    dataset = scan(data)
    say(describe(dataset))
    dataset, dropped = settled(dataset, recipe.drop_duplicates)
    splits = split(dataset, recipe.seed)
    run.mkdir(parents=True, exist_ok=True)
    recipe.save(run / "recipe.yaml")
    exported = graphs.export(choice, recipe.input_size, _median_side(dataset, splits), recipe.fit)
    features, splits, skipped = ladder.readable(dataset, splits, exported, recipe)
    _record(run, dataset, splits, {path: "duplicate" for f in dropped for path in f.drop} | skipped)
    say(_plan(splits, exported, features.computed))
    if recipe.strategy == "auto":
        say("strategy: probe (auto); --strategy finetune trains the whole network from there")
    probed = ladder.probe(features, splits, recipe)
    trained = ladder.finish_probe(probed, exported, splits)
    if recipe.strategy == "finetune":
        say(f"probe: {_shown(trained.scores['validation'])} of validation")
        trained = ladder.finetune(dataset, splits, exported, probed, recipe, run)
    artifact = package.write(trained, dataset, splits.validation, _name(data), run / "package")
    _point_latest(run)
    return Result(run, artifact, trained, time.monotonic() - begun)


def summary(result: Result) -> str:
    """The end of a run, for a person."""
    manifest = result.artifact.manifest
    test = manifest.scores["test"]
    lines = [f"test: {_shown(test)} right, on {test.n:,} images that nothing was chosen by"]
    if result.trained.gain:
        difference, low, high = (100 * value for value in result.trained.gain)
        verdict = "beats" if low > 0 else "is not shown to beat"
        lines.append(f"fine-tuning {verdict} its probe: {difference:+.1f} points ({low:+.1f} to {high:+.1f})")
    lines.append(f"package: {result.artifact.path}  ({duration(result.seconds)})")
    return "\n".join(lines)


def _shown(score: Score) -> str:
    return f"{score.accuracy:.1%} ({score.low:.1%} to {score.high:.1%})"


def _fresh(data: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    run, number = RUNS / f"{_name(data)}-{stamp}", 1
    while run.exists():
        number += 1
        run = RUNS / f"{_name(data)}-{stamp}-{number}"
    return run


def _name(data: Path) -> str:
    return data.resolve().stem or "model"


def _check_writable(run: Path) -> None:
    """Raises OSError before anything is computed, and leaves no folder behind if the data turn out to be unusable."""
    existing = next(folder for folder in (run, *run.resolve().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, "The run's folder cannot be written", str(existing))


def _median_side(dataset: Dataset, splits: Splits) -> int:
    """The typical shorter side, in pixels, of the images to learn from."""
    sides = []
    for sample in splits.train[:101]:
        with suppress(ImageError):  # the pass over all images will name it
            sides.append(min(dimensions(dataset.read(sample))))
    if not sides:
        raise DatasetError("None of the first images can be read. graft fit reads JPEG, PNG, WebP, GIF and BMP.")
    return sorted(sides)[len(sides) // 2]


def _plan(splits: Splits, exported: Exported, computed: int) -> str:
    counts = ", ".join(f"{len(samples):,} {name}" for name, samples in splits.named().items())
    cached = "" if computed else "; features were cached"
    return f"{counts}; {exported.backbone.name} at {exported.preprocessing.crop} pixels{cached}"


def _record(run: Path, dataset: Dataset, splits: Splits, left_out: dict[str, str]) -> None:
    """`splits.csv`: which image went where, by content."""
    with (run / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "sha256"])
        for name, samples in splits.named().items():
            for sample in samples:
                writer.writerow([sample.path, dataset.labels[sample.label], name, sample.digest.hex()])
        for path, reason in sorted(left_out.items()):
            writer.writerow([path, "", f"left out: {reason}", ""])


def _point_latest(run: Path) -> None:
    """`runs/latest` leads to the newest run that has a package; that is what `bentoml serve` serves."""
    RUNS.mkdir(exist_ok=True)
    beside = RUNS / f".latest-{os.getpid()}"
    beside.unlink(missing_ok=True)
    beside.symlink_to(os.path.relpath(run, RUNS), target_is_directory=True)
    os.replace(beside, RUNS / "latest")


def evaluate(model: Model, data: Path) -> Score:
    """A package's score on labelled images; where they come in two parts, on the held-out one.

    Raises:
        DatasetError: if the data name a label that the package does not know, or a file is unreadable.
    """
    dataset = scan(data)
    samples = tuple(sample for sample in dataset.samples if sample.part == "test") or dataset.samples
    known = {label: index for index, label in enumerate(model.manifest.labels)}
    if unknown := sorted(set(dataset.labels) - set(known)):
        raise DatasetError(f"The package knows no {', '.join(map(repr, unknown))}; it knows {', '.join(known)}.")
    labels = np.array([known[dataset.labels[sample.label]] for sample in samples])
    return score(ladder.answers(model.engine, dataset, samples, model.manifest.preprocessing, "evaluating").logits, labels)
