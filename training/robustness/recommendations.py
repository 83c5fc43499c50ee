"""What a package withstands, told: a table, the plain sentences that follow, and the flags that do something about it."""

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

MOST_CHANGED = 0.05  # share of answers that may change at a usual severity before anything is advised


@dataclass(frozen=True)
class Advice:
    """What follows from a measurement.

    Attributes:
        sentences: one for each disturbance that changes too much; one that says so if none does.
        harden: what `--harden` should name.
        command: that fits again with it; "" if nothing is to be gained by that.
    """

    sentences: tuple[str, ...]
    harden: tuple[str, ...]
    command: str


def advise(found: Robustness, data: str, backbone: str = DEFAULT_BACKBONE) -> Advice:
    """The sentences that follow, the gravest first; the attack that changes most comes last, for no flag answers it.

    A disturbance is named if at a usual severity more than one answer in twenty surely changes: if the lower end of the
    interval says so.

    Args:
        data: what to fit on, as a person types it.
    """
    grave = [worst for name in DISTURBANCES if (worst := _worst(found, name))]
    grave.sort(key=lambda one: -one[1].changed.low)
    attacks = [one for one in grave if one[0] not in HARDENING]
    grave = [one for one in grave if one[0] in HARDENING] + attacks[:1]
    harden = tuple(name for name in HARDENING if name in {name for name, _ in grave})
    sentences = tuple(_sentence(name, worst, data, backbone) for name, worst in grave)
    return Advice(sentences or (_nothing(found),), harden, _command(data, backbone, harden) if harden else "")


def _worst(found: Robustness, name: str) -> tuple[str, Withstood] | None:
    usual = [one for one in found.curves[name] if one.severity in DISTURBANCES[name].usual]
    worst = max(usual, key=lambda one: one.changed.low)
    return (name, worst) if worst.changed.low > MOST_CHANGED else None


def _sentence(name: str, worst: Withstood, data: str, backbone: str) -> str:
    changed = worst.changed
    start = (
        f"answers change for {changed.value:.0%} ({changed.low:.0%} to {changed.high:.0%})"
        f" of {DISTURBANCES[name].images(worst.severity)}"
    )
    if name not in HARDENING:
        return f"{start}: no flag cures that; where somebody gains by a wrong answer, let no answer decide alone"
    proviso = " if its label is still true then" if name in ("rotation", "flip") else ""
    return f"{start}: add {name} to the augmentation{proviso}: {_command(data, backbone, (name,))}"


def _command(data: str, backbone: str, harden: tuple[str, ...]) -> str:
    network = "" if backbone == DEFAULT_BACKBONE else f" --backbone {backbone}"
    return f"graft fit {data} --strategy finetune{network} --harden {','.join(harden)}"


def _nothing(found: Robustness) -> str:
    return f"no usual disturbance surely changes more than one answer in twenty, as far as {found.n:,} images can tell"


def facts(found: Robustness, advice: Advice) -> dict[str, object]:
    """For `--json`, beside the evaluation."""
    return {
        "robust": {name: [_fact(one) for one in curve] for name, curve in found.curves.items()},
        "robust_sample": {"n": found.n, "of": found.of, "seed": found.seed, "unchanged": found.unchanged.model_dump()},
        "advice": list(advice.sentences),
    }


def _fact(one: Withstood) -> dict[str, float]:
    right, changed = one.right, one.changed
    numbers = {"severity": one.severity, "accuracy": right.value, "low": right.low, "high": right.high}
    return numbers | {"changed": changed.value, "n": one.n}


def text(found: Robustness, advice: Advice) -> str:
    """The table and the advice, for a terminal."""
    lines = [
        f"disturbed: {sample(found)}; unchanged, {percent(found.unchanged.value)} are right",
        f"{'':12} {'':>13}  {'right, with its interval':26}  answers that change",
    ]
    for name, curve in found.curves.items():
        for number, one in enumerate(one for one in curve if one.severity != DISTURBANCES[name].unchanged):
            right = f"{percent(one.right.value):>6}  ({percent(one.right.low)} to {percent(one.right.high)})"
            words = DISTURBANCES[name].words(one.severity)
            lines.append(f"{name if number == 0 else '':12} {words:>13}  {right:26}  {percent(one.changed.value):>6}")
    return "\n".join([*lines, *advice.sentences])


def sample(found: Robustness) -> str:
    """How many images were disturbed, in words."""
    these = f"all {found.n:,} images" if found.n == found.of else f"{found.n:,} of {found.of:,} images (seed {found.seed})"
    fewer = {one.name: found.curves[one.name][0].n for one in ADVERSARIAL}
    attacks = " and ".join(f"{n:,} by {name.upper()}" for name, n in fewer.items() if n < found.n)
    return f"{these}{f', attacked: {attacks}' * bool(attacks)}"


@dataclass(frozen=True)
class Chapter:
    """One disturbance, as the page tells it."""

    name: str
    axis: str
    rows: tuple[tuple[str, Withstood], ...]
    figures: tuple[Figure, ...]


def chapters(found: Robustness) -> Iterator[Chapter]:
    """The page's chapters, in the order of the table."""
    for name, curve in found.curves.items():
        disturbance = DISTURBANCES[name]
        rows = tuple((disturbance.words(one.severity), one) for one in curve)
        figures = tuple(_figure(disturbance.words(example.severity), example) for example in found.examples[name])
        yield Chapter(name, disturbance.axis, rows, figures)


def _figure(words: str, example: Example) -> Figure:
    file = io.BytesIO()
    Image.fromarray(example.pixels).save(file, "PNG")
    return Figure(example.path, data_uri(thumbnail(file.getvalue())), ((words, example.answer),))
