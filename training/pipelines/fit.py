"""`graft fit`: prepares the data, selects a strategy, evaluates, packages and reports. Each step is in another package."""

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
from graft.training.results import Evaluation, format_points
from graft.training.runs import latest, lifecycle
from graft.training.runs.run_folder import PACKAGE, to_json
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import format_duration
from graft.training.strategies import auto, hpo
from graft.training.strategies.auto import SelectionResult
from graft.training.strategies.context import prepare
from graft.training.strategies.trained_model import TrainedModel
from graft.training.visualization import thumbnails


@dataclass(frozen=True)
class FitResult:
    """The outcome of a run."""

    run: Path
    artifact: Artifact
    selection: SelectionResult
    evaluation: Evaluation
    seconds: float

    @property
    def trained(self) -> TrainedModel:
        """The selected network."""
        return self.selection.model

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        manifest = self.artifact.manifest
        test, validation = manifest.scores["test"], manifest.scores["validation"]
        result: dict[str, object] = {
            "run": str(self.run),
            "package": str(self.artifact.path),
            "report": str(self.run / render.REPORT_FILE),
            "strategy": manifest.strategy,
            "backbone": manifest.backbone.name,
            "labels": list(manifest.labels),
            "test": test.model_dump(),
            "validation": {"accuracy": validation.accuracy, "n": validation.n},
            "metrics": {name: metric.model_dump() for name, metric in self.evaluation.metrics.items()},
            "seconds": round(self.seconds, 2),
            "strategies": [attempt.model_dump() for attempt in self.selection.attempts],
        }
        if gain := self.trained.gain_over_probe:
            result["gain_over_probe"] = dict(zip(("difference", "low", "high"), gain, strict=True))
        return result


def fit(data: Path, out: Path | None, recipe: Recipe, resume: bool = False, replay_of: Path | None = None) -> FitResult:
    """Trains on labeled images; writes the run and the package to `out`.

    Args:
        resume: continue the run in `out`.
        replay_of: an earlier run, which provides the splits and decisions.

    Raises:
        BackboneError, DatasetError, RunError, ArtifactError, OSError: the message says what to do.
    """
    start = time.monotonic()
    finetune_config.check_augment_corruptions(recipe)
    hpo.check(recipe)
    loggers.require(recipe.tracker)
    quantize.require_nncf(recipe.int8)
    registry.resolve(recipe.backbone, recipe.weights)  # fail before a run folder is created
    with lifecycle.open_run(out, data, recipe, resume, replay_of) as folder:
        context = prepare(data, folder, recipe)
        pictures = thumbnails.package_thumbnails(context.dataset, context.reference_samples) if recipe.thumbnails else None

        def publish(trained: TrainedModel) -> Artifact:
            artifact = writer.write(
                trained,
                context.dataset,
                context.splits,
                lifecycle.run_name(data),
                folder.path / PACKAGE,
                pictures,
                recipe.int8,
            )
            latest.set_latest(folder.path)
            return artifact

        selection = auto.select_strategy(context, start, publish)
        artifact = publish(selection.model)
        evaluation = evaluate.evaluate_run(context, selection, artifact)
        atomic_files.write_text(
            folder.path / "strategies.json", to_json([attempt.model_dump() for attempt in selection.attempts])
        )
        atomic_files.write_text(folder.path / "evaluation.json", to_json(evaluation.model_dump(mode="json")))
        by_path = {sample.path: sample for sample in context.dataset.samples}
        report = collect.build_report(data, context, selection, evaluation, artifact, time.monotonic() - start)
        page = render.report_page(report, lambda path: context.dataset.read(by_path[path]))
        render.save(page, folder.path / render.REPORT_FILE)
        lifecycle.mark_finished(folder.path)
    return FitResult(folder.path, artifact, selection, evaluation, time.monotonic() - start)


def summary(result: FitResult) -> str:
    """The results of a run as text for the terminal."""
    evaluation = result.evaluation
    lines = [f"test: {evaluate.primary_metric_text(evaluation)} on {evaluation.n:,} held-out test images"]
    if gain := result.trained.gain_over_probe:
        _, low, _ = gain
        verdict = "is significantly better than" if low > 0 else "is not significantly better than"
        lines.append(f"{result.trained.strategy} {verdict} the probe: {format_points(*gain)}")
    if evaluation.curve:
        lines.append(evaluation.curve.to_text())
    lines.append(f"report: {result.run / render.REPORT_FILE}")
    lines.append(f"package: {result.artifact.path}  ({format_duration(result.seconds)})")
    return "\n".join(lines)
