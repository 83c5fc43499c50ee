"""Sampling and pruning of hyperparameter trials with Optuna's TPE sampler and median pruner. No torch.

Both depend only on the finished trials and the seed. No Optuna study is stored.
"""

from typing import TYPE_CHECKING

from graft.training.config.finetune_config import Plan
from graft.training.config.recipe import Recipe
from graft.training.strategies.hpo_trials import Choices, Tried

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    Space = dict[str, BaseDistribution]


# In the order in which they are printed.
SEARCHED = (
    "head_rate",
    "backbone_rate",
    "bottom_ratio",
    "weight_decay",
    "dropout",
    "label_smoothing",
    "mixup",
    "augment",
)
# Log-uniform, from the default divided by this factor to the default times it.
AROUND = {"head_rate": 5.0, "backbone_rate": 5.0, "weight_decay": 10.0}
# Uniform from 0: maximum and step.
UP_TO = {"dropout": (0.5, 0.1), "label_smoothing": (0.2, 0.05), "mixup": (0.4, 0.1)}
LOWEST_RATIO = 0.01
STRENGTHS = ("none", "light", "medium", "strong")
JUDGED_FROM = 4  # finished trials before any is pruned


def proposed(tried: list[Tried], choices: Recipe, plan: Plan) -> Choices:
    """The hyperparameters of the next trial: the default configuration first, then samples of TPE.

    Args:
        recipe: the recipe; hyperparameters set there are not tuned.
    """
    if not tried:
        return {name: getattr(plan, name) for name in left_open(choices)}
    distributions = _space(choices, plan)
    study = _study(tried, distributions)
    # Seeded by the trial's number: with a single seed, a resumed search would repeat its first samples.
    study.sampler = _sampler((choices.seed * 1_000_003 + len(tried)) % 2**32, choices.search or 1)
    return {name: _rounded(value) for name, value in study.ask(distributions).params.items()}


def is_hopeless(losses: list[float], tried: list[Tried], epochs: int) -> bool:
    """Whether the best loss of a running trial is worse than the median of the other trials at the same epoch."""
    from optuna.pruners import MedianPruner
    from optuna.trial import TrialState, create_trial

    running = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(losses, 1)))
    # During warm-up the loss says little.
    pruner = MedianPruner(n_startup_trials=JUDGED_FROM, n_warmup_steps=max(1, epochs // 3))
    return bool(pruner.prune(_study(tried), running))


def _study(tried: list[Tried], space: "Space | None" = None) -> "Study":
    """An Optuna study of the finished trials; without their hyperparameters if `space` is None."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for trial in tried:
        complete = trial.ending == "complete"
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED,
                value=trial.loss if complete else None,
                params=trial.choices if space else None,
                distributions=space,
                intermediate_values=dict(enumerate(trial.losses, 1)),  # TPE ranks a pruned trial without any last
            )
        )
    return study


def _sampler(seed: int, n_trials: int) -> "BaseSampler":
    """TPE; the first third of the trials, at least two and at most ten, is random."""
    from optuna.samplers import TPESampler

    return TPESampler(n_startup_trials=max(2, min(10, n_trials // 3)), seed=seed)


def _space(choices: Recipe, plan: Plan) -> "Space":
    """The distribution of each hyperparameter to tune; it always contains the default."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: Space = {}
    for name in left_open(choices):
        default = getattr(plan, name)
        if name in AROUND:
            low, high = _rounded(default / AROUND[name]), _rounded(default * AROUND[name])
            space[name] = FloatDistribution(low, high, log=True)
        elif name in UP_TO:
            high, step = UP_TO[name]
            space[name] = FloatDistribution(0.0, high, step=step)
        elif name == "bottom_ratio":
            space[name] = FloatDistribution(LOWEST_RATIO, 1.0, log=True)
        else:
            space[name] = CategoricalDistribution(STRENGTHS)
    return space


def left_open(choices: Recipe) -> list[str]:
    """The hyperparameters to tune: those that the recipe does not set. From scratch, all layers share one learning rate."""
    from_scratch = choices.strategy == "scratch" or choices.weights == "none"
    return [name for name in SEARCHED if getattr(choices, name) is None and not (from_scratch and name == "bottom_ratio")]


def _rounded(value: float | str) -> float | str:
    """Rounds to two significant digits; a short search cannot resolve more."""
    return value if isinstance(value, str) else float(f"{value:.2g}")
