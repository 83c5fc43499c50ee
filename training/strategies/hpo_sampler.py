"""What a trial of fine-tuning should try next, and when it is hopeless: Optuna's TPE and median pruner. No torch.

Both follow from the trials on record and the seed alone, and not from a study that is kept somewhere.
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


# In the order in which a person hears of them.
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
AROUND = {"head_rate": 5.0, "backbone_rate": 5.0, "weight_decay": 10.0}  # times, and divided by: how far from the plan's own
UP_TO = {"dropout": (0.5, 0.1), "label_smoothing": (0.2, 0.05), "mixup": (0.4, 0.1)}  # the most, and the step
LOWEST_RATIO = 0.01
STRENGTHS = ("none", "light", "medium", "strong")
JUDGED_FROM = 4  # trials that must have come to their end before one is given up for being worse than most


def proposed(tried: list[Tried], choices: Recipe, plan: Plan) -> Choices:
    """What to try next: first the plan as it is, later what the trials before make likely to be good.

    Args:
        choices: what a person chose there is not tried otherwise.
    """
    if not tried:
        return {name: getattr(plan, name) for name in left_open(choices)}
    space = _space(choices, plan)
    study = _study(tried, space)
    # Of a sampler seeded once, a search that goes on would draw again what was drawn first.
    study.sampler = _sampler((choices.seed * 1_000_003 + len(tried)) % 2**32, choices.search or 1)
    return {name: _rounded(value) for name, value in study.ask(space).params.items()}


def is_hopeless(losses: list[float], tried: list[Tried], epochs: int) -> bool:
    """Whether a trial, given its losses so far, was worse at its best than the median of the others at that epoch."""
    from optuna.pruners import MedianPruner
    from optuna.trial import TrialState, create_trial

    going_on = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(losses, 1)))
    # While the rates still rise, a loss says little.
    pruner = MedianPruner(n_startup_trials=JUDGED_FROM, n_warmup_steps=max(1, epochs // 3))
    return bool(pruner.prune(_study(tried), going_on))


def _study(tried: list[Tried], space: "Space | None" = None) -> "Study":
    """All that was tried, as Optuna sees it; without what was chosen if there is no space."""
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
                intermediate_values=dict(enumerate(trial.losses, 1)),  # without any, TPE takes it for the worst
            )
        )
    return study


def _sampler(seed: int, n_trials: int) -> "BaseSampler":
    """Draws by chance in the first third of a short search, at most ten times, and by what was learned after that."""
    from optuna.samplers import TPESampler

    return TPESampler(n_startup_trials=max(2, min(10, n_trials // 3)), seed=seed)


def _space(choices: Recipe, plan: Plan) -> "Space":
    """What may be tried for each open choice; the plan's own value always may."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: Space = {}
    for name in left_open(choices):
        planned = getattr(plan, name)
        if name in AROUND:
            low, high = _rounded(planned / AROUND[name]), _rounded(planned * AROUND[name])
            space[name] = FloatDistribution(low, high, log=True)
        elif name in UP_TO:
            most, step = UP_TO[name]
            space[name] = FloatDistribution(0.0, most, step=step)
        elif name == "bottom_ratio":
            space[name] = FloatDistribution(LOWEST_RATIO, 1.0, log=True)
        else:
            space[name] = CategoricalDistribution(STRENGTHS)
    return space


def left_open(choices: Recipe) -> list[str]:
    """What the person left open; from scratch, all layers learn alike."""
    alike = choices.strategy == "scratch" or choices.weights == "none"
    return [name for name in SEARCHED if getattr(choices, name) is None and not (alike and name == "bottom_ratio")]


def _rounded(value: float | str) -> float | str:
    """Two digits, as a person would write it; a search as short as these sees no more."""
    return value if isinstance(value, str) else float(f"{value:.2g}")
