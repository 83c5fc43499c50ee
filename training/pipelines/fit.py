"""Training's table of contents."""

import time
from dataclasses import dataclass
from pathlib import Path

from service.artifact import Artifact
from training.backbones import registry as backbones
from training.config import finetune_config as plan
from training.config.recipe import Recipe
from training.finetuning import loggers as trackers
from training.packaging import quantize as quantise
from training.packaging import writer as package
from training.pipelines import evaluate as appraise
from training.report import collect as telling
from training.report import render as report
from training.results import Evaluation, points
from training.runs import latest
from training.runs import lifecycle as runs
from training.runs.run_folder import PACKAGE, to_json
from training.runtime import atomic_files as durable
from training.runtime.progress import duration
from training.strategies import auto as ladder
from training.strategies import hpo as search
from training.strategies.auto import Climb
from training.strategies.context import prepare
from training.strategies.trained_model import Trained
from training.visualization import thumbnails


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    run: Path
    artifact: Artifact
    climbed: Climb
    evaluation: Evaluation
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
            "report": str(self.run / report.NAME),
            "strategy": manifest.strategy,
            "backbone": manifest.backbone.name,
            "labels": list(manifest.labels),
            "test": test.model_dump(),
            "validation": {"accuracy": validation.accuracy, "n": validation.n},
            "metrics": {name: metric.model_dump() for name, metric in self.evaluation.metrics.items()},
            "seconds": round(self.seconds, 2),
            "rungs": [rung.model_dump() for rung in self.climbed.rungs],
        }
        if gain := self.trained.gain:
            facts["gain_over_probe"] = dict(zip(("difference", "low", "high"), gain, strict=True))
        return facts


def fit(data: Path, out: Path | None, recipe: Recipe, resume: bool = False, like: Path | None = None) -> Result:
    """Learns from labelled images; leaves everything about the run, and the package, in `out`.

    Args:
        resume: go on with what `out` holds.
        like: an earlier run, whose splits and decisions are repeated.

    Raises:
        BackboneError, DatasetError, RunError, ArtifactError, OSError: with what to do about it.
    """
    begun = time.monotonic()
    plan.check(recipe)
    search.check(recipe)
    trackers.require(recipe.tracker)
    quantise.require(recipe.int8)
    backbones.choose(recipe.backbone, recipe.weights)  # before a folder is made for a name that does not exist
    with runs.opened(out, data, recipe, resume, like) as folder:
        ground = prepare(data, folder, recipe)
        pictures = thumbnails.pictures(ground.dataset, ground.near) if recipe.thumbnails else None

        def publish(trained: Trained) -> Artifact:
            artifact = package.write(
                trained,
                ground.dataset,
                ground.splits,
                runs.name_of(data),
                folder.path / PACKAGE,
                pictures,
                recipe.int8,
            )
            latest.choose(folder.path)
            return artifact

        climbed = ladder.climb(ground, begun, publish)
        artifact = publish(climbed.trained)
        evaluation = appraise.network(ground, climbed, artifact)
        durable.write(folder.path / "ladder.json", to_json([rung.model_dump() for rung in climbed.rungs]))
        durable.write(folder.path / "evaluation.json", to_json(evaluation.model_dump(mode="json")))
        by_path = {sample.path: sample for sample in ground.dataset.samples}
        story = telling.story(data, ground, climbed, evaluation, artifact, time.monotonic() - begun)
        report.save(report.report_page(story, lambda path: ground.dataset.read(by_path[path])), folder.path / report.NAME)
        runs.finish(folder.path)
    return Result(folder.path, artifact, climbed, evaluation, time.monotonic() - begun)


def summary(result: Result) -> str:
    """The end of a run, for a person."""
    test = result.evaluation
    lines = [f"test: {appraise.headline(test)}, on {test.n:,} images that nothing was chosen by"]
    if gain := result.trained.gain:
        _, low, _ = gain
        verdict = "beats" if low > 0 else "is not shown to beat"
        lines.append(f"{result.trained.strategy} {verdict} its probe: {points(*gain)}")
    if test.curve:
        lines.append(test.curve.sentence())
    lines.append(f"report: {result.run / report.NAME}")
    lines.append(f"package: {result.artifact.path}  ({duration(result.seconds)})")
    return "\n".join(lines)
