"""Hyperparameter optimization of fine-tuning. No torch at import.

The next trial depends only on the finished trials in `search.csv` of the run folder, so a search that was killed continues
as if it had not been interrupted. The best trial's validation score is optimistic; no trial uses test images.
"""

import copy
import csv
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from graft.training.config.finetune_config import Plan
from graft.training.config.recipe import FINE_TUNINGS, Recipe
from graft.training.runtime.progress import say
from graft.training.strategies import finetune, hpo_trials
from graft.training.strategies.context import Ground
from graft.training.strategies.hpo_sampler import is_hopeless, left_open, proposed
from graft.training.strategies.hpo_trials import Choices, Tried
from graft.training.strategies.probe import Probed

if TYPE_CHECKING:
    from graft.service.networks.network import Network


TABLE, TRIAL = "search.csv", "trial-"


def check(choices: Recipe) -> None:
    """Rejects an impossible search before any data are read.

    Raises:
        ValueError: with what to do about it.
    """
    if choices.search is None:
        return
    if choices.strategy not in FINE_TUNINGS:
        raise ValueError(
            f"--search tunes fine-tuning, which --strategy {choices.strategy} may not run."
            " Use it with --strategy last, finetune or scratch."
        )
    if choices.find_rates:
        raise ValueError("--search already tunes the learning rates; remove --find-rates.")
    if not left_open(choices):
        raise ValueError("--search has nothing to tune: every hyperparameter is set. Remove at least one of them.")
    if find_spec("optuna") is None:
        raise ValueError("--search: optuna is not installed. Try: pip install 'graft-vision[search]'")


def decide(ground: Ground, probed: Probed, strategy: str, epochs: int, left_s: Callable[[], float]) -> str:
    """Runs the search if the recipe asks for one, and records the best configuration; returns a summary, "" without a search.

    Args:
        epochs: of each trial.
        remaining_s: returns the seconds left of the budget.
    """
    if ground.choices.search is None:
        return ""
    folder = ground.folder
    default = folder.decided(
        f"plan of {strategy} before its search",
        lambda: finetune.measured(ground, *finetune.begun(ground, probed, strategy, epochs)),
    )
    config = Plan.model_validate(default)

    def run_search() -> dict[str, object]:
        network, _ = finetune.begun(ground, probed, strategy, epochs)
        trials = _search(ground, network, config, left_s)
        return {"plan": _best(config, trials).model_dump(mode="json"), "told": hpo_trials.verdict(trials)}

    decision = folder.decided(f"search of {strategy}", run_search)
    folder.decided(f"plan of {strategy}", lambda: decision["plan"])
    return str(decision["told"])


def _search(ground: Ground, network: "Network", plan: Plan, left_s: Callable[[], float]) -> list[Tried]:
    """Runs trials until the requested number or the budget is reached; returns all, including those on record."""
    run, n_trials = ground.folder.path, ground.choices.search or 0
    trials = hpo_trials.load(run / TABLE)
    spent = sum(trial.seconds for trial in trials)  # by earlier processes of this run
    say(hpo_trials.intention(n_trials, plan.epochs, left_open(ground.choices), len(trials)))
    _remove_trials(run, but=len(trials))
    while len(trials) < n_trials:
        if not has_room(trials, left_s() - spent):
            say(f"only {len(trials)} of {n_trials} trials fit in the budget; increase --budget to run more")
            break
        trials.append(_try(ground, network, plan, trials))
        hpo_trials.save(trials, run / TABLE)
        _remove_trials(run)
        say(hpo_trials.line(trials, n_trials, plan.epochs))
    say(hpo_trials.verdict(trials))
    return trials


def _try(ground: Ground, network: "Network", plan: Plan, tried: list[Tried]) -> Tried:
    """Runs the next trial; resumes it from its last epoch if it was interrupted."""
    from graft.training.finetuning.callbacks import Trial
    from graft.training.finetuning.lightning_module import Diverged

    started, number = time.monotonic(), len(tried)
    params = proposed(tried, ground.choices, plan)
    run = _folder(ground.folder.path, number)

    def prune(losses: list[float]) -> bool:
        return is_hopeless(losses, tried, plan.epochs)

    name = f"trial {number + 1}/{ground.choices.search}"
    try:
        finetune.teach(ground, copy.deepcopy(network), _altered(plan, params), run, trial=Trial(name, prune))
    except Diverged:
        return Tried("diverged", (), time.monotonic() - started, params)
    losses = _losses(run / "metrics.csv")
    pruned = len(losses) < plan.epochs and prune(list(losses))
    return Tried("given up" if pruned else "complete", losses, time.monotonic() - started, params)


def _best(plan: Plan, tried: list[Tried]) -> Plan:
    """The configuration with the best trial's hyperparameters; unchanged if no trial finished."""
    best = hpo_trials.best_of(tried)
    return plan if best is None else _altered(plan, tried[best].choices)


def _altered(plan: Plan, choices: Choices) -> Plan:
    return Plan.model_validate(plan.model_dump() | choices)


def share(epochs: int, n_trials: int | None, fewest: int) -> int:
    """The number of epochs of each trial and of the final training, which together should fit in the budget.

    Args:
        epochs: that fit in the budget.
        n_trials: requested; None without a search.
        min_epochs: of a meaningful trial; if the budget is too small for it, fewer trials are run.
    """
    return epochs if n_trials is None else min(epochs, max(fewest, epochs // (n_trials + 1)))


def has_room(tried: list[Tried], left_s: float) -> bool:
    """Whether the time left is enough for another trial and for the final training after it."""
    return not tried or left_s >= 2 * max(trial.seconds for trial in tried)


def _losses(metrics: Path) -> tuple[float, ...]:
    """Validation log-loss after each epoch; without epoch 0, which is the same for all trials."""
    from graft.training.finetuning.lightning_module import WATCHED

    with metrics.open(encoding="utf-8", newline="") as file:
        return tuple(float(row[WATCHED]) for row in csv.DictReader(file) if int(row["epoch"]) > 0)


def _remove_trials(run: Path, but: int | None = None) -> None:
    """Removes the folders of trials, except the one to resume."""
    for folder in run.glob(f"{TRIAL}*"):
        if but is None or folder != _folder(run, but):
            shutil.rmtree(folder)


def _folder(run: Path, number: int) -> Path:
    return run / f"{TRIAL}{number + 1:04d}"
