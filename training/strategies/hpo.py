"""Trials of fine-tuning with other choices, and the plan that did best in them. No torch.

What is tried next follows from the trials on record alone, `search.csv` in the run's folder: a search that was killed goes
on as if it had not been. Validation flatters the best of many trials; test is looked at by none of them.
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
    """Refuses a search that cannot be, before any data are read.

    Raises:
        ValueError: with what to do about it.
    """
    if choices.search is None:
        return
    if choices.strategy not in FINE_TUNINGS:
        raise ValueError(
            f"--search tries the choices of fine-tuning, which --strategy {choices.strategy} may never come to;"
            " it goes with --strategy last, finetune or scratch."
        )
    if choices.find_rates:
        raise ValueError("--search finds the learning rates itself; leave --find-rates out.")
    if not left_open(choices):
        raise ValueError("--search has nothing left to try: all that it could choose was chosen; leave a choice open.")
    if find_spec("optuna") is None:
        raise ValueError("--search: optuna is not installed. Try: pip install 'graft-vision[search]'")


def decide(ground: Ground, probed: Probed, strategy: str, epochs: int, left_s: Callable[[], float]) -> str:
    """Decides the plan of a fine-tuning by trials, if a search was asked for; what came of it, in words.

    Args:
        left_s: how many seconds of the budget are left now.
    """
    if ground.choices.search is None:
        return ""
    folder = ground.folder
    before = folder.decided(
        f"plan of {strategy} before its search",
        lambda: finetune.measured(ground, *finetune.begun(ground, probed, strategy, epochs)),
    )
    plan = Plan.model_validate(before)

    def found() -> dict[str, object]:
        network, _ = finetune.begun(ground, probed, strategy, epochs)
        tried = _search(ground, network, plan, left_s)
        return {"plan": _best(plan, tried).model_dump(mode="json"), "told": hpo_trials.verdict(tried)}

    decision = folder.decided(f"search of {strategy}", found)
    folder.decided(f"plan of {strategy}", lambda: decision["plan"])
    return str(decision["told"])


def _search(ground: Ground, network: "Network", plan: Plan, left_s: Callable[[], float]) -> list[Tried]:
    """As many trials as were asked for or as the budget has room for, those on record included."""
    run, n_trials = ground.folder.path, ground.choices.search or 0
    tried = hpo_trials.load(run / TABLE)
    spent = sum(trial.seconds for trial in tried)  # by the processes before this one
    say(hpo_trials.intention(n_trials, plan.epochs, left_open(ground.choices), len(tried)))
    _remove_trials(run, but=len(tried))
    while len(tried) < n_trials:
        if not has_room(tried, left_s() - spent):
            say(f"the budget has no room for more than {len(tried)} of {n_trials} trials; a longer --budget allows more")
            break
        tried.append(_try(ground, network, plan, tried))
        hpo_trials.save(tried, run / TABLE)
        _remove_trials(run)
        say(hpo_trials.line(tried, n_trials, plan.epochs))
    say(hpo_trials.verdict(tried))
    return tried


def _try(ground: Ground, network: "Network", plan: Plan, tried: list[Tried]) -> Tried:
    """The next trial, from its last epoch on if it was cut short."""
    from graft.training.finetuning.callbacks import Trial
    from graft.training.finetuning.lightning_module import Diverged

    begun, number = time.monotonic(), len(tried)
    choices = proposed(tried, ground.choices, plan)
    run = _folder(ground.folder.path, number)

    def hopeless(losses: list[float]) -> bool:
        return is_hopeless(losses, tried, plan.epochs)

    name = f"trial {number + 1}/{ground.choices.search}"
    try:
        finetune.teach(ground, copy.deepcopy(network), _altered(plan, choices), run, trial=Trial(name, hopeless))
    except Diverged:
        return Tried("diverged", (), time.monotonic() - begun, choices)
    losses = _losses(run / "metrics.csv")
    given_up = len(losses) < plan.epochs and hopeless(list(losses))
    return Tried("given up" if given_up else "complete", losses, time.monotonic() - begun, choices)


def _best(plan: Plan, tried: list[Tried]) -> Plan:
    """The plan with what did best instead of its own choices; the plan itself if nothing came to its end."""
    best = hpo_trials.best_of(tried)
    return plan if best is None else _altered(plan, tried[best].choices)


def _altered(plan: Plan, choices: Choices) -> Plan:
    return Plan.model_validate(plan.model_dump() | choices)


def share(epochs: int, n_trials: int | None, fewest: int) -> int:
    """How many of the epochs that fit into the budget each trial gets, and the last learning after them.

    Args:
        fewest: with less than that no trial means anything; rather fewer trials, then.
    """
    return epochs if n_trials is None else min(epochs, max(fewest, epochs // (n_trials + 1)))


def has_room(tried: list[Tried], left_s: float) -> bool:
    """Whether the time left is enough for another trial and for learning with the best one's choices after it."""
    return not tried or left_s >= 2 * max(trial.seconds for trial in tried)


def _losses(metrics: Path) -> tuple[float, ...]:
    """The log-loss on validation after each epoch, from the first on: the start is no trial's merit."""
    from graft.training.finetuning.lightning_module import WATCHED

    with metrics.open(encoding="utf-8", newline="") as file:
        return tuple(float(row[WATCHED]) for row in csv.DictReader(file) if int(row["epoch"]) > 0)


def _remove_trials(run: Path, but: int | None = None) -> None:
    """Removes what trials left, except the one that is to be gone on with."""
    for folder in run.glob(f"{TRIAL}*"):
        if but is None or folder != _folder(run, but):
            shutil.rmtree(folder)


def _folder(run: Path, number: int) -> Path:
    return run / f"{TRIAL}{number + 1:04d}"
