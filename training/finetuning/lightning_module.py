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

from graft.service.networks.network import Network
from graft.training.config.finetune_config import Plan
from graft.training.config.hyperparameters import lr_scale
from graft.training.features.linear_probe import Head
from graft.training.finetuning.ema import averaging
from graft.training.finetuning.loss import Loss
from graft.training.finetuning.mixup import mix
from graft.training.finetuning.param_groups import freeze, groups, settle

WATCHED = "val/loss"
LOOK_EVERY = 16  # batches between NaN checks on a GPU, because each check synchronizes with the device
NAMED = 5  # files of a batch that an error message lists


class Diverged(RuntimeError):
    """The loss became NaN or infinite."""


class FineTune(LightningModule):
    """Trains head and backbone together, with a learning rate for each layer."""

    def __init__(self, network: Network, plan: Plan) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.loss = Loss(plan)
        self._recent: list[Tensor] = []
        freeze(network, plan)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self.learning_loss(*batch)
        self._check(loss, batch_idx)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def learning_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Training loss, with mixing, label smoothing and dropout.

        Args:
            images: uint8 (N, crop, crop, 3).
            targets: int64 (N,), or float32 (N, C).
        """
        if self.plan.mixup or self.plan.cutmix:
            soft_targets = targets if targets.ndim == 2 else F.one_hot(targets, len(self.plan.counts)).float()
            images, targets = mix(images, soft_targets, self.plan.mixup, self.plan.cutmix)
        with _dropping(self.network.head, self.plan.dropout):
            logits, _vectors = self.network(images)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, targets = batch
        logits, _vectors = self.network(images)
        correct = (logits > 0) == targets.bool() if self.plan.multilabel else logits.argmax(dim=1) == targets
        self.log(WATCHED, self.loss.judged(logits, targets).mean(), batch_size=len(images))
        self.log("val/accuracy", correct.float().mean(), batch_size=len(images))

    def on_train_epoch_start(self) -> None:
        # Dropout and mixing depend on seed and epoch only, so that a resumed run repeats them.
        torch.manual_seed((self.plan.seed * 1_000_003 + self.current_epoch) % 2**63)
        self.network.train()
        settle(self.network, self.plan.frozen_norm)

    def configure_callbacks(self) -> list[Callback]:
        return [*averaging(self.plan)]

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.plan)
        total_steps = int(self.trainer.estimated_stepping_batches)
        if self.plan.schedule == "cosine":
            cosine = LambdaLR(optimizer, lambda step: lr_scale(step, total_steps, self.plan.warmup))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
        warmup_steps = max(1, round(self.plan.warmup * total_steps))
        warmup = LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=warmup_steps - 1)
        plateau = ReduceLROnPlateau(optimizer, factor=0.3, patience=max(0, self.plan.patience // 2 - 1))
        schedulers = [
            {"scheduler": warmup, "interval": "step"},
            {"scheduler": plateau, "interval": "epoch", "monitor": WATCHED},
        ]
        return [optimizer], schedulers

    def _check(self, loss: Tensor, batch_idx: int) -> None:
        """Raises Diverged for the first batch with a non-finite loss since the last check."""
        self._recent.append(loss.detach())
        if self.device.type != "cpu" and len(self._recent) < LOOK_EVERY and not self.trainer.is_last_batch:
            return
        recent, self._recent = torch.stack(self._recent), []
        if not (finite := torch.isfinite(recent)).all():
            first = int(finite.logical_not().nonzero()[0])
            raise self._diverged(recent[first].item(), len(recent) - 1 - first, batch_idx)

    def _diverged(self, loss: float, batches_ago: int, batch_idx: int) -> Diverged:
        from graft.training.finetuning.datamodule import shown

        step = self.global_step - batches_ago // self.trainer.accumulate_grad_batches
        rates = sorted({float(f"{group['lr']:.2g}") for group in self.trainer.optimizers[0].param_groups})
        files = shown(self.trainer.train_dataloader, self.current_epoch, batch_idx - batches_ago)
        listing = f" The batch: {', '.join(files[:NAMED])}{', …' if len(files) > NAMED else ''}." if files else ""
        return Diverged(f"The loss became {loss} at step {step}, learning rates {rates}; try lower ones.{listing}")


def make_optimizer(network: Network, plan: Plan) -> Optimizer:
    """Creates the optimizer for all trainable parameters."""
    parameters = groups(network, plan)
    if plan.optimizer == "adamw":
        return AdamW(parameters, fused=True)
    return SGD(parameters, momentum=0.9, nesterov=True, fused=True)


@contextmanager
def _dropping(head: nn.Module, share: float) -> Iterator[None]:
    """Applies dropout to the input of the head."""
    handle = head.register_forward_pre_hook(lambda _, inputs: F.dropout(inputs[0], share))
    try:
        yield
    finally:
        handle.remove()


def set_head(network: Network, head: Head) -> None:
    """Copies the head of a probe into the network, as the starting point of fine-tuning."""
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.copy_(torch.from_numpy(head.bias))
