"""The whole network, trained: the probe's head first, then everything, the backbone more slowly than the head.

LP-FT: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution".
"""

import logging
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from service.network import Network
from training.batches import Batches
from training.probes import Head
from training.progress import Progress, say
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


def learn(network: Network, batches: Batches, recipe: Recipe, epochs: int, run: Path, gpu: bool) -> None:
    """Trains the network, and leaves it as it was after its best epoch; epoch 0, the probe, counts too.

    Args:
        network: with the probe's head.
        run: gets `metrics.csv` and `checkpoints/`.

    Raises:
        Diverged: if the loss becomes NaN or infinite.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what it says about hardware and loggers is said better here
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")
    seed_everything(recipe.seed, workers=True, verbose=False)
    # Checkpoints are renamed into place, which is only atomic from the same file system.
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    best = ModelCheckpoint(run / "checkpoints", "best", monitor=WATCHED, save_weights_only=True, enable_version_counter=False)
    trainer = Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if gpu else "32-true",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        callbacks=[best, EarlyStopping(WATCHED, patience=recipe.patience), Told(recipe.batch_size)],
        logger=CSVLogger(run, name=None, version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=run,
    )
    module = FineTune(network.to(memory_format=torch.channels_last), recipe)
    start = {key: value.detach().clone() for key, value in module.state_dict().items()}
    [before] = trainer.validate(module, batches, verbose=False)
    try:
        trainer.fit(module, batches)
    except SystemExit as ended:
        if trainer.interrupted and ended.code == 1:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    if best.best_model_score is not None and float(best.best_model_score) < before[WATCHED]:
        start = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(start, strict=True)
    network.to("cpu").eval()


class Told(Callback):
    """Says how it goes: images/s and time left within an epoch, and a line after each."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._progress: Progress | None = None
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = int(trainer.num_training_batches) * self._batch_size
        what = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._progress = Progress(what, images, "images").__enter__()
        self._begun = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self._progress is not None:
            self._progress.advance(self._batch_size)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            self._progress.__exit__()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: loss {metrics['train/loss']:.3f},"
            f" validation {metrics['val/accuracy']:.1%} (loss {metrics[WATCHED]:.3f}),"
            f" {time.monotonic() - self._begun:.0f} s"
        )
