"""The training loop around `graft.training.finetuning.lightning_module`: Lightning's trainer, and what a person sees meanwhile."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

from graft.service.networks.network import Network
from graft.training.config.finetune_config import Plan
from graft.training.finetuning import checkpoints, worker_errors
from graft.training.finetuning.callbacks import Asked, Keeper, Reseeded, Trial, reseed
from graft.training.finetuning.datamodule import Batches
from graft.training.finetuning.lightning_module import WATCHED, FineTune
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import Progress, say
from graft.training.runtime.signals import patience

COPIES = 3  # of a checkpoint that there must be room for at the start


def learn(
    network: Network,
    batches: Batches,
    plan: Plan,
    epochs: int,
    run: Path,
    gpu: bool,
    tracked: Sequence[Logger] = (),
    trial: Trial | None = None,
) -> None:
    """Trains the network, and leaves it as it was after its best epoch; epoch 0, the probe, counts too.

    What `run` already holds of this very training is not done again: it goes on after the last epoch that was saved.

    Args:
        network: with the probe's head.
        run: gets `metrics.csv` and `checkpoints/`.
        tracked: who else is told the curves.
        trial: if it is one of many; its epochs are not told one by one then.

    Raises:
        DatasetError: if an image cannot be read any more, by name.
        Diverged: if a loss becomes NaN or infinite; the checkpoints until then are kept.
        CorruptCheckpoint: if there are checkpoints and none is good.
        MemoryError: with the batch size that was too much.
        OSError: if the disk is full, with the bytes needed and free.
        SystemExit: with 128 + signal at Ctrl-C or SIGTERM; what was finished is saved.
    """
    _quiet()
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.remove_unfinished(run)
    module = FineTune(network.to(memory_format=torch.channels_last), plan)
    best = checkpoints.ended(folder)
    if best is None:
        best = _best_of(module, batches, epochs, run, gpu, tracked, trial)
        checkpoints.save(best, folder / checkpoints.BEST)
    checkpoints.keep_only(folder, set())
    module.load_state_dict(best["state_dict"], strict=True)
    network.to("cpu").eval()


def _best_of(
    module: FineTune, batches: Batches, epochs: int, run: Path, gpu: bool, tracked: Sequence[Logger], trial: Trial | None
) -> checkpoints.State:
    """Learns to the end, from the newest checkpoint if there is one; the weights of the best epoch."""
    folder, plan = run / "checkpoints", module.plan
    atomic_files.require_room(run, COPIES * 3 * sum(weight.nbytes for weight in module.parameters()))  # weights and two moments
    train, validation = batches.train_dataloader(), batches.val_dataloader()
    keeper = Keeper(run, trial)
    with patience() as stop, worker_errors.explained(train, validation), _memory_explained(plan.batch_size):
        seed_everything(plan.seed, workers=True, verbose=False)
        callbacks = [keeper, Asked(stop), Reseeded(plan.seed), Told(plan.batch_size, trial)]
        trainer = _trainer(plan, epochs, run, gpu, callbacks, tracked)
        state = checkpoints.newest(folder) or _start(trainer, module, validation, folder)
        keeper.on_load_checkpoint(trainer, module, state)
        keeper.tell()  # whoever was killed after an epoch's checkpoint may not have told its scores
        if not keeper.ended:
            module.load_state_dict(state["state_dict"], strict=True)
            _begin_at(train, keeper.epoch, plan.seed)
            path = checkpoints.path_of(folder, keeper.epoch) if keeper.epoch else None
            trainer.fit(module, train, validation, ckpt_path=path, weights_only=True)
    return {"state_dict": checkpoints.load(checkpoints.path_of(folder, keeper.best))["state_dict"]}


def _start(trainer: Trainer, module: FineTune, validation: DataLoader[Any], folder: Path) -> checkpoints.State:
    """Epoch 0: the network as it came, with its score."""
    [scores] = trainer.validate(module, validation, verbose=False)
    history = [{"epoch": 0, "step": 0, **scores}]
    state = {"state_dict": module.state_dict(), "history": history, "best": 0, "ended": False}
    checkpoints.save(state, checkpoints.path_of(folder, 0))
    return state


def _trainer(
    plan: Plan, epochs: int, run: Path, gpu: bool, callbacks: Sequence[Callback], tracked: Sequence[Logger]
) -> Trainer:
    return Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if gpu else "32-true",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        gradient_clip_val=plan.clip,
        accumulate_grad_batches=plan.accumulate,
        callbacks=[EarlyStopping(WATCHED, patience=plan.patience, check_finite=False), *callbacks],
        plugins=[checkpoints.Files()],
        logger=list(tracked) or False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


def _begin_at(loader: DataLoader[Any], epoch: int, seed: int) -> None:
    """Lets a loader begin with a later epoch: Lightning makes its iterator before it tells it the epoch."""
    reseed(seed, epoch)
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)


@contextmanager
def _memory_explained(batch_size: int) -> Iterator[None]:
    """Turns every way of running out of memory into a MemoryError that says what to try next."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in text:
            raise
        smaller = f"--batch-size {batch_size // 2}" if batch_size > 1 else "a smaller --input-size"
        raise MemoryError(
            f"A batch of {batch_size} images does not fit into memory; try {smaller}. ({text.splitlines()[:1]})"
        ) from None


def _quiet() -> None:
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what it says about hardware and loggers is said better here
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")


class Told(Callback):
    """Says how it goes: images/s and time left within an epoch, and a line after each that is not one of a trial's."""

    def __init__(self, batch_size: int, trial: Trial | None = None) -> None:
        self._batch_size, self._trial = batch_size, trial
        self._progress: Progress | None = None
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        images = int(trainer.num_training_batches) * self._batch_size
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        what = f"{self._trial.name}, {epoch}" if self._trial else epoch
        self._progress = Progress(what, images, "images").__enter__()
        self._begun = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self._progress is not None:
            self._progress.advance(self._batch_size)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            self._progress.__exit__()
        if self._trial:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: loss {metrics['train/loss']:.3f},"
            f" validation {metrics['val/accuracy']:.1%} (loss {metrics[WATCHED]:.3f}),"
            f" {time.monotonic() - self._begun:.0f} s"
        )
