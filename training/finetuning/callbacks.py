"""What the training loop does so that it can be killed, and gone on with exactly: saving, stopping, the random state."""

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
    """One of many fine-tunings, of which one is kept.

    Attributes:
        name: for a person, such as `trial 3/20`.
        hopeless: asked after each epoch, given the loss on validation after each so far: whether to give up.
    """

    name: str
    hopeless: Callable[[list[float]], bool]


class Keeper(Checkpoint):
    """After every epoch saves all that is needed to go on from there, and brings `metrics.csv` up to date.

    Attributes:
        history: a row for each epoch, of what was logged; epoch 0 is the start.
        best: the epoch with the lowest validation loss.
        ended: whether no epoch follows.
    """

    def __init__(self, run: Path, trial: Trial | None = None) -> None:
        self._folder, self._metrics = run / "checkpoints", run / "metrics.csv"
        self._trial = trial
        self.history: list[Row] = []
        self.best, self.ended = 0, False

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return len(self.history) - 1

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: checkpoints.State) -> None:
        checkpoint |= {"history": self.history, "best": self.best, "ended": self.ended}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: checkpoints.State) -> None:
        self.history, self.best, self.ended = (checkpoint[name] for name in ("history", "best", "ended"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch:
            say(f"going on after epoch {self.epoch}/{trainer.max_epochs}")
            # Lightning lets a plateau's schedule look at an epoch's score only after that epoch is saved.
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, ReduceLROnPlateau):
                    config.scheduler.step(self.history[-1][config.monitor or WATCHED])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(scores[WATCHED]):
            raise Diverged(f"The loss on validation became {scores[WATCHED]} after epoch {trainer.current_epoch + 1}.")
        self.history.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **scores})
        self.best, before = _best(self.history), _best(self.history[:-1])
        if self._trial and self._trial.hopeless([row[WATCHED] for row in self.history[1:]]):
            trainer.should_stop = True
        self.ended = trainer.should_stop or self.epoch >= (trainer.max_epochs or 0)
        trainer.save_checkpoint(checkpoints.path_of(self._folder, self.epoch))
        checkpoints.keep_only(self._folder, {self.epoch, self.epoch - 1, self.best, before})
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
    """Ends between two batches if somebody asked; after an epoch's last batch, once that epoch is saved."""

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
    """Makes what is random in an epoch depend on the seed and the epoch alone, not on what ran before."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reseed(self._seed, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 0:  # again: whether the loader has drawn its own seed by now differs after a resume
            reseed(self._seed, trainer.current_epoch)


def reseed(seed: int, epoch: int) -> None:
    """Sets torch's random state to that of an epoch's beginning."""
    torch.manual_seed((seed * 1_000_003 + epoch) % 2**63)


def _best(history: list[Row]) -> int:
    """The epoch with the lowest loss on validation, the earliest of several; one that is no number never is."""
    losses = [row[WATCHED] if math.isfinite(row[WATCHED]) else math.inf for row in history]
    return losses.index(min(losses))
