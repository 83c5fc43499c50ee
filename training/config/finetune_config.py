"""Complete configuration of a fine-tuning run: the recipe, with defaults derived from the data. No torch."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from graft.training.config import hyperparameters
from graft.training.config.recipe import FINE_TUNINGS, Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """Facts about the data, the weights and the machine that the defaults depend on.

    Attributes:
        n_images: number of training images.
        counts: training images of each label, in the order of the labels.
        multilabel: whether an image may have several labels, or none.
        pretrained: whether the weights are pretrained, not random.
        gpu: whether training runs on a GPU.
    """

    n_images: int
    counts: tuple[int, ...]
    multilabel: bool = False
    pretrained: bool = True
    gpu: bool = False


class Plan(BaseModel):
    """All hyperparameters of one fine-tuning run. Fields shared with `Recipe` have the same names; none is None here.

    Attributes:
        from_scratch: whether to train without a probe head, all layers at the full rate.
        random_init: whether the backbone starts from random weights; implies `from_scratch`.
        accumulate_grad_batches: batches per optimizer step, if memory limits the batch size.
        averaging: decay of the exponential moving average of the weights; 0 for none.
        averaging_interval: steps between updates of the average.
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
        """Batches per epoch."""
        return hyperparameters.steps(self.n_images, self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run without early stopping."""
        return self.epochs * -(-self.steps // self.accumulate)


def check(choices: Recipe) -> None:
    """Rejects `--augment-corruptions` with a strategy that may not fine-tune, before any data is read.

    Raises:
        ValueError: with a remedy.
    """
    if choices.harden and choices.strategy not in FINE_TUNINGS:
        raise ValueError(
            f"--augment-corruptions applies to fine-tuning only, and --strategy {choices.strategy} may not fine-tune."
            " Use --strategy finetune-last, finetune or scratch."
        )


def plan(recipe: Recipe, facts: Facts) -> Plan:
    """Completes a recipe: values that it leaves open are derived from the data.

    Raises:
        ValueError: if two options are incompatible.
    """
    if facts.multilabel and recipe.balance == "logits":
        raise ValueError("--balance logits does not support multilabel data; choose weights, sampling or none.")
    random_init = not facts.pretrained or (recipe.strategy == "scratch" and recipe.start == "random")
    from_scratch = random_init or recipe.strategy == "scratch"
    batch_size = _given(recipe.batch_size, hyperparameters.batch_size(facts.n_images, facts.gpu))
    default_epochs = hyperparameters.epochs(facts.n_images)
    epochs = _given(recipe.epochs, hyperparameters.fresh_epochs(default_epochs) if random_init else default_epochs)
    head_lr, backbone_lr = hyperparameters.rates(recipe.optimizer, from_scratch, random_init, batch_size)
    total_steps = epochs * hyperparameters.steps(facts.n_images, batch_size)
    decay, interval = hyperparameters.averaging(total_steps, bool(recipe.averaging))
    derived = {
        "unfreeze": "last" if recipe.strategy == "last" else "all",
        "head_rate": head_lr,
        "backbone_rate": backbone_lr,
        "bottom_ratio": hyperparameters.bottom_ratio(facts.n_images, from_scratch),
        "weight_decay": hyperparameters.weight_decay(recipe.optimizer, random_init),
        "dropout": hyperparameters.dropout(facts.n_images),
        "label_smoothing": hyperparameters.LABEL_SMOOTHING,
        "mixup": hyperparameters.mixup(random_init, epochs),
        "cutmix": 0.0,
        "frozen_norm": hyperparameters.frozen_norm(facts.n_images, from_scratch),
        "balance": hyperparameters.balance(facts.counts, facts.multilabel),
        "augment": hyperparameters.augment(facts.n_images, random_init),
    }
    from_recipe = {name: value for name in Plan.model_fields if (value := getattr(recipe, name, None)) is not None}
    from_data = {"n_images": facts.n_images, "counts": facts.counts, "multilabel": facts.multilabel}
    resolved = {
        "scratch": from_scratch,
        "fresh": random_init,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": 1,
        "averaging": 0.0 if recipe.averaging is False else decay,
        "average_every": interval,
    }
    return Plan.model_validate(derived | from_recipe | from_data | resolved)


def describe(plan: Plan) -> str:
    """Summary in three lines: data, optimizer, regularization."""
    return "\n".join((_looks(plan), _moves(plan), _holds(plan)))


def _looks(plan: Plan) -> str:
    """Schedule, augmentations and mixing."""
    batch = f"{plan.batch_size}" if plan.accumulate == 1 else f"{plan.accumulate} x {plan.batch_size}"
    rotate = plan.rotations and plan.augment != "light"
    optional = [name for name, enabled in (("flip", plan.flips), ("rotation", rotate)) if enabled]
    augmentation = "none" if plan.augment == "none" else f"{plan.augment} ({', '.join(['crop', *optional])})"
    corruptions = [f"corruptions {', '.join(plan.harden)}"] if plan.harden else []
    mixed = [f"{name} {alpha:g}" for name, alpha in (("mixup", plan.mixup), ("cutmix", plan.cutmix)) if alpha]
    augmentations = ", ".join([augmentation, *corruptions, *mixed])
    return f"up to {plan.epochs} epochs of {plan.steps} steps, batch size {batch}; augmentation: {augmentations}"


def _moves(plan: Plan) -> str:
    """Optimizer, learning rates and schedule."""
    optimizer = {"adamw": "AdamW", "sgd": "SGD with momentum"}[plan.optimizer]
    backbone = f"backbone {plan.backbone_rate:g}"
    if plan.bottom_ratio < 1:
        backbone += f" (first layer {plan.bottom_ratio * plan.backbone_rate:.2g})"
    if plan.unfreeze == "last":
        backbone = f"last backbone layers {plan.backbone_rate:g}"
    decay = {"cosine": "cosine decay", "plateau": "decay when the validation loss plateaus"}[plan.schedule]
    return f"{optimizer}: learning rates head {plan.head_rate:g}, {backbone}; {plan.warmup:.0%} warm-up, then {decay}"


def _holds(plan: Plan) -> str:
    """Regularization and class balancing."""
    parts = [f"weight decay {plan.weight_decay:g}, label smoothing {plan.label_smoothing:g}, dropout {plan.dropout:g}"]
    parts += ["frozen BatchNorm statistics"] if plan.frozen_norm else []
    parts += ["EMA of the weights"] if plan.averaging else []
    if plan.balance != "none":
        methods = {"weights": "class weights", "sampling": "balanced sampling", "logits": "logit adjustment"}
        parts.append(f"class imbalance {hyperparameters.imbalance(plan.counts):.0f}:1, {methods[plan.balance]}")
    return "; ".join(parts)


def _given(chosen: T | None, derived: T) -> T:
    return derived if chosen is None else chosen
