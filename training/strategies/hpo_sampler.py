"""Sampling and pruning of hyperparameter trials with Optuna's TPE sampler and median pruner. No torch.

Both depend only on the finished trials and the seed. No Optuna study is stored.
"""

from typing import TYPE_CHECKING

from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.hyperparameters import round_to_two_digits
from graft.training.config.recipe import Recipe
from graft.training.runtime.progress import is_verbose
from graft.training.strategies.hpo_trials import Params, TrialRecord

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    Space = dict[str, BaseDistribution]


# In the order in which they are printed.
TUNABLE = (
    "head_lr",
    "backbone_lr",
    "layer_decay",
    "weight_decay",
    "dropout",
    "label_smoothing",
    "mixup",
    "augment",
)
# Log-uniform, from the default divided by this factor to the default times it.
LOG_UNIFORM_FACTOR = {"head_lr": 5.0, "backbone_lr": 5.0, "weight_decay": 10.0}
# Uniform from 0: maximum and step.
UNIFORM_RANGES = {"dropout": (0.5, 0.1), "label_smoothing": (0.2, 0.05), "mixup": (0.4, 0.1)}
MIN_LAYER_DECAY = 0.01
AUGMENT_LEVELS = ("none", "light", "medium", "strong")
N_STARTUP_TRIALS = 4  # finished trials before any is pruned


def suggest(trials: list[TrialRecord], recipe: Recipe, config: FineTuneConfig) -> Params:
    """The hyperparameters of the next trial: the default configuration first, then samples of TPE.

    Args:
        recipe: the recipe; hyperparameters set there are not tuned.
    """
    if not trials:
        return {name: getattr(config, name) for name in search_space(recipe)}
    distributions = _distributions(recipe, config)
    study = _build_study(trials, distributions)
    # Seeded by the trial's number: with a single seed, a resumed search would repeat its first samples.
    study.sampler = _build_sampler((recipe.seed * 1_000_003 + len(trials)) % 2**32, recipe.search or 1)
    return {
        name: value if isinstance(value, str) else round_to_two_digits(value)
        for name, value in study.ask(distributions).params.items()
    }


def should_prune(losses: list[float], trials: list[TrialRecord], epochs: int) -> bool:
    """Whether the best loss of a running trial is worse than the median of the other trials at the same epoch."""
    from optuna.pruners import MedianPruner
    from optuna.trial import TrialState, create_trial

    running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(losses, 1)))
    # During warm-up the loss says little.
    pruner = MedianPruner(n_startup_trials=N_STARTUP_TRIALS, n_warmup_steps=max(1, epochs // 3))
    return bool(pruner.prune(_build_study(trials), running))


def _build_study(trials: list[TrialRecord], space: "Space | None" = None) -> "Study":
    """An Optuna study of the finished trials; without their hyperparameters if `space` is None."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO if is_verbose() else optuna.logging.WARNING)
    study = optuna.create_study()
    for trial in trials:
        complete = trial.status == "complete"
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                value=trial.loss if complete else None,
                params=trial.params if space else None,
                distributions=space,
                intermediate_values=dict(enumerate(trial.losses, 1)),  # TPE ranks a pruned trial without any last
            )
        )
    return study


def _build_sampler(seed: int, n_trials: int) -> "BaseSampler":
    """TPE; the first third of the trials, at least two and at most ten, is random."""
    from optuna.samplers import TPESampler

    return TPESampler(n_startup_trials=max(2, min(10, n_trials // 3)), seed=seed)


def _distributions(recipe: Recipe, config: FineTuneConfig) -> "Space":
    """The distribution of each hyperparameter to tune; it always contains the default."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: Space = {}
    for name in search_space(recipe):
        default = getattr(config, name)
        if name in LOG_UNIFORM_FACTOR:
            factor = LOG_UNIFORM_FACTOR[name]
            low, high = round_to_two_digits(default / factor), round_to_two_digits(default * factor)
            space[name] = FloatDistribution(low, high, log=True)
        elif name in UNIFORM_RANGES:
            high, step = UNIFORM_RANGES[name]
            space[name] = FloatDistribution(0.0, high, step=step)
        elif name == "layer_decay":
            space[name] = FloatDistribution(MIN_LAYER_DECAY, 1.0, log=True)
        else:
            space[name] = CategoricalDistribution(AUGMENT_LEVELS)
    return space


def search_space(recipe: Recipe) -> list[str]:
    """The hyperparameters to tune: those that the recipe does not set. From scratch, all layers share one learning rate."""
    from_scratch = recipe.strategy == "scratch" or recipe.weights == "none"
    return [name for name in TUNABLE if getattr(recipe, name) is None and not (from_scratch and name == "layer_decay")]
