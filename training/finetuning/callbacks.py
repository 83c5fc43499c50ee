"""Lightning callbacks for exact resume: checkpoints, graceful stop, and reseeding. Progress output is in `trainer`."""

import csv
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau

from graft.training.finetuning import checkpoints
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.lightning_module import MONITOR, Diverged
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import log
from graft.training.runtime.signals import StopFlag

Row = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One trial of a hyperparameter search.

    Attributes:
        name: display name, such as `trial 3/20`.
        should_prune: called after each epoch with the validation losses so far; returns whether to stop the trial.
    """

    name: str
    should_prune: Callable[[list[float]], bool]


class CheckpointCallback(Checkpoint):
    """Saves a checkpoint and updates `metrics.csv` after every epoch.

    Attributes:
        history: logged metrics, one row per epoch; epoch 0 is the state before training.
        best_epoch: epoch with the lowest validation loss.
        finished: whether training is complete.
    """

    def __init__(self, run: Path, trial: Trial | None = None) -> None:
        self._folder, self._metrics = run / "checkpoints", run / "metrics.csv"
        self._trial = trial
        self.history: list[Row] = []
        self.best_epoch, self.finished = 0, False

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return len(self.history) - 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: checkpoints.State) -> None:
        checkpoint |= {"history": self.history, "best": self.best_epoch, "ended": self.finished}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: checkpoints.State) -> None:
        self.history, self.best_epoch, self.finished = (checkpoint[name] for name in ("history", "best", "ended"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch:
            log(f"resuming after epoch {self.epoch}/{trainer.max_epochs}")
            # Lightning steps ReduceLROnPlateau only after the checkpoint of the epoch was saved, so repeat that step here.
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, ReduceLROnPlateau):
                    config.scheduler.step(self.history[-1][config.monitor or MONITOR])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(metrics[MONITOR]):
            raise Diverged(f"The validation loss became {metrics[MONITOR]} after epoch {trainer.current_epoch + 1}.")
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics})
        self.best_epoch, previous_best = _best_epoch(self.history), _best_epoch(self.history[:-1])
        if self._trial and self._trial.should_prune([row[MONITOR] for row in self.history[1:]]):
            trainer.should_stop = True
        self.finished = trainer.should_stop or self.epoch >= (trainer.max_epochs or 0)
        trainer.save_checkpoint(checkpoints.checkpoint_path(self._folder, self.epoch))
        checkpoints.keep_only(self._folder, {self.epoch, self.epoch - 1, self.best_epoch, previous_best})
        self.write_metrics()

    def write_metrics(self) -> None:
        """Writes `metrics.csv`."""
        text = io.StringIO()
        names = sorted({name for row in self.history for name in row} - {"epoch", "step"})
        writer = csv.DictWriter(text, ["epoch", "step", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        atomic_files.write_text(self._metrics, text.getvalue())


class ReviseEpochs(Callback):
    """Revises the number of epochs after each one, by the time that it took with loading and validation."""

    def __init__(self, plan: EpochPlan) -> None:
        self._plan, self._started_at = plan, math.nan

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained, planned = trainer.current_epoch + 1, trainer.max_epochs
        total = self._plan.revise(trained, time.monotonic() - self._started_at)
        trainer.fit_loop.max_epochs = total
        if abs(total - (planned or 0)) > 1:  # by one, it goes back and forth
            log(f"{total} epochs fit into the budget, {planned} were planned")


class GracefulStop(Callback):
    """Stops training between two batches on request; after the last batch of an epoch, once its checkpoint is saved."""

    def __init__(self, stop: StopFlag) -> None:
        self._stop = stop

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._exit_if_requested()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if not trainer.is_last_batch:
            self._exit_if_requested()

    def _exit_if_requested(self) -> None:
        if self._stop.signal:
            raise SystemExit(128 + self._stop.signal)


class ReseedEachEpoch(Callback):
    """Reseeds torch in each epoch, so that randomness depends only on the seed and the epoch."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reseed(self._seed, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 0:  # again, because a resumed run may draw the seed of the data loader at another point
            reseed(self._seed, trainer.current_epoch)


def reseed(seed: int, epoch: int) -> None:
    """Sets torch's random state for the start of an epoch."""
    torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)


def _best_epoch(history: list[Row]) -> int:
    """First epoch with the lowest validation loss; NaN and infinity never win."""
    losses = [row[MONITOR] if math.isfinite(row[MONITOR]) else math.inf for row in history]
    return losses.index(min(losses))
