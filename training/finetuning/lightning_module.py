"""The whole network, trained: the probe's head first, then everything, the backbone more slowly than the head.

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
LOOK_EVERY = 16  # batches between two looks at the loss on a GPU: each look waits until all that is queued is done
NAMED = 5  # files of a batch that an error lists


class Diverged(RuntimeError):
    """The loss is no number any more."""


class FineTune(LightningModule):
    """Trains head and backbone together, each layer at its own pace."""

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
        """The loss of uint8 (N, crop, crop, 3) and int64 (N,) or float32 (N, C), mixed, smoothed, features dropped."""
        if self.plan.mixup or self.plan.cutmix:
            shares = targets if targets.ndim == 2 else F.one_hot(targets, len(self.plan.counts)).float()
            images, targets = mix(images, shares, self.plan.mixup, self.plan.cutmix)
        with _dropping(self.network.head, self.plan.dropout):
            logits, _vectors = self.network(images)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, targets = batch
        logits, _vectors = self.network(images)
        right = (logits > 0) == targets.bool() if self.plan.multilabel else logits.argmax(dim=1) == targets
        self.log(WATCHED, self.loss.judged(logits, targets).mean(), batch_size=len(images))
        self.log("val/accuracy", right.float().mean(), batch_size=len(images))

    def on_train_epoch_start(self) -> None:
        # Dropped features and mixed images follow from seed and epoch too, so that a resumed run repeats them.
        torch.manual_seed((self.plan.seed * 1_000_003 + self.current_epoch) % 2**63)
        self.network.train()
        settle(self.network, self.plan.frozen_norm)

    def configure_callbacks(self) -> list[Callback]:
        return [*averaging(self.plan)]

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.plan)
        total = int(self.trainer.estimated_stepping_batches)
        if self.plan.schedule == "cosine":
            falling = LambdaLR(optimizer, lambda step: lr_scale(step, total, self.plan.warmup))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}
        warm = max(1, round(self.plan.warmup * total))
        rising = LinearLR(optimizer, start_factor=1 / warm, total_iters=warm - 1)
        stuck = ReduceLROnPlateau(optimizer, factor=0.3, patience=max(0, self.plan.patience // 2 - 1))
        schedules = [{"scheduler": rising, "interval": "step"}, {"scheduler": stuck, "interval": "epoch", "monitor": WATCHED}]
        return [optimizer], schedules

    def _check(self, loss: Tensor, batch_idx: int) -> None:
        """Raises Diverged for the first batch since the last look whose loss is no number."""
        self._recent.append(loss.detach())
        if self.device.type != "cpu" and len(self._recent) < LOOK_EVERY and not self.trainer.is_last_batch:
            return
        recent, self._recent = torch.stack(self._recent), []
        if not (fine := torch.isfinite(recent)).all():
            first = int(fine.logical_not().nonzero()[0])
            raise self._diverged(recent[first].item(), len(recent) - 1 - first, batch_idx)

    def _diverged(self, loss: float, batches_ago: int, batch_idx: int) -> Diverged:
        from graft.training.finetuning.datamodule import shown

        step = self.global_step - batches_ago // self.trainer.accumulate_grad_batches
        rates = sorted({float(f"{group['lr']:.2g}") for group in self.trainer.optimizers[0].param_groups})
        files = shown(self.trainer.train_dataloader, self.current_epoch, batch_idx - batches_ago)
        named = f" The batch: {', '.join(files[:NAMED])}{', …' if len(files) > NAMED else ''}." if files else ""
        return Diverged(f"The loss became {loss} at step {step}, learning rates {rates}; try lower ones.{named}")


def make_optimizer(network: Network, plan: Plan) -> Optimizer:
    """The plan's optimizer of all that learns."""
    parameters = groups(network, plan)
    if plan.optimizer == "adamw":
        return AdamW(parameters, fused=True)
    return SGD(parameters, momentum=0.9, nesterov=True, fused=True)


@contextmanager
def _dropping(head: nn.Module, share: float) -> Iterator[None]:
    """Hides a share of the features from the head, whatever features those are."""
    handle = head.register_forward_pre_hook(lambda _, seen: F.dropout(seen[0], share))
    try:
        yield
    finally:
        handle.remove()


def set_head(network: Network, head: Head) -> None:
    """Puts a probe's head into the network, so that training starts from what the probe knows."""
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.copy_(torch.from_numpy(head.bias))
