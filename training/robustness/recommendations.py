"""Presents a robustness measurement: a table, recommendations in plain sentences, and the `graft fit` flags they call for."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from graft.training.config.corruptions import ADVERSARIAL, DISTURBANCES, HARDENING
from graft.training.config.recipe import DEFAULT_BACKBONE
from graft.training.robustness.measure import Example, Robustness, Withstood
from graft.training.visualization.charts import percent
from graft.training.visualization.gallery import Figure
from graft.training.visualization.thumbnails import data_uri, thumbnail

MOST_CHANGED = 0.05  # flip rate at a typical severity above which augmentation is recommended


@dataclass(frozen=True)
class Advice:
    """Recommendations drawn from a robustness measurement.

    Attributes:
        sentences: one for each corruption with a high flip rate; if there is none, one that says so.
        augmentations: corruptions to pass to `--harden`.
        command: the `graft fit` command with these augmentations; "" if none is recommended.
    """

    sentences: tuple[str, ...]
    harden: tuple[str, ...]
    command: str


def advise(found: Robustness, data: str, backbone: str = DEFAULT_BACKBONE) -> Advice:
    """Recommends augmentations, most severe corruption first. The worst attack comes last, because no flag helps against it.

    A corruption counts if its flip rate at a typical severity significantly exceeds 5%: the lower end of the interval does.

    Args:
        data: the training data, as it appears in a command line.
    """
    severe = [worst for name in DISTURBANCES if (worst := _worst(found, name))]
    severe.sort(key=lambda pair: -pair[1].changed.low)
    attacks = [pair for pair in severe if pair[0] not in HARDENING]
    severe = [pair for pair in severe if pair[0] in HARDENING] + attacks[:1]
    names = {name for name, _ in severe}
    augmentations = tuple(name for name in HARDENING if name in names)
    sentences = tuple(_sentence(name, worst, data, backbone) for name, worst in severe)
    command = _command(data, backbone, augmentations) if augmentations else ""
    return Advice(sentences or (_nothing(found),), augmentations, command)


def _worst(found: Robustness, name: str) -> tuple[str, Withstood] | None:
    typical = [result for result in found.curves[name] if result.severity in DISTURBANCES[name].usual]
    worst = max(typical, key=lambda result: result.changed.low)
    return (name, worst) if worst.changed.low > MOST_CHANGED else None


def _sentence(name: str, worst: Withstood, data: str, backbone: str) -> str:
    flip_rate = worst.changed
    start = (
        f"{flip_rate.value:.0%} ({flip_rate.low:.0%} to {flip_rate.high:.0%}) of predictions change"
        f" on {DISTURBANCES[name].images(worst.severity)}"
    )
    if name not in HARDENING:
        return f"{start}: no training flag prevents this; do not act on a prediction alone where attackers profit from errors"
    condition = " if it preserves the label" if name in ("rotation", "flip") else ""
    return f"{start}: add {name} to the augmentations{condition}: {_command(data, backbone, (name,))}"


def _command(data: str, backbone: str, harden: tuple[str, ...]) -> str:
    network = "" if backbone == DEFAULT_BACKBONE else f" --backbone {backbone}"
    return f"graft fit {data} --strategy finetune{network} --harden {','.join(harden)}"


def _nothing(found: Robustness) -> str:
    return (
        f"no corruption at a typical severity significantly changes more than 5% of predictions, measured on {found.n:,} images"
    )


def facts(found: Robustness, advice: Advice) -> dict[str, object]:
    """The keys that `--robust` adds to `--json`."""
    return {
        "robust": {name: [_fact(result) for result in curve] for name, curve in found.curves.items()},
        "robust_sample": {"n": found.n, "of": found.of, "seed": found.seed, "unchanged": found.unchanged.model_dump()},
        "advice": list(advice.sentences),
    }


def _fact(one: Withstood) -> dict[str, float]:
    accuracy = one.right
    numbers = {"severity": one.severity, "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high}
    return numbers | {"changed": one.changed.value, "n": one.n}


def text(found: Robustness, advice: Advice) -> str:
    """The table and the recommendations, for the terminal."""
    lines = [
        f"robustness: {sample(found)}; clean accuracy {percent(found.unchanged.value)}",
        f"{'':12} {'':>13}  {'accuracy (95% interval)':26}  flip rate",
    ]
    for name, curve in found.curves.items():
        corrupted = [result for result in curve if result.severity != DISTURBANCES[name].unchanged]
        for index, result in enumerate(corrupted):
            accuracy, severity = result.right, DISTURBANCES[name].words(result.severity)
            interval = f"{percent(accuracy.value):>6}  ({percent(accuracy.low)} to {percent(accuracy.high)})"
            lines.append(f"{name if index == 0 else '':12} {severity:>13}  {interval:26}  {percent(result.changed.value):>6}")
    return "\n".join([*lines, *advice.sentences])


def sample(found: Robustness) -> str:
    """The sample size, in words."""
    images = f"all {found.n:,} images" if found.n == found.of else f"{found.n:,} of {found.of:,} images (seed {found.seed})"
    n_attacked = {attack.name: found.curves[attack.name][0].n for attack in ADVERSARIAL}
    attacks = ", ".join(f"{name.upper()}: {n:,}" for name, n in n_attacked.items() if n < found.n)
    return f"{images}{f'; {attacks}' * bool(attacks)}"


@dataclass(frozen=True)
class Chapter:
    """The section of one corruption on the robustness page."""

    name: str
    axis: str
    rows: tuple[tuple[str, Withstood], ...]
    figures: tuple[Figure, ...]


def chapters(found: Robustness) -> Iterator[Chapter]:
    """The sections of the robustness page, in the order of the table."""
    for name, curve in found.curves.items():
        corruption = DISTURBANCES[name]
        rows = tuple((corruption.words(result.severity), result) for result in curve)
        figures = tuple(_figure(corruption.words(example.severity), example) for example in found.examples[name])
        yield Chapter(name, corruption.axis, rows, figures)


def _figure(words: str, example: Example) -> Figure:
    file = io.BytesIO()
    Image.fromarray(example.pixels).save(file, "PNG")
    return Figure(example.path, data_uri(thumbnail(file.getvalue())), ((words, example.answer),))
