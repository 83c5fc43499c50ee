"""Runs the Lightning Trainer with checkpoints and early stopping, and reports progress."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector
from torch.utils.data import DataLoader

from graft.service.inference.devices import Device
from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.finetuning import checkpoints, worker_errors
from graft.training.finetuning.callbacks import CheckpointCallback, GracefulStop, ReseedEachEpoch, ReviseEpochs, Trial, reseed
from graft.training.finetuning.datamodule import DataModule
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.lightning_module import MONITOR, FineTune
from graft.training.finetuning.precision import precision_plugin
from graft.training.runtime import atomic_files, gpu
from graft.training.runtime.device import without_cuda
from graft.training.runtime.lightning_logs import silence_lightning
from graft.training.runtime.progress import Progress, log, step
from graft.training.runtime.signals import graceful_stop

MIN_FREE_CHECKPOINTS = 3  # checkpoints that must fit on the disk at the start


def train(
    network: Network,
    datamodule: DataModule,
    config: FineTuneConfig,
    plan: EpochPlan,
    run: Path,
    device: Device,
    loggers: Sequence[Logger] = (),
    trial: Trial | None = None,
) -> None:
    """Trains the network in place and restores the weights of the best epoch. Epoch 0, the state before training, counts.

    Resumes after the last saved epoch if `run` holds checkpoints of this training.

    Args:
        network: with the head of the probe.
        plan: the number of epochs; a resumed run repeats its revisions.
        run: folder for `metrics.csv` and `checkpoints/`.
        loggers: experiment trackers.
        trial: set for a hyperparameter search trial; its epochs are not logged one by one.

    Raises:
        DatasetError: if an image can no longer be read, with its name.
        Diverged: if a loss becomes NaN or infinite; earlier checkpoints are kept.
        CorruptCheckpoint: if there are checkpoints and all are corrupt.
        MemoryError: with the batch size that did not fit.
        OSError: if the disk is full, with the bytes needed and free.
        SystemExit: with 128 + signal on Ctrl-C or SIGTERM; completed epochs are saved.
    """
    silence_lightning()
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.remove_temp_files(run)
    module = FineTune(network.to(memory_format=torch.channels_last), config, plan)
    best = checkpoints.load_best(folder)
    if best is None:
        with gpu.deterministic(device), without_cuda(device):
            best = _fit_to_best(module, datamodule, run, device, loggers, trial)
        checkpoints.save(best, folder / checkpoints.BEST)
    checkpoints.keep_only(folder, set())
    module.load_state_dict(best["state_dict"], strict=True)
    network.to("cpu").eval()


def _fit_to_best(
    module: FineTune,
    datamodule: DataModule,
    run: Path,
    device: Device,
    loggers: Sequence[Logger],
    trial: Trial | None,
) -> checkpoints.State:
    """Trains to the end, from the newest checkpoint if there is one; returns the weights of the best epoch."""
    folder, config, plan = run / "checkpoints", module.config, module.plan
    checkpoint_bytes = 3 * sum(weight.nbytes for weight in module.parameters())  # weights and two optimizer moments
    atomic_files.require_free_bytes(run, MIN_FREE_CHECKPOINTS * checkpoint_bytes)
    train_loader, val_loader = datamodule.train_dataloader(), datamodule.val_dataloader()
    checkpoint = CheckpointCallback(run, trial)
    with (
        graceful_stop() as stop,
        worker_errors.explain_worker_failure(train_loader, val_loader),
        _explain_out_of_memory(config.batch_size),
    ):
        seed_everything(config.seed, workers=True, verbose=False)
        progress = ProgressCallback(config.batch_size, trial)
        callbacks = [checkpoint, GracefulStop(stop), ReseedEachEpoch(config.seed), ReviseEpochs(plan), progress]
        trainer = _make_trainer(config, plan.epochs, run, device, callbacks, loggers)
        state = checkpoints.load_newest(folder) or _validate_initial(trainer, module, val_loader, folder)
        checkpoint.on_load_checkpoint(trainer, module, state)
        trainer.fit_loop.max_epochs = plan.restore(checkpoint.epoch)
        checkpoint.write_metrics()  # a run killed after a checkpoint may not have written the metrics of that epoch
        if not checkpoint.finished:
            module.load_state_dict(state["state_dict"], strict=True)
            _set_epoch(train_loader, checkpoint.epoch, config.seed)
            path = checkpoints.checkpoint_path(folder, checkpoint.epoch) if checkpoint.epoch else None
            trainer.fit(module, train_loader, val_loader, ckpt_path=path, weights_only=True)
    return {"state_dict": checkpoints.load(checkpoints.checkpoint_path(folder, checkpoint.best_epoch))["state_dict"]}


@step("validating the initial network")
def _validate_initial(trainer: Trainer, module: FineTune, validation: DataLoader[Any], folder: Path) -> checkpoints.State:
    """Validates and saves the state before training as epoch 0."""
    [metrics] = trainer.validate(module, validation, verbose=False)
    history = [{"epoch": 0, "step": 0, **metrics}]
    state = {"state_dict": module.state_dict(), "history": history, "best": 0, "ended": False}
    checkpoints.save(state, checkpoints.checkpoint_path(folder, 0))
    return state


def _make_trainer(
    config: FineTuneConfig, epochs: int, run: Path, device: Device, callbacks: Sequence[Callback], loggers: Sequence[Logger]
) -> Trainer:
    trainer = Trainer(
        accelerator=device,
        devices=1,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        gradient_clip_val=config.clip_grad,
        accumulate_grad_batches=config.accumulate_grad_batches,
        callbacks=[EarlyStopping(MONITOR, patience=config.patience, check_finite=False), *callbacks],
        plugins=[checkpoints.VerifiedCheckpointIO(), precision_plugin(config.training_precision, device)],
        logger=list(loggers) or False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    # Otherwise Lightning takes SIGTERM, in a program that is not ours. `graceful_stop` handles it for the command line.
    trainer._signal_connector = _NoSignals(trainer)
    return trainer


class _NoSignals(_SignalConnector):
    def register_signal_handlers(self) -> None:
        """Registers none."""


def _set_epoch(loader: DataLoader[Any], epoch: int, seed: int) -> None:
    """Sets the epoch of a data loader in advance: Lightning creates the iterator before it calls `set_epoch`."""
    reseed(seed, epoch)
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)


@contextmanager
def _explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Converts all out-of-memory errors to a MemoryError with a remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in text:
            raise
        remedy = f"--batch-size {batch_size // 2}" if batch_size > 1 else "a smaller --input-size"
        raise MemoryError(
            f"A batch of {batch_size} images does not fit into memory; try {remedy}. ({text.splitlines()[:1]})"
        ) from None


class ProgressCallback(Callback):
    """Progress output: images/s and remaining time within an epoch, and one line per epoch, except for trials."""

    def __init__(self, batch_size: int, trial: Trial | None = None) -> None:
        self._batch_size, self._trial = batch_size, trial
        self._progress: Progress | None = None
        self._started_at = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = int(trainer.num_training_batches) * self._batch_size
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        title = f"{self._trial.name}, {epoch}" if self._trial else epoch
        self._progress = Progress(title, images, "images").__enter__()
        self._started_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self._progress is not None:
            self._progress.advance(self._batch_size)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        if self._trial:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        log(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: loss {metrics['train/loss']:.3f},"
            f" validation {metrics['val/accuracy']:.1%} (loss {metrics[MONITOR]:.3f}),"
            f" {time.monotonic() - self._started_at:.0f} s"
        )

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
            self._progress = None
