"""`graft fit`: prepares the data, selects a strategy, evaluates, packages and reports. Each step is in another package."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from graft.service.artifact import Artifact, read
from graft.service.manifest import PACKAGE, Calibration
from graft.training.backbones import quantization, registry
from graft.training.config import finetune_config
from graft.training.config.recipe import Recipe
from graft.training.evaluation.selective import MIN_ANSWERED
from graft.training.finetuning import loggers
from graft.training.packaging import writer
from graft.training.pipelines import evaluate, evaluation_text
from graft.training.report import collect, notebook, render
from graft.training.results import Estimate, Evaluation, StrategyAttempt, format_error, format_points
from graft.training.runs import latest, lifecycle, run_folder
from graft.training.runs.run_folder import RunError, RunFolder, to_json
from graft.training.runtime import atomic_files
from graft.training.runtime.device import select_device
from graft.training.runtime.isolation import preserved_state
from graft.training.runtime.progress import format_duration, log, step
from graft.training.strategies import auto, hpo, starting_point
from graft.training.strategies.context import check_unchanged, prepare
from graft.training.strategies.int8 import train_int8
from graft.training.strategies.trained_model import TrainedModel
from graft.training.visualization import thumbnails
from graft.training.visualization.formatting import int8_text

EVALUATION, STRATEGIES = "evaluation.json", "strategies.json"  # in a run folder


@dataclass(frozen=True)
class FitResult:
    """The outcome of a run. In a notebook it shows its metrics, strategies and confusion matrix.

    Attributes:
        run: the run folder.
        artifact: the package, verified.
        evaluation: every metric on the held-out test images.
        attempts: every strategy that was tried, in order.
        seconds: from the start of the run to its end.
        trained: the selected network; None for a run that was finished before.
    """

    run: Path
    artifact: Artifact
    evaluation: Evaluation
    attempts: tuple[StrategyAttempt, ...]
    seconds: float
    trained: TrainedModel | None = field(default=None, repr=False)

    @property
    def package(self) -> Path:
        """The package folder, for `graft.load`, `graft serve` and `bentoml serve`."""
        return self.artifact.path

    @property
    def report(self) -> Path:
        """The offline HTML report."""
        return self.run / render.REPORT_FILE

    def __repr__(self) -> str:
        return f"FitResult(run={str(self.run)!r}, {evaluation_text.primary_metric_text(self.evaluation)}, {self.seconds:.0f} s)"

    def _repr_html_(self) -> str:
        lines = summary_lines(self)
        return notebook.evaluation_fragment(lines[0], lines[1:], self.evaluation, [notebook.attempts_table(self.attempts)])

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        manifest = self.artifact.manifest
        test, validation = manifest.scores["test"], manifest.scores["validation"]
        result: dict[str, object] = {
            "run": str(self.run),
            "package": str(self.package),
            "report": str(self.report),
            "strategy": manifest.strategy,
            "backbone": manifest.backbone.name,
            "labels": list(manifest.labels),
            "test": test.model_dump() | {"n_groups": self.evaluation.n_groups},
            "validation": {"accuracy": validation.accuracy, "n": validation.n},
            "metrics": {name: metric.model_dump() for name, metric in self.evaluation.metrics.items()},
            "seconds": round(self.seconds, 2),
            "strategies": [attempt.model_dump() for attempt in self.attempts],
        }
        if gain := self.evaluation.gain_over_probe:
            result["gain_over_probe"] = gain.model_dump()
        return result


@preserved_state()
def fit(data: Path, out: Path | None, recipe: Recipe, resume: bool = False, replay_of: Path | None = None) -> FitResult:
    """Trains on labeled images; writes the run and the package to `out`.

    Args:
        out: None for a new folder in `runs/`.
        recipe: with `resume`, every option that it sets must equal the recorded one.
        resume: continue the run in `out`, or the newest unfinished run of this data. A finished run is only loaded, if its
            options and data have not changed.
        replay_of: an earlier run, which provides the splits and decisions.

    Raises:
        BackboneError, DatasetError, RunError, ArtifactError, OSError: the message says what to do.
        KeyboardInterrupt: completed epochs are saved, so that the run can be resumed.
    """
    if resume:
        out = lifecycle.find_resumable(data, out)
        recipe = run_folder.load_recipe(out, recipe.model_dump(exclude_unset=True))
        if lifecycle.is_finished(out):
            check_unchanged(data, RunFolder(out), recipe)
            log(f"{out} is finished")
            return load_result(out)
    started = time.monotonic()
    recipe, start = starting_point.resolve(recipe)
    _check_recipe(recipe)
    with lifecycle.open_run(out, data, recipe, resume, replay_of) as folder:
        context = prepare(data, folder, recipe, start)
        pictures = thumbnails.package_thumbnails(context.dataset, context.reference_samples) if recipe.thumbnails else None

        def publish(trained: TrainedModel, int8: TrainedModel | None = None) -> Artifact:
            artifact = writer.write(
                trained,
                context.dataset,
                context.splits,
                context.seen,
                lifecycle.run_name(data),
                folder.path / PACKAGE,
                pictures,
                int8,
            )
            latest.set_latest(folder.path)
            return artifact

        selection = auto.select_strategy(context, started, publish)
        artifact = publish(selection.model, train_int8(context, selection.model) if recipe.int8 else None)
        evaluation = evaluate.evaluate_run(context, selection, artifact)
        atomic_files.write_text(folder.path / STRATEGIES, to_json([attempt.model_dump() for attempt in selection.attempts]))
        atomic_files.write_text(folder.path / EVALUATION, to_json(evaluation.model_dump(mode="json")))
        by_path = {sample.path: sample for sample in context.dataset.samples}
        with step("writing the report"):
            report = collect.build_report(data, context, selection, evaluation, artifact, time.monotonic() - started)
            page = render.report_page(report, lambda path: context.dataset.read(by_path[path]))
            render.save(page, folder.path / render.REPORT_FILE)
        lifecycle.mark_finished(folder.path)
    return FitResult(folder.path, artifact, evaluation, selection.attempts, time.monotonic() - started, selection.model)


def _check_recipe(recipe: Recipe) -> None:
    """Fails before a run folder is created if an option cannot be met here."""
    select_device(recipe.device)
    finetune_config.check_augment_corruptions(recipe)
    hpo.check(recipe)
    loggers.require(recipe.tracker)
    quantization.require_nncf(recipe.int8)
    registry.resolve(recipe.backbone, recipe.weights)


def load_result(run: Path) -> FitResult:
    """The result of a finished run.

    Raises:
        ArtifactError: if its package is damaged.
        OSError: if a file of the run is missing.
        RunError: if one is damaged.
    """
    try:
        evaluation = Evaluation.model_validate_json((run / EVALUATION).read_text(encoding="utf-8"))
        recorded = json.loads((run / STRATEGIES).read_text(encoding="utf-8"))
        attempts = tuple(map(StrategyAttempt.model_validate, recorded))
    except ValueError:
        raise RunError(f"{run / EVALUATION} or {run / STRATEGIES} is damaged. Start a new run.") from None
    metadata = run_folder.read_json(run / run_folder.RUN)
    return FitResult(
        run,
        read(run / PACKAGE),
        evaluation,
        attempts,
        float(metadata["finished"]) - float(metadata["begun"]),
    )


def summary(result: FitResult) -> str:
    """The results of a run as text."""
    return "\n".join(summary_lines(result))


def summary_lines(result: FitResult) -> list[str]:
    """The results of a run as lines of text, the verdict first."""
    evaluation = result.evaluation
    lines = [f"warning: {warning}" for warning in evaluation.warnings]
    manifest, sample = result.artifact.manifest, evaluation.describe_sample("held-out test images")
    lines.append(f"test: {evaluation_text.metrics_text(evaluation, manifest.metric)} on {sample}")
    lines += filter(None, [evaluation.calibration_note])
    lines += _calibration_notes(manifest.calibration)
    if evaluation.selective:
        lines.append(evaluation_text.abstain_text(evaluation.selective))
    if gain := evaluation.gain_over_probe:
        strategy, points = manifest.strategy, format_points(gain.value, gain.low, gain.high)
        lines.append(f"{strategy} {_verdict(gain)} the probe: {points}")
    lines += filter(None, [int8_text(manifest)])
    if evaluation.curve:
        lines.append(evaluation.curve.to_text())
    lines.append(f"report: {result.report}")
    lines.append(f"package: {result.package}  ({format_duration(result.seconds)})")
    return lines


def _calibration_notes(calibration: Calibration) -> list[str]:
    """What the images were too few for, as warnings."""
    lines = []
    if calibration.set_thresholds and not any(calibration.set_thresholds):
        lines.append(
            f"warning: {calibration.n_images:,} images are too few for prediction sets with a coverage of"
            f" {calibration.coverage:.0%}: every set contains all labels. Add images, or lower --coverage"
        )
    if calibration.max_error is not None and calibration.min_probability() > 1:
        shown = [level.max_error for level in calibration.error_levels if level.answered >= MIN_ANSWERED]
        advice = f"for most images, {format_error(min(shown))} is the lowest error that can be shown" if shown else "add images"
        lines.append(
            f"warning: the model abstains for every image: no probability is shown to be wrong at most"
            f" {format_error(calibration.max_error)} of the time; {advice}"
        )
    return lines


def _verdict(gain: Estimate) -> str:
    if gain.low > 0:
        return "is significantly better than"
    return "is significantly worse than" if gain.high < 0 else "is not significantly better than"
