"""Collects the results of a run into a `RunReport`. Computes no metrics: every number comes from another package."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from graft.service.artifact import Artifact
from graft.service.inference.devices import cores
from graft.service.inference.postprocess import probabilities
from graft.training.audit import label_errors
from graft.training.config import hyperparameters
from graft.training.config.finetune_config import Plan
from graft.training.config.recipe import Recipe
from graft.training.evaluation.calibration import outlier_scores
from graft.training.interpret import collect
from graft.training.report.render import Choice, Repeat, Story, read_epochs
from graft.training.results import Evaluation, points
from graft.training.runs.lifecycle import versions
from graft.training.runs.run_folder import PLAN, read
from graft.training.strategies.auto import Climb
from graft.training.strategies.context import Ground, on_gpu
from graft.training.strategies.trained_model import Trained
from graft.training.visualization.gallery import Answers

UNTOLD = {"n_images", "counts", "multilabel", "scratch", "fresh", "seed", "find_rates", "average_every"}  # of a FineTuneConfig


def story(data: Path, ground: Ground, climbed: Climb, evaluation: Evaluation, artifact: Artifact, seconds: float) -> Story:
    """Builds the report of a run."""
    trained, dataset, splits = climbed.trained, ground.dataset, ground.splits
    predictions, by_path = _answers(ground, trained), {sample.path: sample for sample in splits.test}
    return Story(
        name=data.resolve().name,
        created=datetime.now().strftime("%d %B %Y, %H:%M").lstrip("0"),
        labels=dataset.labels,
        counts={name: dataset.counts(samples) for name, samples in splits.named().items()},
        n_images={name: len(samples) for name, samples in splits.named().items()},
        sizes=ground.audited.sizes,
        strategy=trained.strategy,
        backbone=f"{trained.backbone.name} at {trained.preprocessing.crop} pixels",
        seconds=seconds,
        package=str(artifact.path),
        evaluation=evaluation,
        answers=predictions,
        repeat=_repeat(data, ground, climbed),
        left_out=ground.audited.left_out,
        findings=tuple(
            finding for finding in ground.audited.findings if finding.kind != label_errors.KIND
        ),  # label issues have a section of their own
        rungs=climbed.rungs,
        quadrant=climbed.quadrant,
        epochs=read_epochs(ground.folder.path / trained.strategy / "metrics.csv"),
        suspects=ground.audited.suspects,
        remarks=tuple(_remarks(climbed, evaluation)),
        sees=collect.of_run(artifact, predictions, trained.test.vectors, lambda path: dataset.read(by_path[path])),
    )


def _answers(ground: Ground, trained: Trained) -> Answers:
    test, k = trained.test, trained.calibration.outlier_k
    return Answers(
        paths=tuple(sample.path for sample in ground.splits.test),
        truth=tuple(sample.labels for sample in ground.splits.test),
        probabilities=probabilities(test.logits, trained.temperature, test.multilabel).astype(np.float32),
        outlier_scores=outlier_scores(trained.neighbours, test.vectors, k).astype(np.float32),
    )


def _remarks(climbed: Climb, evaluation: Evaluation) -> list[str]:
    remarks = [f"{climbed.ended}."] if climbed.ended else []
    if climbed.trained.gain:
        remarks.append(f"Gain over the linear probe on the test set: {points(*climbed.trained.gain)}.")
    if evaluation.ten_crop:
        gain = evaluation.ten_crop
        remarks.append(f"Gain of ten-crop evaluation: {points(gain.value, gain.low, gain.high)}.")
    return remarks


def _repeat(data: Path, ground: Ground, climbed: Climb) -> Repeat:
    return repeat(command("fit", data, ground.choices), ground.choices, (ground.choices.seed,), _choices(ground, climbed))


def repeat(typed: str, choices: Recipe, seeds: Sequence[int], told: Sequence[Choice] = ()) -> Repeat:
    """Everything needed to reproduce a run: the command line, the resolved configuration, library versions and the machine.

    Args:
        command: the shell command.
        config_lines: the resolved configuration.
    """
    device = "on a GPU" if on_gpu(choices) else "no GPU"
    return Repeat(
        command=typed,
        choices=tuple(told),
        versions={name: number or "not installed" for name, number in versions().items()},
        machine=f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}, {cores()} cores, {device}",
        seeds=tuple(seeds),
    )


def command(verb: str, data: Path, choices: Recipe, *more: str) -> str:
    """The shell command that reproduces a run; options at their default are left out."""
    arguments = ["graft", verb, str(data), *more]
    for name, value in choices.model_dump(exclude_defaults=True).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{name.replace('_', '-')}")
        else:
            arguments += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join(arguments)


def _choices(ground: Ground, climbed: Climb) -> list[Choice]:
    """The resolved configuration: options from the recipe, and values derived from the data."""
    options, best = ground.choices.model_dump(), climbed.probed.chosen.best
    input_size = str(ground.exported.preprocessing.crop)
    shown = ("strategy", "budget", "backbone", "weights", "fit")
    config = [
        *(Choice(_words(name), str(options[name]), derived=False) for name in shown),
        Choice("input size", input_size, derived=options["input_size"] is None),
        Choice(
            "horizontal flips for the probe",
            _said(hyperparameters.mirrored(options["flips"], len(ground.splits.train))),
            derived=True,
        ),
        Choice("C of the probe (inverse regularization strength)", f"{best.strength:g}", derived=True),
        Choice("features of the probe", f"{best.block}, {best.kind}", derived=True),
    ]
    decisions = read(ground.folder.path / PLAN)
    if plan := decisions.get(f"plan of {climbed.trained.strategy}"):
        config += _planned(Plan.model_validate(plan), options)
    return config


def _planned(plan: Plan, given: Mapping[str, object]) -> list[Choice]:
    values = plan.model_dump(exclude=UNTOLD)
    return [Choice(_words(name), _said(value), derived=given.get(name) is None) for name, value in values.items()]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
