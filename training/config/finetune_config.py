"""Complete configuration of a fine-tuning run: the recipe, with defaults derived from the data. No torch."""

from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from graft.service.inference.devices import Device
from graft.service.manifest import MetricName
from graft.training.config import hyperparameters
from graft.training.config.hyperparameters import TrainingPrecision
from graft.training.config.recipe import FINETUNE_STRATEGIES, Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class DataStats:
    """Facts about the data, the weights and the machine that the defaults depend on.

    Attributes:
        n_images: number of training images.
        counts: training images of each label, in the order of the labels.
        multilabel: whether an image may have several labels, or none.
        pretrained: whether the weights are pretrained, not random.
        device: where training runs.
        gpu_bytes: total memory of the GPU; 0 without one.
        training_precision: of the whole run.
    """

    n_images: int
    counts: tuple[int, ...]
    multilabel: bool = False
    pretrained: bool = True
    device: Device = "cpu"
    gpu_bytes: int = 0
    training_precision: TrainingPrecision = "32-true"


class FineTuneConfig(BaseModel):
    """All hyperparameters of one fine-tuning run. Fields shared with `Recipe` have the same names; none is None here.

    Attributes:
        from_scratch: whether to train without a probe head, all layers at the full rate.
        random_init: whether the backbone starts from random weights; implies `from_scratch`.
        training_precision: in Lightning's words; weights, optimizer and averages are float32 in each.
        accumulate_grad_batches: batches per optimizer step, if memory limits the batch size.
        ema_decay: decay of the exponential moving average of the weights; 0 for none.
        ema_interval: steps between updates of the average.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n_images: int
    counts: tuple[int, ...]
    multilabel: bool
    from_scratch: bool
    random_init: bool
    seed: int
    epochs: int
    training_precision: TrainingPrecision
    batch_size: int
    accumulate_grad_batches: int
    unfreeze: Literal["last", "all"]
    optimizer: Literal["adamw", "sgd"]
    head_lr: float
    backbone_lr: float
    layer_decay: float
    lr_find: bool
    schedule: Literal["cosine", "plateau"]
    warmup: float
    weight_decay: float
    clip_grad: float
    dropout: float
    label_smoothing: float
    mixup: float
    cutmix: float
    ema_decay: float
    ema_interval: int
    freeze_bn: bool
    patience: int
    balance: Literal["none", "weights", "sampling", "logits"]
    metric: MetricName = "log-loss"
    augment: Literal["none", "light", "medium", "strong"]
    flips: bool
    rotations: bool
    augment_corruptions: tuple[str, ...] = ()
    pixel_cache: float

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return hyperparameters.steps_per_epoch(self.n_images, self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run without early stopping."""
        return self.epochs * -(-self.steps_per_epoch // self.accumulate_grad_batches)


def check_augment_corruptions(recipe: Recipe) -> None:
    """Rejects `--augment-corruptions` with a strategy that may not fine-tune, before any data is read.

    Raises:
        ValueError: with a remedy.
    """
    if recipe.augment_corruptions and recipe.strategy not in FINETUNE_STRATEGIES:
        raise ValueError(
            f"--augment-corruptions applies to fine-tuning only, and --strategy {recipe.strategy} may not fine-tune."
            " Use --strategy finetune-last, finetune or scratch."
        )


def check_multilabel(recipe: Recipe, multilabel: bool) -> None:
    """Rejects options that do not support multilabel data.

    Raises:
        ValueError: with a remedy.
    """
    if multilabel and recipe.balance == "logits":
        raise ValueError("--balance logits does not support multilabel data; choose weights, sampling or none.")
    if multilabel and recipe.metric != "log-loss":
        raise ValueError(f"--metric {recipe.metric} does not support multilabel data; remove it, or choose log-loss.")


def resolve_config(recipe: Recipe, stats: DataStats) -> FineTuneConfig:
    """Completes a recipe: values that it leaves open are derived from the data.

    Raises:
        ValueError: if two options are incompatible.
    """
    check_multilabel(recipe, stats.multilabel)
    random_init = not stats.pretrained or (recipe.strategy == "scratch" and recipe.init == "random")
    from_scratch = random_init or recipe.strategy == "scratch"
    default_batch_size = hyperparameters.batch_size(stats.n_images, stats.device, stats.gpu_bytes)
    batch_size = _value_or_default(recipe.batch_size, default_batch_size)
    default_epochs = hyperparameters.epochs(stats.n_images)
    epochs = _value_or_default(
        recipe.epochs, hyperparameters.random_init_epochs(default_epochs) if random_init else default_epochs
    )
    head_lr, backbone_lr = hyperparameters.learning_rates(recipe.optimizer, from_scratch, random_init, batch_size)
    total_steps = epochs * hyperparameters.steps_per_epoch(stats.n_images, batch_size)
    decay, interval = hyperparameters.ema_decay(total_steps, bool(recipe.ema))
    derived = {
        "unfreeze": "last" if recipe.strategy == "finetune-last" else "all",
        "head_lr": head_lr,
        "backbone_lr": backbone_lr,
        "layer_decay": hyperparameters.layer_decay(stats.n_images, from_scratch),
        "weight_decay": hyperparameters.weight_decay(recipe.optimizer, random_init),
        "dropout": hyperparameters.dropout(stats.n_images),
        "label_smoothing": hyperparameters.LABEL_SMOOTHING,
        "mixup": hyperparameters.mixup(random_init, epochs),
        "cutmix": 0.0,
        "freeze_bn": hyperparameters.freeze_bn(stats.n_images, from_scratch),
        # A corrected loss would only be adjusted back. What the metric needs is a shift of the trained network's logits.
        "balance": "none",
        "augment": hyperparameters.augment(stats.n_images, random_init),
    }
    from_recipe = {name: value for name in FineTuneConfig.model_fields if (value := getattr(recipe, name, None)) is not None}
    from_data = {"n_images": stats.n_images, "counts": stats.counts, "multilabel": stats.multilabel}
    resolved = {
        "from_scratch": from_scratch,
        "random_init": random_init,
        "epochs": epochs,
        "training_precision": stats.training_precision,
        "batch_size": batch_size,
        "accumulate_grad_batches": 1,
        "ema_decay": 0.0 if recipe.ema is False else decay,
        "ema_interval": interval,
    }
    return FineTuneConfig.model_validate(derived | from_recipe | from_data | resolved)


def describe(config: FineTuneConfig) -> str:
    """Summary in three lines: data, optimizer, regularization."""
    return "\n".join((_describe_data(config), _describe_optimizer(config), _describe_regularization(config)))


def _describe_data(config: FineTuneConfig) -> str:
    """Schedule, augmentations and mixing."""
    batch = (
        f"{config.batch_size}"
        if config.accumulate_grad_batches == 1
        else f"{config.accumulate_grad_batches} x {config.batch_size}"
    )
    if config.training_precision != "32-true":
        batch += f" in {config.training_precision} precision"
    rotate = config.rotations and config.augment != "light"
    optional = [name for name, enabled in (("flip", config.flips), ("rotation", rotate)) if enabled]
    augmentation = "none" if config.augment == "none" else f"{config.augment} ({', '.join(['crop', *optional])})"
    corruptions = [f"corruptions {', '.join(config.augment_corruptions)}"] if config.augment_corruptions else []
    mixed = [f"{name} {alpha:g}" for name, alpha in (("mixup", config.mixup), ("cutmix", config.cutmix)) if alpha]
    augmentations = ", ".join([augmentation, *corruptions, *mixed])
    return f"up to {config.epochs} epochs of {config.steps_per_epoch} steps, batch size {batch}; augmentation: {augmentations}"


def _describe_optimizer(config: FineTuneConfig) -> str:
    """Optimizer, learning rates and schedule."""
    optimizer = {"adamw": "AdamW", "sgd": "SGD with momentum"}[config.optimizer]
    backbone = f"backbone {config.backbone_lr:g}"
    if config.layer_decay < 1:
        backbone += f" (first layer {config.layer_decay * config.backbone_lr:.2g})"
    if config.unfreeze == "last":
        backbone = f"last backbone layers {config.backbone_lr:g}"
    decay = {"cosine": "cosine decay", "plateau": "decay when the validation loss plateaus"}[config.schedule]
    return f"{optimizer}: learning rates head {config.head_lr:g}, {backbone}; {config.warmup:.0%} warm-up, then {decay}"


def _describe_regularization(config: FineTuneConfig) -> str:
    """Regularization and class balancing."""
    parts = [f"weight decay {config.weight_decay:g}, label smoothing {config.label_smoothing:g}, dropout {config.dropout:g}"]
    parts += ["frozen BatchNorm statistics"] if config.freeze_bn else []
    parts += ["EMA of the weights"] if config.ema_decay else []
    if config.balance != "none":
        methods = {"weights": "class weights", "sampling": "balanced sampling", "logits": "logit adjustment"}
        parts.append(f"class imbalance {hyperparameters.imbalance(config.counts):.0f}:1, {methods[config.balance]}")
    return "; ".join(parts)


def _value_or_default(value: T | None, default: T) -> T:
    return default if value is None else value
