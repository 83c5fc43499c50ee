"""Lightning callbacks for exact resume: checkpoints, graceful stop, and reseeding. Progress output is in `trainer`."""

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch.optim.lr_scheduler import ReduceLROnPlateau

from graft.training.finetuning import checkpoints
from graft.training.finetuning.lightning_module import WATCHED, Diverged
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import say
from graft.training.runtime.signals import Stop

Row = dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One trial of a hyperparameter search.

    Attributes:
        name: display name, such as `trial 3/20`.
        should_prune: called after each epoch with the validation losses so far; returns whether to stop the trial.
    """

    name: str
    hopeless: Callable[[list[float]], bool]


class Keeper(Checkpoint):
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
        self.best, self.ended = 0, False

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return len(self.history) - 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: checkpoints.State) -> None:
        checkpoint |= {"history": self.history, "best": self.best, "ended": self.ended}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: checkpoints.State) -> None:
        self.history, self.best, self.ended = (checkpoint[name] for name in ("history", "best", "ended"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch:
            say(f"resuming after epoch {self.epoch}/{trainer.max_epochs}")
            # Lightning steps ReduceLROnPlateau only after the checkpoint of the epoch was saved, so repeat that step here.
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, ReduceLROnPlateau):
                    config.scheduler.step(self.history[-1][config.monitor or WATCHED])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(metrics[WATCHED]):
            raise Diverged(f"The validation loss became {metrics[WATCHED]} after epoch {trainer.current_epoch + 1}.")
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **metrics})
        self.best, previous_best = _best(self.history), _best(self.history[:-1])
        if self._trial and self._trial.hopeless([row[WATCHED] for row in self.history[1:]]):
            trainer.should_stop = True
        self.ended = trainer.should_stop or self.epoch >= (trainer.max_epochs or 0)
        trainer.save_checkpoint(checkpoints.path_of(self._folder, self.epoch))
        checkpoints.keep_only(self._folder, {self.epoch, self.epoch - 1, self.best, previous_best})
        self.tell()

    def tell(self) -> None:
        """Writes `metrics.csv`."""
        text = io.StringIO()
        names = sorted({name for row in self.history for name in row} - {"epoch", "step"})
        writer = csv.DictWriter(text, ["epoch", "step", *names], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        atomic_files.write(self._metrics, text.getvalue())


class Asked(Callback):
    """Stops training between two batches on request; after the last batch of an epoch, once its checkpoint is saved."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if not trainer.is_last_batch:
            self._end()

    def _end(self) -> None:
        if self._stop.signal:
            raise SystemExit(128 + self._stop.signal)


class Reseeded(Callback):
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


def _best(history: list[Row]) -> int:
    """First epoch with the lowest validation loss; NaN and infinity never win."""
    losses = [row[WATCHED] if math.isfinite(row[WATCHED]) else math.inf for row in history]
    return losses.index(min(losses))
