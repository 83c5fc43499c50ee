"""Training's table of contents."""

import time
from dataclasses import dataclass
from pathlib import Path

from graft.service.artifact import Artifact
from graft.training.backbones import registry
from graft.training.config import finetune_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning import loggers
from graft.training.packaging import quantize, writer
from graft.training.pipelines import evaluate
from graft.training.report import collect, render
from graft.training.results import Evaluation, points
from graft.training.runs import latest, lifecycle
from graft.training.runs.run_folder import PACKAGE, to_json
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import duration
from graft.training.strategies import auto, hpo
from graft.training.strategies.auto import Climb
from graft.training.strategies.context import prepare
from graft.training.strategies.trained_model import Trained
from graft.training.visualization import thumbnails


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
            "report": str(self.run / render.NAME),
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
    finetune_config.check(recipe)
    hpo.check(recipe)
    loggers.require(recipe.tracker)
    quantize.require(recipe.int8)
    registry.choose(recipe.backbone, recipe.weights)  # before a folder is made for a name that does not exist
    with lifecycle.opened(out, data, recipe, resume, like) as folder:
        ground = prepare(data, folder, recipe)
        pictures = thumbnails.pictures(ground.dataset, ground.near) if recipe.thumbnails else None

        def publish(trained: Trained) -> Artifact:
            artifact = writer.write(
                trained,
                ground.dataset,
                ground.splits,
                lifecycle.name_of(data),
                folder.path / PACKAGE,
                pictures,
                recipe.int8,
            )
            latest.choose(folder.path)
            return artifact

        climbed = auto.climb(ground, begun, publish)
        artifact = publish(climbed.trained)
        evaluation = evaluate.network(ground, climbed, artifact)
        atomic_files.write(folder.path / "ladder.json", to_json([rung.model_dump() for rung in climbed.rungs]))
        atomic_files.write(folder.path / "evaluation.json", to_json(evaluation.model_dump(mode="json")))
        by_path = {sample.path: sample for sample in ground.dataset.samples}
        story = collect.story(data, ground, climbed, evaluation, artifact, time.monotonic() - begun)
        render.save(render.report_page(story, lambda path: ground.dataset.read(by_path[path])), folder.path / render.NAME)
        lifecycle.finish(folder.path)
    return Result(folder.path, artifact, climbed, evaluation, time.monotonic() - begun)


def summary(result: Result) -> str:
    """The end of a run, for a person."""
    test = result.evaluation
    lines = [f"test: {evaluate.headline(test)}, on {test.n:,} images that nothing was chosen by"]
    if gain := result.trained.gain:
        _, low, _ = gain
        verdict = "beats" if low > 0 else "is not shown to beat"
        lines.append(f"{result.trained.strategy} {verdict} its probe: {points(*gain)}")
    if test.curve:
        lines.append(test.curve.sentence())
    lines.append(f"report: {result.run / render.NAME}")
    lines.append(f"package: {result.artifact.path}  ({duration(result.seconds)})")
    return "\n".join(lines)
