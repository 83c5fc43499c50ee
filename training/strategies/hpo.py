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

from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.recipe import FINETUNE_STRATEGIES, Recipe
from graft.training.runtime.progress import log, step
from graft.training.strategies import finetune, hpo_trials
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.hpo_sampler import search_space, should_prune, suggest
from graft.training.strategies.hpo_trials import Params, TrialRecord
from graft.training.strategies.probe import ProbeResult

if TYPE_CHECKING:
    from graft.service.networks.network import Network


TRIALS_CSV, TRIAL_PREFIX = "search.csv", "trial-"


def check(recipe: Recipe) -> None:
    """Rejects an impossible search before any data are read.

    Raises:
        ValueError: with what to do about it.
    """
    if recipe.search is None:
        return
    if recipe.strategy not in FINETUNE_STRATEGIES:
        raise ValueError(
            f"--search tunes fine-tuning, which --strategy {recipe.strategy} may not run."
            " Use it with --strategy finetune-last, finetune or scratch."
        )
    if recipe.lr_find:
        raise ValueError("--search already tunes the learning rates; remove --lr-find.")
    if not search_space(recipe):
        raise ValueError("--search has nothing to tune: every hyperparameter is set. Remove at least one of them.")
    if find_spec("optuna") is None:
        raise ValueError("--search: optuna is not installed. Try: pip install 'graft-vision[search]'")


def search(
    context: TrainingContext, probe_result: ProbeResult, strategy: str, epochs: int, remaining_s: Callable[[], float]
) -> str:
    """Runs the search if the recipe asks for one, and records the best configuration; returns a summary, "" without a search.

    Args:
        epochs: of each trial.
        remaining_s: returns the seconds left of the budget.
    """
    if context.recipe.search is None:
        return ""
    folder = context.folder
    default = folder.decide_once(
        f"config of {strategy} before its search",
        lambda: finetune.fit_to_machine(context, *finetune.build_network(context, probe_result, strategy, epochs)),
    )
    config = FineTuneConfig.model_validate(default)

    def run_search() -> dict[str, object]:
        network, _ = finetune.build_network(context, probe_result, strategy, epochs)
        trials = _run_trials(context, network, config, remaining_s)
        return {"config": _best_config(config, trials).model_dump(mode="json"), "summary": hpo_trials.summarize(trials)}

    decision = folder.decide_once(f"search of {strategy}", run_search)
    folder.decide_once(f"config of {strategy}", lambda: decision["config"])
    return str(decision["summary"])


def _run_trials(
    context: TrainingContext, network: "Network", config: FineTuneConfig, remaining_s: Callable[[], float]
) -> list[TrialRecord]:
    """Runs trials until the requested number or the budget is reached; returns all, including those on record."""
    run, n_trials = context.folder.path, context.recipe.search or 0
    trials = hpo_trials.load(run / TRIALS_CSV)
    spent = sum(trial.seconds for trial in trials)  # by earlier processes of this run
    log(hpo_trials.describe(n_trials, config.epochs, search_space(context.recipe), len(trials)))
    _remove_trials(run, keep=len(trials))
    while len(trials) < n_trials:
        if not fits_budget(trials, remaining_s() - spent):
            log(f"only {len(trials)} of {n_trials} trials fit in the budget; increase --budget to run more")
            break
        trials.append(_run_trial(context, network, config, trials))
        hpo_trials.save(trials, run / TRIALS_CSV)
        _remove_trials(run)
        log(hpo_trials.progress_line(trials, n_trials, config.epochs))
    log(hpo_trials.summarize(trials))
    return trials


def _run_trial(context: TrainingContext, network: "Network", config: FineTuneConfig, trials: list[TrialRecord]) -> TrialRecord:
    """Runs the next trial; resumes it from its last epoch if it was interrupted."""
    from graft.training.finetuning.callbacks import Trial
    from graft.training.finetuning.lightning_module import Diverged

    started, number = time.monotonic(), len(trials)
    with step("choosing the next hyperparameters"):
        params = suggest(trials, context.recipe, config)
    run = _trial_folder(context.folder.path, number)

    def prune(losses: list[float]) -> bool:
        return should_prune(losses, trials, config.epochs)

    name = f"trial {number + 1}/{context.recipe.search}"
    try:
        finetune.run_trainer(context, copy.deepcopy(network), _with_params(config, params), run, trial=Trial(name, prune))
    except Diverged:
        return TrialRecord("diverged", (), time.monotonic() - started, params)
    losses = _read_losses(run / "metrics.csv")
    pruned = len(losses) < config.epochs and prune(list(losses))
    return TrialRecord("pruned" if pruned else "complete", losses, time.monotonic() - started, params)


def _best_config(config: FineTuneConfig, trials: list[TrialRecord]) -> FineTuneConfig:
    """The configuration with the best trial's hyperparameters; unchanged if no trial finished."""
    best = hpo_trials.best_trial(trials)
    return config if best is None else _with_params(config, trials[best].params)


def _with_params(config: FineTuneConfig, params: Params) -> FineTuneConfig:
    return FineTuneConfig.model_validate(config.model_dump() | params)


def epochs_per_trial(epochs: int, n_trials: int | None, min_epochs: int) -> int:
    """The number of epochs of each trial and of the final training, which together should fit in the budget.

    Args:
        epochs: that fit in the budget.
        n_trials: requested; None without a search.
        min_epochs: of a meaningful trial; if the budget is too small for it, fewer trials are run.
    """
    return epochs if n_trials is None else min(epochs, max(min_epochs, epochs // (n_trials + 1)))


def fits_budget(trials: list[TrialRecord], remaining_s: float) -> bool:
    """Whether the time left is enough for another trial and for the final training after it."""
    return not trials or remaining_s >= 2 * max(trial.seconds for trial in trials)


def _read_losses(metrics: Path) -> tuple[float, ...]:
    """Validation log-loss after each epoch; without epoch 0, which is the same for all trials."""
    from graft.training.finetuning.lightning_module import MONITOR

    with metrics.open(encoding="utf-8", newline="") as file:
        return tuple(float(row[MONITOR]) for row in csv.DictReader(file) if int(row["epoch"]) > 0)


def _remove_trials(run: Path, keep: int | None = None) -> None:
    """Removes the folders of trials, except the one to resume."""
    for folder in run.glob(f"{TRIAL_PREFIX}*"):
        if keep is None or folder != _trial_folder(run, keep):
            shutil.rmtree(folder)


def _trial_folder(run: Path, index: int) -> Path:
    return run / f"{TRIAL_PREFIX}{index + 1:04d}"
