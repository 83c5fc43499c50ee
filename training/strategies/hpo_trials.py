"""The trials of a search, on record and in words. No torch, no Optuna."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from graft.training.runtime import atomic_files
from graft.training.runtime.progress import duration

Choices = dict[str, float | str]
Ending = Literal["complete", "given up", "diverged"]
WORDS = {
    "head_rate": "head",
    "backbone_rate": "backbone",
    "bottom_ratio": "first layer",
    "weight_decay": "decay",
    "dropout": "dropout",
    "label_smoothing": "smoothing",
    "mixup": "mixup",
    "augment": "changes",  # as in: strong changes
}


@dataclass(frozen=True)
class Tried:
    """A trial that has ended.

    Attributes:
        losses: log-loss on validation after each epoch, from the first on; none if it diverged.
    """

    ending: Ending
    losses: tuple[float, ...]
    seconds: float
    choices: Choices

    @property
    def loss(self) -> float:
        """Of its best epoch."""
        return min(self.losses, default=float("inf"))


def best_of(tried: list[Tried]) -> int | None:
    """The number of the trial with the lowest loss, the first of several; None if none came to its end."""
    complete = [number for number, trial in enumerate(tried) if trial.ending == "complete"]
    return min(complete, key=lambda number: tried[number].loss, default=None)


def load(path: Path) -> list[Tried]:
    """The trials on record, in their order; none where there is no record."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_tried(row) for row in csv.DictReader(file)]


def save(tried: list[Tried], path: Path) -> None:
    """Writes the record, whole or not at all: a row for each trial, its losses epoch by epoch, and what was chosen."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "ending", "log_loss", "seconds", "by_epoch", *tried[0].choices])
    for number, trial in enumerate(tried, 1):
        loss = trial.loss if trial.losses else ""
        by_epoch = " ".join(map(repr, trial.losses))
        writer.writerow([number, trial.ending, loss, round(trial.seconds, 1), by_epoch, *trial.choices.values()])
    atomic_files.write(path, text.getvalue())


def _tried(row: dict[str, str]) -> Tried:
    [ending] = [known for known in get_args(Ending) if known == row["ending"]]
    choices = {name: _read(row[name]) for name in row if name in WORDS}
    return Tried(ending, tuple(map(float, row["by_epoch"].split())), float(row["seconds"]), choices)


def _read(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def intention(n_trials: int, epochs: int, searched: list[str], done: int) -> str:
    """What a search is about to do, for a person."""
    over = ", ".join(WORDS[name] for name in searched)
    before = f"; {done} are on record" if done else ""
    return f"search: up to {n_trials} trials of up to {epochs} epochs, over {over}{before}"


def line(tried: list[Tried], n_trials: int, epochs: int) -> str:
    """How the last trial went, for a person."""
    number, trial = len(tried), tried[-1]
    after = f"epoch {len(trial.losses)}/{epochs}"
    went = {
        "complete": f"log-loss {trial.loss:.4f} at epoch {1 + _best_epoch(trial)}/{epochs}",
        "given up": f"given up after {after}, log-loss {trial.loss:.4f}",
        "diverged": "diverged",
    }[trial.ending]
    best = ", the best so far" if number > 1 and best_of(tried) == number - 1 else ""
    what = "the plan as it is" if number == 1 else in_words(trial.choices)
    return f"trial {number:>{len(str(n_trials))}}/{n_trials}: {went}, {duration(trial.seconds)}{best}; {what}"


def _best_epoch(trial: Tried) -> int:
    return trial.losses.index(trial.loss) if trial.losses else 0


def in_words(choices: Choices) -> str:
    """Each choice in a word and a number."""
    return ", ".join(_in_words(name, value) for name, value in choices.items())


def _in_words(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{'no' if value == 'none' else value} {WORDS[name]}"
    return f"{WORDS[name]} {value:g}"


def as_flags(choices: Choices) -> str:
    """The flags that choose the same without a search."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in choices.items())


def verdict(tried: list[Tried]) -> str:
    """Which trial is best, and by how much better than the plan as it was."""
    best, plan = best_of(tried), tried[0]
    none = "no trial" if len(tried) == 1 else f"none of {len(tried)} trials"
    if best is None:
        return f"{none} came to its end: the plan stays as it is"
    if best == 0:
        return f"{none} was better than the plan as it is, log-loss {plan.loss:.4f}"
    better = f", {plan.loss - tried[best].loss:.4f} less than the plan as it is" if plan.losses else ""
    return (
        f"trial {best + 1} of {len(tried)} was best: log-loss {tried[best].loss:.4f}{better} ({as_flags(tried[best].choices)})"
    )
