"""Training's table of contents."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.artifact import Artifact, Score
from service.model import Model
from training import backbones, durable, ladder, package, rungs, runs
from training.dataset import DatasetError, scan
from training.evaluate import score
from training.folder import PACKAGE
from training.ground import prepare
from training.ladder import Climb
from training.progress import duration
from training.recipe import Recipe
from training.rungs import Trained
from training.story import Rung


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    run: Path
    artifact: Artifact
    climbed: Climb
    seconds: float

    @property
    def trained(self) -> Trained:
        """The network that was kept."""
        return self.climbed.trained

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
            "rungs": [rung.model_dump() for rung in self.climbed.rungs],
        }
        if gain := self.trained.gain:
            facts["gain_over_probe"] = dict(zip(("difference", "low", "high"), gain, strict=True))
        return facts


def fit(data: Path, out: Path | None, recipe: Recipe, resume: bool = False, like: Path | None = None) -> Result:
    """Learns from a folder or zip of labelled images; leaves everything about the run, and the package, in `out`.

    Args:
        resume: go on with what `out` holds.
        like: an earlier run, whose splits and decisions are repeated.

    Raises:
        BackboneError, DatasetError, RunError, ArtifactError, OSError: with what to do about it.
    """
    begun = time.monotonic()
    backbones.choose(recipe.backbone, recipe.weights)  # before a folder is made for a name that does not exist
    with runs.opened(out, data, recipe, resume, like) as folder:
        ground = prepare(data, folder, recipe)

        def publish(trained: Trained) -> Artifact:
            artifact = package.write(
                trained, ground.dataset, ground.splits.validation, runs.name_of(data), folder.path / PACKAGE
            )
            runs.point_latest(folder.path)
            return artifact

        climbed = ladder.climb(ground, begun, publish)
        _tell(folder.path, climbed.rungs)
        artifact = publish(climbed.trained)
        runs.finish(folder.path)
    return Result(folder.path, artifact, climbed, time.monotonic() - begun)


def summary(result: Result) -> str:
    """The end of a run, for a person."""
    manifest = result.artifact.manifest
    test = manifest.scores["test"]
    lines = [f"test: {_shown(test)} right, on {test.n:,} images that nothing was chosen by"]
    if gain := result.trained.gain:
        difference, low, high = (100 * value for value in gain)
        verdict = "beats" if low > 0 else "is not shown to beat"
        lines.append(f"fine-tuning {verdict} its probe: {difference:+.1f} points ({low:+.1f} to {high:+.1f})")
    lines.append(f"package: {result.artifact.path}  ({duration(result.seconds)})")
    return "\n".join(lines)


def _shown(score: Score) -> str:
    return f"{score.accuracy:.1%} ({score.low:.1%} to {score.high:.1%})"


def _tell(run: Path, story: tuple[Rung, ...]) -> None:
    """`ladder.json`: which rungs were climbed, and why the one that was kept was kept."""
    content = json.dumps([rung.model_dump() for rung in story], indent=2, ensure_ascii=False)
    durable.write(run / "ladder.json", content + "\n")


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
    return score(rungs.answers(model.engine, dataset, samples, model.manifest.preprocessing, "evaluating"), labels)
