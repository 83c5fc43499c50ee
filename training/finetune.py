"""The whole network, trained: the probe's head first, then everything, the backbone more slowly than the head.

LP-FT: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution".
"""

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from service.network import Network
from training.probes import Head
from training.recipe import Recipe, lr_scale

WATCHED = "val/loss"


class Diverged(RuntimeError):
    """The loss is no number any more."""


class FineTune(LightningModule):
    """Trains head and backbone together, the backbone more slowly; BatchNorm keeps its pretrained statistics."""

    def __init__(self, network: Network, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch  # uint8 (N, crop, crop, 3), int64 (N,)
        logits, _vectors = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if not torch.isfinite(loss):
            rates = [group["lr"] for group in self.trainer.optimizers[0].param_groups]
            raise Diverged(f"The loss became {loss.item()} at step {self.global_step}, learning rates {rates}.")
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        logits, _vectors = self.network(images)
        right = (logits.argmax(dim=1) == labels).float().mean()
        self.log(WATCHED, F.cross_entropy(logits, labels), batch_size=len(labels))
        self.log("val/accuracy", right, batch_size=len(labels))

    def on_train_epoch_start(self) -> None:
        # A few hundred images make poor statistics, and small batches make noisy ones.
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = AdamW(_groups(self.network, self.recipe))
        total = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: lr_scale(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _groups(network: Network, recipe: Recipe) -> list[dict[str, object]]:
    """Parameters by learning rate and by whether they shrink: weights do, biases and norms do not."""
    groups: list[dict[str, object]] = []
    for part, rate in ((network.backbone, recipe.backbone_rate), (network.head, recipe.head_rate)):
        parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
        for shrinks, decay in ((True, recipe.weight_decay), (False, 0.0)):
            chosen = [parameter for parameter in parameters if (parameter.ndim > 1) == shrinks]
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def set_head(network: Network, head: Head) -> None:
    """Puts a probe's head into the network, so that training starts from what the probe knows."""
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(head.weight))
        network.head.bias.copy_(torch.from_numpy(head.bias))
