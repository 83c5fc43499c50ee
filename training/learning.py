"""The training loop around `training.finetune`: Lightning's trainer, checkpoints, and what a person sees meanwhile."""

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger

from service.network import Network
from training.batches import Batches
from training.finetune import WATCHED, FineTune
from training.plan import Plan
from training.progress import Progress, say


def learn(
    network: Network, batches: Batches, plan: Plan, epochs: int, run: Path, gpu: bool, tracked: Sequence[Logger] = ()
) -> None:
    """Trains the network, and leaves it as it was after its best epoch; epoch 0, the probe, counts too.

    Args:
        network: with the probe's head.
        run: gets `metrics.csv` and `checkpoints/`.
        tracked: who else is told the curves.

    Raises:
        Diverged: if the loss becomes NaN or infinite.
    """
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what it says about hardware and loggers is said better here
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")
    seed_everything(plan.seed, workers=True, verbose=False)
    # Checkpoints are renamed into place, which is only atomic from the same file system.
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    best = ModelCheckpoint(run / "checkpoints", "best", monitor=WATCHED, save_weights_only=True, enable_version_counter=False)
    trainer = Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if gpu else "32-true",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        gradient_clip_val=plan.clip,
        accumulate_grad_batches=plan.accumulate,
        callbacks=[best, EarlyStopping(WATCHED, patience=plan.patience), Told(plan.batch_size)],
        logger=[CSVLogger(run, name=None, version=""), *tracked],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=run,
    )
    module = FineTune(network.to(memory_format=torch.channels_last), plan)
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
