"""Finished trials of a hyperparameter search: the file `search.csv`, and their text form. No torch, no Optuna."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from graft.training.runtime import atomic_files
from graft.training.runtime.progress import format_duration

Params = dict[str, float | str]
TrialStatus = Literal["complete", "pruned", "diverged"]
PARAM_LABELS = {
    "head_lr": "head lr",
    "backbone_lr": "backbone lr",
    "layer_decay": "layer decay",
    "weight_decay": "weight decay",
    "dropout": "dropout",
    "label_smoothing": "label smoothing",
    "mixup": "mixup",
    "augment": "augmentation",
}


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        losses: validation log-loss after each epoch; empty if training diverged.
        params: the hyperparameters by name.
    """

    status: TrialStatus
    losses: tuple[float, ...]
    seconds: float
    params: Params

    @property
    def loss(self) -> float:
        """The loss of the best epoch; infinite if training diverged."""
        return min(self.losses, default=float("inf"))


def best_trial(trials: list[TrialRecord]) -> int | None:
    """The index of the complete trial with the lowest loss; None if no trial is complete."""
    complete = [index for index, trial in enumerate(trials) if trial.status == "complete"]
    return min(complete, key=lambda index: trials[index].loss, default=None)


def load(path: Path) -> list[TrialRecord]:
    """The trials in a file, in order; empty if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_parse_row(row) for row in csv.DictReader(file)]


def save(trials: list[TrialRecord], path: Path) -> None:
    """Writes the file atomically: one row per trial with its loss, its losses by epoch and its hyperparameters."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", "log_loss", "seconds", "by_epoch", *trials[0].params])
    for number, trial in enumerate(trials, 1):
        loss = trial.loss if trial.losses else ""
        by_epoch = " ".join(map(repr, trial.losses))
        writer.writerow([number, trial.status, loss, round(trial.seconds, 1), by_epoch, *trial.params.values()])
    atomic_files.write_text(path, text.getvalue())


def _parse_row(row: dict[str, str]) -> TrialRecord:
    [status] = [allowed for allowed in get_args(TrialStatus) if allowed == row["status"]]
    params = {name: _parse_value(row[name]) for name in row if name in PARAM_LABELS}
    return TrialRecord(status, tuple(map(float, row["by_epoch"].split())), float(row["seconds"]), params)


def _parse_value(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def describe(n_trials: int, epochs: int, names: list[str], n_finished: int) -> str:
    """The first log line of a search."""
    labels = ", ".join(PARAM_LABELS[name] for name in names)
    resumed = f"; {n_finished} are already finished" if n_finished else ""
    return f"search: up to {n_trials} trials of up to {epochs} epochs over {labels}{resumed}"


def progress_line(trials: list[TrialRecord], n_trials: int, epochs: int) -> str:
    """The log line of the last trial."""
    number, trial = len(trials), trials[-1]
    outcome = {
        "complete": f"log-loss {trial.loss:.4f} at epoch {1 + _best_epoch(trial)}/{epochs}",
        "pruned": f"pruned after epoch {len(trial.losses)}/{epochs}, log-loss {trial.loss:.4f}",
        "diverged": "diverged",
    }[trial.status]
    best = ", the best so far" if number > 1 and best_trial(trials) == number - 1 else ""
    params = "default configuration" if number == 1 else describe_params(trial.params)
    return f"trial {number:>{len(str(n_trials))}}/{n_trials}: {outcome}, {format_duration(trial.seconds)}{best}; {params}"


def _best_epoch(trial: TrialRecord) -> int:
    return trial.losses.index(trial.loss) if trial.losses else 0


def describe_params(params: Params) -> str:
    """The hyperparameters as text, such as `head lr 0.002, no augmentation`."""
    return ", ".join(_describe_param(name, value) for name, value in params.items())


def _describe_param(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{'no' if value == 'none' else value} {PARAM_LABELS[name]}"
    return f"{PARAM_LABELS[name]} {value:g}"


def to_flags(params: Params) -> str:
    """The command-line flags that set the same hyperparameters."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in params.items())


def summarize(trials: list[TrialRecord]) -> str:
    """Summary of the search: the best trial and its improvement over the default configuration, which is the first trial."""
    best, default = best_trial(trials), trials[0]
    none = "no trial" if len(trials) == 1 else f"none of {len(trials)} trials"
    if best is None:
        return f"{none} finished: the default configuration is kept"
    if best == 0:
        return f"{none} was better than the default configuration, log-loss {default.loss:.4f}"
    gain = f", {default.loss - trials[best].loss:.4f} lower than the default configuration" if default.losses else ""
    flags = to_flags(trials[best].params)
    return f"trial {best + 1} of {len(trials)} is best: log-loss {trials[best].loss:.4f}{gain} ({flags})"
