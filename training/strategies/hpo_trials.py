"""Finished trials of a hyperparameter search: the file `search.csv`, and their text form. No torch, no Optuna."""

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
    "head_rate": "head lr",
    "backbone_rate": "backbone lr",
    "bottom_ratio": "layer decay",
    "weight_decay": "weight decay",
    "dropout": "dropout",
    "label_smoothing": "label smoothing",
    "mixup": "mixup",
    "augment": "augmentation",
}


@dataclass(frozen=True)
class Tried:
    """A finished trial.

    Attributes:
        losses: validation log-loss after each epoch; empty if training diverged.
        params: the hyperparameters by name.
    """

    ending: Ending
    losses: tuple[float, ...]
    seconds: float
    choices: Choices

    @property
    def loss(self) -> float:
        """The loss of the best epoch; infinite if training diverged."""
        return min(self.losses, default=float("inf"))


def best_of(tried: list[Tried]) -> int | None:
    """The index of the complete trial with the lowest loss; None if no trial is complete."""
    complete = [index for index, trial in enumerate(tried) if trial.ending == "complete"]
    return min(complete, key=lambda index: tried[index].loss, default=None)


def load(path: Path) -> list[Tried]:
    """The trials in a file, in order; empty if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_tried(row) for row in csv.DictReader(file)]


def save(tried: list[Tried], path: Path) -> None:
    """Writes the file atomically: one row per trial with its loss, its losses by epoch and its hyperparameters."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "ending", "log_loss", "seconds", "by_epoch", *tried[0].choices])
    for number, trial in enumerate(tried, 1):
        loss = trial.loss if trial.losses else ""
        by_epoch = " ".join(map(repr, trial.losses))
        writer.writerow([number, trial.ending, loss, round(trial.seconds, 1), by_epoch, *trial.choices.values()])
    atomic_files.write(path, text.getvalue())


def _tried(row: dict[str, str]) -> Tried:
    [status] = [allowed for allowed in get_args(Ending) if allowed == row["ending"]]
    params = {name: _read(row[name]) for name in row if name in WORDS}
    return Tried(status, tuple(map(float, row["by_epoch"].split())), float(row["seconds"]), params)


def _read(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def intention(n_trials: int, epochs: int, searched: list[str], done: int) -> str:
    """The first log line of a search."""
    labels = ", ".join(WORDS[name] for name in searched)
    resumed = f"; {done} are already finished" if done else ""
    return f"search: up to {n_trials} trials of up to {epochs} epochs over {labels}{resumed}"


def line(tried: list[Tried], n_trials: int, epochs: int) -> str:
    """The log line of the last trial."""
    number, trial = len(tried), tried[-1]
    outcome = {
        "complete": f"log-loss {trial.loss:.4f} at epoch {1 + _best_epoch(trial)}/{epochs}",
        "given up": f"pruned after epoch {len(trial.losses)}/{epochs}, log-loss {trial.loss:.4f}",
        "diverged": "diverged",
    }[trial.ending]
    best = ", the best so far" if number > 1 and best_of(tried) == number - 1 else ""
    params = "default configuration" if number == 1 else in_words(trial.choices)
    return f"trial {number:>{len(str(n_trials))}}/{n_trials}: {outcome}, {duration(trial.seconds)}{best}; {params}"


def _best_epoch(trial: Tried) -> int:
    return trial.losses.index(trial.loss) if trial.losses else 0


def in_words(choices: Choices) -> str:
    """The hyperparameters as text, such as `head lr 0.002, no augmentation`."""
    return ", ".join(_in_words(name, value) for name, value in choices.items())


def _in_words(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{'no' if value == 'none' else value} {WORDS[name]}"
    return f"{WORDS[name]} {value:g}"


def as_flags(choices: Choices) -> str:
    """The command-line flags that set the same hyperparameters."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in choices.items())


def verdict(tried: list[Tried]) -> str:
    """Summary of the search: the best trial and its improvement over the default configuration, which is the first trial."""
    best, default = best_of(tried), tried[0]
    none = "no trial" if len(tried) == 1 else f"none of {len(tried)} trials"
    if best is None:
        return f"{none} finished: the default configuration is kept"
    if best == 0:
        return f"{none} was better than the default configuration, log-loss {default.loss:.4f}"
    gain = f", {default.loss - tried[best].loss:.4f} lower than the default configuration" if default.losses else ""
    flags = as_flags(tried[best].choices)
    return f"trial {best + 1} of {len(tried)} is best: log-loss {tried[best].loss:.4f}{gain} ({flags})"
