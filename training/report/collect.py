"""Collects the results of a run into a `RunReport`. Computes no metrics: every number comes from another package."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from graft.service.artifact import Artifact
from graft.service.inference.devices import available_cpus, resolve_device
from graft.service.inference.postprocess import to_probabilities
from graft.training.audit import label_errors
from graft.training.config import hyperparameters
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.recipe import Recipe, option_flag
from graft.training.evaluation.outliers import outlier_scores
from graft.training.interpret import collect
from graft.training.packaging.model_card import describe_head
from graft.training.report.render import ConfigLine, Reproduction, RunReport, read_epochs
from graft.training.results import Evaluation, format_points
from graft.training.runs.lifecycle import library_versions
from graft.training.runs.run_folder import DECISIONS, read_json
from graft.training.runtime import gpu
from graft.training.strategies.auto import SelectionResult
from graft.training.strategies.context import CROPS_DECISION, TrainingContext
from graft.training.strategies.trained_model import TrainedModel
from graft.training.visualization.formatting import int8_text
from graft.training.visualization.gallery import ImagePredictions

# Of a FineTuneConfig.
HIDDEN_FIELDS = {"n_images", "counts", "multilabel", "from_scratch", "random_init", "seed", "metric", "lr_find", "ema_interval"}


def build_report(
    data: Path, context: TrainingContext, selection: SelectionResult, evaluation: Evaluation, artifact: Artifact, seconds: float
) -> RunReport:
    """Builds the report of a run."""
    trained, dataset, splits = selection.model, context.dataset, context.splits
    predictions, by_path = _predictions(context, trained), {sample.path: sample for sample in splits.test}
    return RunReport(
        name=data.resolve().name,
        created=datetime.now().strftime("%d %B %Y, %H:%M").lstrip("0"),
        labels=dataset.labels,
        counts={name: dataset.counts(samples) for name, samples in splits.to_dict().items()},
        n_images={name: len(samples) for name, samples in splits.to_dict().items()},
        image_sizes=context.audit.image_sizes,
        strategy=trained.strategy,
        backbone=f"{trained.backbone.name} at {trained.preprocessing.crop} pixels, {describe_head(trained.backbone)}",
        seconds=seconds,
        package=str(artifact.path),
        evaluation=evaluation,
        predictions=predictions,
        reproduction=_reproduction(data, context, selection),
        excluded=context.audit.excluded,
        # Label issues have a section of their own.
        findings=tuple(finding for finding in context.audit.findings if finding.kind != label_errors.FINDING_KIND),
        attempts=selection.attempts,
        transfer_regime=selection.regime,
        epochs=read_epochs(context.folder.path / trained.strategy / "metrics.csv"),
        label_issues=context.audit.label_issues,
        remarks=tuple(filter(None, [*_remarks(selection, evaluation), int8_text(artifact.manifest)])),
        interpretation=collect.interpret_run(
            artifact, predictions, trained.test.vectors, lambda path: dataset.read(by_path[path])
        ),
    )


def _predictions(context: TrainingContext, trained: TrainedModel) -> ImagePredictions:
    test, k = trained.test, trained.calibration.outlier_k
    return ImagePredictions(
        paths=tuple(sample.path for sample in context.splits.test),
        targets=tuple(sample.labels for sample in context.splits.test),
        probabilities=to_probabilities(test.logits, trained.temperature, test.multilabel).astype(np.float32),
        outlier_scores=outlier_scores(trained.neighbors, test.vectors, k).astype(np.float32),
    )


def _remarks(selection: SelectionResult, evaluation: Evaluation) -> list[str]:
    remarks = [f"{selection.stop_reason}."] if selection.stop_reason else []
    if gain := evaluation.gain_over_probe:
        remarks.append(f"Gain over the linear probe on the test set: {format_points(gain.value, gain.low, gain.high)}.")
    if evaluation.ten_crop:
        gain = evaluation.ten_crop
        remarks.append(f"Gain of ten-crop evaluation: {format_points(gain.value, gain.low, gain.high)}.")
    return remarks


def _reproduction(data: Path, context: TrainingContext, selection: SelectionResult) -> Reproduction:
    return reproduction(
        command_line("fit", data, context.recipe), context.recipe, (context.recipe.seed,), _config_lines(context, selection)
    )


def reproduction(command: str, recipe: Recipe, seeds: Sequence[int], config_lines: Sequence[ConfigLine] = ()) -> Reproduction:
    """Everything needed to reproduce a run: the command line, the resolved configuration, library versions and the machine.

    Args:
        command: the shell command.
        config_lines: the resolved configuration.
    """
    device = resolve_device(recipe.device)
    card = gpu.describe_machine(gpu.machine_record(device)) if device == "cuda" else "no GPU"
    return Reproduction(
        command=command,
        config=tuple(config_lines),
        versions={name: number or "not installed" for name, number in library_versions().items()},
        machine=(
            f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}, {available_cpus()} cores, {card}"
        ),
        seeds=tuple(seeds),
    )


def command_line(subcommand: str, data: Path, recipe: Recipe, *extra_args: str) -> str:
    """The shell command that reproduces a run; options at their default are left out."""
    arguments = ["graft", subcommand, str(data), *extra_args]
    for name, value in recipe.model_dump(exclude_defaults=True).items():
        flag = option_flag(name)
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            arguments += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join(arguments)


def _config_lines(context: TrainingContext, selection: SelectionResult) -> list[ConfigLine]:
    """The resolved configuration: options from the recipe, and values derived from the data."""
    options, best = context.recipe.model_dump(), selection.probe_result.selection.best
    input_size = str(context.exported.preprocessing.crop)
    shown = ("strategy", "metric", "budget", "backbone", "weights", "fit")
    config = [
        *(ConfigLine(_display_name(name), str(options[name]), derived=False) for name in shown),
        ConfigLine("input size", input_size, derived=options["input_size"] is None),
        ConfigLine(
            "horizontal flips for the probe",
            _format_value(hyperparameters.use_mirror_images(options["flips"], len(context.splits.train))),
            derived=True,
        ),
        ConfigLine("C of the probe (inverse regularization strength)", f"{best.C:g}", derived=True),
        ConfigLine("features of the probe", f"{best.feature_set}, {best.kind}", derived=True),
    ]
    decisions = read_json(context.folder.path / DECISIONS)
    if n_crops := decisions.get(CROPS_DECISION):
        config.append(ConfigLine(CROPS_DECISION, f"{n_crops}, for the kernel machine", derived=True))
    if plan := decisions.get(f"config of {selection.model.strategy}"):
        config += _finetune_config_lines(FineTuneConfig.model_validate(plan), options)
    return config


def _finetune_config_lines(config: FineTuneConfig, options: Mapping[str, object]) -> list[ConfigLine]:
    values = config.model_dump(exclude=HIDDEN_FIELDS)
    return [
        ConfigLine(_display_name(name), _format_value(value), derived=options.get(name) is None)
        for name, value in values.items()
    ]


def _display_name(name: str) -> str:
    return name.replace("_", " ")


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
