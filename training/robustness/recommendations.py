"""Presents a robustness measurement: recommendations in plain sentences, and the `graft fit` flags they call for."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from graft.training import results
from graft.training.config.corruptions import ADVERSARIAL_ATTACKS, AUGMENTABLE_CORRUPTIONS, CORRUPTIONS
from graft.training.config.recipe import DEFAULT_BACKBONE
from graft.training.robustness.measure import CorruptedExample, Robustness, SeverityResult
from graft.training.visualization.gallery import CaptionedImage
from graft.training.visualization.thumbnails import data_uri, thumbnail

MAX_FLIP_RATE = 0.05  # flip rate at a typical severity above which augmentation is recommended


@dataclass(frozen=True)
class Recommendation:
    """Recommendations drawn from a robustness measurement.

    Attributes:
        sentences: one for each corruption with a high flip rate; if there is none, one that says so.
        augmentations: corruptions to pass to `--augment-corruptions`.
        command: the `graft fit` command with these augmentations; "" if none is recommended.
    """

    sentences: tuple[str, ...]
    augmentations: tuple[str, ...]
    command: str


def recommend(robustness: Robustness, data: str, backbone: str = DEFAULT_BACKBONE) -> Recommendation:
    """Recommends augmentations, most severe corruption first. The worst attack comes last, because no flag helps against it.

    A corruption counts if its flip rate at a typical severity significantly exceeds 5%: the lower end of the interval does.

    Args:
        data: the training data, as it appears in a command line.
    """
    severe = [worst for name in CORRUPTIONS if (worst := _worst_case(robustness, name))]
    severe.sort(key=lambda pair: -pair[1].flip_rate.low)
    attacks = [pair for pair in severe if pair[0] not in AUGMENTABLE_CORRUPTIONS]
    severe = [pair for pair in severe if pair[0] in AUGMENTABLE_CORRUPTIONS] + attacks[:1]
    names = {name for name, _ in severe}
    augmentations = tuple(name for name in AUGMENTABLE_CORRUPTIONS if name in names)
    sentences = tuple(_sentence(name, worst, data, backbone) for name, worst in severe)
    command = _command(data, backbone, augmentations) if augmentations else ""
    return Recommendation(sentences or (_no_action(robustness),), augmentations, command)


def _worst_case(robustness: Robustness, name: str) -> tuple[str, SeverityResult] | None:
    typical = [result for result in robustness.curves[name] if result.severity in CORRUPTIONS[name].typical_severities]
    worst = max(typical, key=lambda result: result.flip_rate.low)
    return (name, worst) if worst.flip_rate.low > MAX_FLIP_RATE else None


def _sentence(name: str, worst: SeverityResult, data: str, backbone: str) -> str:
    flip_rate = worst.flip_rate
    start = (
        f"{flip_rate.value:.0%} ({flip_rate.low:.0%} to {flip_rate.high:.0%}) of predictions change"
        f" on {CORRUPTIONS[name].describe_images(worst.severity)}"
    )
    if name not in AUGMENTABLE_CORRUPTIONS:
        return f"{start}: no training flag prevents this; do not act on a prediction alone where attackers profit from errors"
    condition = " if it preserves the label" if name in ("rotation", "flip") else ""
    return f"{start}: add {name} to the augmentations{condition}: {_command(data, backbone, (name,))}"


def _command(data: str, backbone: str, augmentations: tuple[str, ...]) -> str:
    network = "" if backbone == DEFAULT_BACKBONE else f" --backbone {backbone}"
    return f"graft fit {data} --strategy finetune{network} --augment-corruptions {','.join(augmentations)}"


def _no_action(robustness: Robustness) -> str:
    measured_on = f"measured on {results.describe_sample(robustness.n, robustness.n_groups)}"
    return f"no corruption at a typical severity significantly changes more than 5% of predictions, {measured_on}"


def to_dict(robustness: Robustness, recommendation: Recommendation) -> dict[str, object]:
    """The keys that `--robust` adds to `--json`."""
    return {
        "robust": {name: [_result_to_dict(result) for result in curve] for name, curve in robustness.curves.items()},
        "robust_sample": {
            "n": robustness.n,
            "of": robustness.n_available,
            "n_groups": robustness.n_groups,
            "seed": robustness.seed,
            "unchanged": robustness.clean_accuracy.model_dump(),
        },
        "advice": list(recommendation.sentences),
    }


def _result_to_dict(result: SeverityResult) -> dict[str, float]:
    accuracy = result.accuracy
    numbers = {"severity": result.severity, "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}
    return numbers | {"changed": result.flip_rate.value, "n": result.n}


def describe_sample(robustness: Robustness) -> str:
    """The sample size, in words."""
    images = (
        f"all {results.describe_sample(robustness.n, robustness.n_groups)}"
        if robustness.n == robustness.n_available
        else f"{robustness.n:,} of {results.describe_sample(robustness.n_available, None)} (seed {robustness.seed})"
    )
    n_attacked = {attack.name: robustness.curves[attack.name][0].n for attack in ADVERSARIAL_ATTACKS}
    attacks = ", ".join(f"{name.upper()}: {n:,}" for name, n in n_attacked.items() if n < robustness.n)
    return f"{images}{f'; {attacks}' * bool(attacks)}"


@dataclass(frozen=True)
class CorruptionSection:
    """The section of one corruption on the robustness page."""

    name: str
    axis: str
    rows: tuple[tuple[str, SeverityResult], ...]
    figures: tuple[CaptionedImage, ...]


def sections(robustness: Robustness) -> Iterator[CorruptionSection]:
    """The sections of the robustness page, in the order of the table."""
    for name, curve in robustness.curves.items():
        corruption = CORRUPTIONS[name]
        rows = tuple((corruption.format_severity(result.severity), result) for result in curve)
        figures = tuple(_figure(corruption.format_severity(example.severity), example) for example in robustness.examples[name])
        yield CorruptionSection(name, corruption.axis_label, rows, figures)


def _figure(severity_label: str, example: CorruptedExample) -> CaptionedImage:
    file = io.BytesIO()
    Image.fromarray(example.pixels).save(file, "PNG")
    return CaptionedImage(example.path, data_uri(thumbnail(file.getvalue())), ((severity_label, example.prediction),))
