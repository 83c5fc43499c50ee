"""LightningModule for fine-tuning: the head starts from the probe, and the backbone has a lower learning rate than the head.

LP-FT: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau

from graft.service.inference.head import Head
from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.hyperparameters import lr_scale
from graft.training.finetuning.ema import ema_callbacks
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.loss import Loss
from graft.training.finetuning.mixup import mixup_or_cutmix
from graft.training.finetuning.param_groups import freeze_layers, param_groups, set_eval_modules

MONITOR = "val/loss"
NAN_CHECK_INTERVAL = 16  # batches between NaN checks on a GPU, because each check synchronizes with the device
MAX_LISTED_FILES = 5  # files of a batch that an error message lists


class Diverged(RuntimeError):
    """The loss became NaN or infinite."""


class FineTune(LightningModule):
    """Trains head and backbone together, with a learning rate for each layer."""

    def __init__(self, network: Network, config: FineTuneConfig, plan: EpochPlan | None = None) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.plan = plan or EpochPlan(config.epochs)
        self.loss = Loss(config)
        self._recent_losses: list[Tensor] = []
        freeze_layers(network, config)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.train_loss(*batch)
        self._check_finite(loss, batch_idx)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def train_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Training loss, with mixing, label smoothing and dropout.

        Args:
            images: uint8 (N, crop, crop, 3).
            targets: int64 (N,), or float32 (N, C).
        """
        if self.config.mixup or self.config.cutmix:
            soft_targets = targets if targets.ndim == 2 else F.one_hot(targets, len(self.config.counts)).float()
            images, targets = mixup_or_cutmix(images, soft_targets, self.config.mixup, self.config.cutmix)
        with _feature_dropout(self.network.head, self.config.dropout):
            logits, _vectors = self.network(images)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, targets = batch
        logits, _vectors = self.network(images)
        correct = (logits > 0) == targets.bool() if self.config.multilabel else logits.argmax(dim=1) == targets
        self.log(MONITOR, self.loss.val_loss(logits, targets).mean(), batch_size=len(images))
        self.log("val/accuracy", correct.float().mean(), batch_size=len(images))

    def on_train_epoch_start(self) -> None:
        # Dropout and mixing depend on seed and epoch only, so that a resumed run repeats them.
        torch.manual_seed((self.config.seed * 1_000_003 + self.current_epoch) % 2**63)
        self.network.train()
        set_eval_modules(self.network, self.config.freeze_bn)

    def configure_callbacks(self) -> list[Callback]:
        return [*ema_callbacks(self.config)]

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.config)
        # Counted in the first plan: a resumed run starts with a later one.
        steps_per_epoch = int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)
        total_steps = steps_per_epoch * self.plan.epochs
        if self.config.schedule == "cosine":

            def scale(step: int) -> float:
                return lr_scale(total_steps * self.plan.progress(step / steps_per_epoch), total_steps, self.config.warmup)

            cosine = LambdaLR(optimizer, scale)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
        warmup_steps = max(1, round(self.config.warmup * total_steps))
        warmup = LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=warmup_steps - 1)
        plateau = ReduceLROnPlateau(optimizer, factor=0.3, patience=max(0, self.config.patience // 2 - 1))
        schedulers = [
            {"scheduler": warmup, "interval": "step"},
            {"scheduler": plateau, "interval": "epoch", "monitor": MONITOR},
        ]
        return [optimizer], schedulers

    def _check_finite(self, loss: Tensor, batch_idx: int) -> None:
        """Raises Diverged for the first batch with a non-finite loss since the last check."""
        self._recent_losses.append(loss.detach())
        if self.device.type != "cpu" and len(self._recent_losses) < NAN_CHECK_INTERVAL and not self.trainer.is_last_batch:
            return
        recent, self._recent_losses = torch.stack(self._recent_losses), []
        if not (finite := torch.isfinite(recent)).all():
            first = int(finite.logical_not().nonzero()[0])
            raise self._divergence_error(recent[first].item(), len(recent) - 1 - first, batch_idx)

    def _divergence_error(self, loss: float, batches_ago: int, batch_idx: int) -> Diverged:
        from graft.training.finetuning.datamodule import batch_paths

        step = self.global_step - batches_ago // self.trainer.accumulate_grad_batches
        rates = sorted({float(f"{group['lr']:.2g}") for group in self.trainer.optimizers[0].param_groups})
        files = batch_paths(self.trainer.train_dataloader, self.current_epoch, batch_idx - batches_ago)
        listing = (
            f" The batch: {', '.join(files[:MAX_LISTED_FILES])}{', …' if len(files) > MAX_LISTED_FILES else ''}."
            if files
            else ""
        )
        return Diverged(f"The loss became {loss} at step {step}, learning rates {rates}; try lower ones.{listing}")


def make_optimizer(network: Network, config: FineTuneConfig) -> Optimizer:
    """Creates the optimizer for all trainable parameters."""
    parameters = param_groups(network, config)
    # A fused optimizer undoes the scaling of the loss itself, too late for the clipping of gradients. Lightning refuses both
    # together in mixed precision.
    fused = config.training_precision == "32-true"
    if config.optimizer == "adamw":
        return AdamW(parameters, fused=fused)
    return SGD(parameters, momentum=0.9, nesterov=True, fused=fused)


@contextmanager
def _feature_dropout(head: nn.Module, probability: float) -> Iterator[None]:
    """Applies dropout to the input of the head."""
    handle = head.register_forward_pre_hook(lambda _, inputs: F.dropout(inputs[0], probability))
    try:
        yield
    finally:
        handle.remove()


def set_head(network: Network, head: Head) -> None:
    """Copies the head of a probe into the network, as the starting point of fine-tuning."""
    assert isinstance(network.head, nn.Linear), "fine-tuning starts from a linear head"
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.copy_(torch.from_numpy(head.bias))
