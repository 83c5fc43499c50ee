"""What fine-tuning will do, nothing left open: the recipe, and what the size of the data says of the rest. No torch."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from graft.training.config import hyperparameters
from graft.training.config.recipe import FINE_TUNINGS, Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of the data and of the network.

    Attributes:
        counts: how many images to learn from have each label, in the labels' order.
        n_images: how many there are to learn from.
        multilabel: whether an image may have several labels, or none.
        pretrained: whether the network's weights are anything but random.
        gpu: whether the network learns on one.
    """

    n_images: int
    counts: tuple[int, ...]
    multilabel: bool = False
    pretrained: bool = True
    gpu: bool = False


class Plan(BaseModel):
    """Every choice of one fine-tuning. The names are the recipe's; what a recipe leaves open is decided here.

    Attributes:
        scratch: no probe's head to start from, and nothing held back.
        fresh: scratch, from random weights.
        accumulate: how many batches make one step, where memory holds no larger ones.
        averaging: the decay of the averaged weights; 0 for none.
        average_every: after how many steps they are brought up to date.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_images: int
    counts: tuple[int, ...]
    multilabel: bool
    scratch: bool
    fresh: bool
    seed: int
    epochs: int
    batch_size: int
    accumulate: int
    unfreeze: Literal["last", "all"]
    optimizer: Literal["adamw", "sgd"]
    head_rate: float
    backbone_rate: float
    bottom_ratio: float
    find_rates: bool
    schedule: Literal["cosine", "plateau"]
    warmup: float
    weight_decay: float
    clip: float
    dropout: float
    label_smoothing: float
    mixup: float
    cutmix: float
    averaging: float
    average_every: int
    frozen_norm: bool
    patience: int
    balance: Literal["none", "weights", "sampling", "logits"]
    augment: Literal["none", "light", "medium", "strong"]
    flips: bool
    rotations: bool
    harden: tuple[str, ...] = ()
    pixel_cache: float

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return hyperparameters.steps(self.n_images, self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, if it is not ended early."""
        return self.epochs * -(-self.steps // self.accumulate)


def check(choices: Recipe) -> None:
    """Refuses `--harden` where nothing may ever be shown changed images, before any data are read.

    Raises:
        ValueError: with what to do about it.
    """
    if choices.harden and choices.strategy not in FINE_TUNINGS:
        raise ValueError(
            f"--harden changes the images that fine-tuning is shown; --strategy {choices.strategy} learns from unchanged ones,"
            " or may keep what did. It goes with --strategy last, finetune or scratch."
        )


def plan(recipe: Recipe, facts: Facts) -> Plan:
    """The whole plan of fine-tuning by a recipe.

    Raises:
        ValueError: if two choices exclude each other.
    """
    if facts.multilabel and recipe.balance == "logits":
        raise ValueError("--balance logits: images have several labels here; choose weights, sampling or none.")
    fresh = not facts.pretrained or (recipe.strategy == "scratch" and recipe.start == "random")
    scratch = fresh or recipe.strategy == "scratch"
    batch_size = _given(recipe.batch_size, hyperparameters.batch_size(facts.n_images, facts.gpu))
    usual = hyperparameters.epochs(facts.n_images)
    epochs = _given(recipe.epochs, hyperparameters.fresh_epochs(usual) if fresh else usual)
    head_rate, backbone_rate = hyperparameters.rates(recipe.optimizer, scratch, fresh, batch_size)
    decay, every = hyperparameters.averaging(epochs * hyperparameters.steps(facts.n_images, batch_size), bool(recipe.averaging))
    derived = {
        "unfreeze": "last" if recipe.strategy == "last" else "all",
        "head_rate": head_rate,
        "backbone_rate": backbone_rate,
        "bottom_ratio": hyperparameters.bottom_ratio(facts.n_images, scratch),
        "weight_decay": hyperparameters.weight_decay(recipe.optimizer, fresh),
        "dropout": hyperparameters.dropout(facts.n_images),
        "label_smoothing": hyperparameters.LABEL_SMOOTHING,
        "mixup": hyperparameters.mixup(fresh, epochs),
        "cutmix": 0.0,
        "frozen_norm": hyperparameters.frozen_norm(facts.n_images, scratch),
        "balance": hyperparameters.balance(facts.counts, facts.multilabel),
        "augment": hyperparameters.augment(facts.n_images, fresh),
    }
    chosen = {name: value for name in Plan.model_fields if (value := getattr(recipe, name, None)) is not None}
    known = {"n_images": facts.n_images, "counts": facts.counts, "multilabel": facts.multilabel}
    decided = {
        "scratch": scratch,
        "fresh": fresh,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": 1,
        "averaging": 0.0 if recipe.averaging is False else decay,
        "average_every": every,
    }
    return Plan.model_validate(derived | chosen | known | decided)


def describe(plan: Plan) -> str:
    """The plan in a few lines for a person."""
    return "\n".join((_looks(plan), _moves(plan), _holds(plan)))


def _looks(plan: Plan) -> str:
    """What is shown, and how often."""
    batch = f"{plan.batch_size}" if plan.accumulate == 1 else f"{plan.accumulate} x {plan.batch_size}"
    turned = plan.rotations and plan.augment != "light"
    allowed = [word for word, on in (("mirrored", plan.flips), ("turned", turned)) if on]
    changes = "unchanged" if plan.augment == "none" else f"{plan.augment} changes ({', '.join(['cropped', *allowed])})"
    harder = [f"hardened against {', '.join(plan.harden)}"] if plan.harden else []
    mixed = [f"{name} {alpha:g}" for name, alpha in (("mixup", plan.mixup), ("cutmix", plan.cutmix)) if alpha]
    return f"up to {plan.epochs} epochs of {plan.steps} steps of {batch} images; {', '.join([changes, *harder, *mixed])}"


def _moves(plan: Plan) -> str:
    """What changes, and how fast."""
    name = {"adamw": "AdamW", "sgd": "SGD with momentum"}[plan.optimizer]
    backbone = f"backbone {plan.backbone_rate:g}"
    if plan.bottom_ratio < 1:
        backbone += f" down to {plan.bottom_ratio * plan.backbone_rate:.2g} at its first layer"
    if plan.unfreeze == "last":
        backbone = f"the backbone's last layers {plan.backbone_rate:g}"
    falls = {"cosine": "then falling as a cosine", "plateau": "then falling whenever validation is stuck"}[plan.schedule]
    return f"{name}: head {plan.head_rate:g}, {backbone}; rising for {plan.warmup:.0%} of the steps, {falls}"


def _holds(plan: Plan) -> str:
    """What keeps it from learning by heart."""
    parts = [f"weight decay {plan.weight_decay:g}, label smoothing {plan.label_smoothing:g}, dropout {plan.dropout:g}"]
    parts += ["BatchNorm keeps its statistics"] if plan.frozen_norm else []
    parts += ["weights averaged"] if plan.averaging else []
    if plan.balance != "none":
        how = {"weights": "rare ones weigh more", "sampling": "rare ones are shown more often", "logits": "logits adjusted"}
        parts.append(f"labels {hyperparameters.imbalance(plan.counts):.0f}:1, {how[plan.balance]}")
    return "; ".join(parts)


def _given(chosen: T | None, derived: T) -> T:
    return derived if chosen is None else chosen
