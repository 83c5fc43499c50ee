"""Callbacks: best epoch, atomic files, graceful stop and reseeding."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import file_size_limit

from graft.training.finetuning import checkpoints
from graft.training.finetuning.callbacks import CheckpointCallback, GracefulStop, _best_epoch, reseed
from graft.training.finetuning.lightning_module import Diverged
from graft.training.runtime.signals import StopFlag


def history(*losses: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "step": 2 * epoch, "val/loss": loss} for epoch, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ((0.5, 0.4, 0.6), 1),
        ((0.5, 0.5), 0),
        ((math.nan, 0.9), 1),
        ((0.9, math.nan), 0),
        ((0.9, math.inf, 0.8, math.nan), 2),
        ((0.9, -math.inf), 0),
        ((math.nan, math.nan), 0),
    ],
)
def test_best_epoch_is_the_first_with_the_lowest_finite_loss(losses: tuple[float, ...], best: int):
    assert _best_epoch(history(*losses)) == best


def trainer(epoch: int, loss: float, **more: object) -> SimpleNamespace:
    """The parts of a Lightning Trainer that the checkpoint callback uses; saves a real checkpoint."""

    def save_checkpoint(path: Path) -> None:
        checkpoints.save({"state_dict": {}, "best": 0}, path)

    metrics = {"val/loss": torch.tensor(loss), "train/loss": torch.tensor(1.0)}
    made = SimpleNamespace(current_epoch=epoch, global_step=2 * epoch + 2, callback_metrics=metrics, should_stop=False)
    made.__dict__.update(max_epochs=4, save_checkpoint=save_checkpoint, **more)
    return made


def checkpoint_callback(run: Path, *losses: float) -> CheckpointCallback:
    (run / "checkpoints").mkdir()
    made = CheckpointCallback(run)
    made.history = history(*losses)
    checkpoints.save({"state_dict": {}, "best": 0}, checkpoints.checkpoint_path(run / "checkpoints", 0))
    return made


def test_epoch_with_nan_loss_is_neither_saved_nor_logged(tmp_path: Path):
    callback = checkpoint_callback(tmp_path, 0.5)
    with pytest.raises(Diverged, match="The validation loss became nan after epoch 1"):
        callback.on_train_epoch_end(trainer(0, math.nan), None)
    assert (len(callback.history), callback.best_epoch) == (1, 0)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")] == ["epoch-0000.ckpt"]


def test_metrics_have_a_row_per_epoch(tmp_path: Path):
    callback = checkpoint_callback(tmp_path, 0.5)
    callback.on_train_epoch_end(trainer(0, 0.25), None)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss,val/loss\n0,0,,0.5\n1,2,1.0,0.25\n"
    assert (callback.epoch, callback.best_epoch, callback.finished) == (1, 1, False)


def test_last_two_epochs_and_the_best_are_kept(tmp_path: Path):
    callback = checkpoint_callback(tmp_path, 0.5)
    for epoch, loss in enumerate((0.2, 0.3, 0.4, 0.45)):
        callback.on_train_epoch_end(trainer(epoch, loss), None)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt"))
    assert names == ["epoch-0001.ckpt", "epoch-0003.ckpt", "epoch-0004.ckpt"]
    assert callback.finished


def test_full_disk_keeps_older_metrics_and_the_checkpoint(tmp_path: Path):
    callback = checkpoint_callback(tmp_path, 0.5)
    callback.on_train_epoch_end(trainer(0, 0.25), None)
    before = (tmp_path / "metrics.csv").read_text()
    callback.history[0]["x" * 5000] = 1.0  # large metrics, and a checkpoint that still fits
    with file_size_limit(4000), pytest.raises(OSError, match="The disk is full") as raised:
        callback.on_train_epoch_end(trainer(1, 0.125), None)
    assert raised.value.filename == str(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == before
    checkpoints.verify(checkpoints.checkpoint_path(tmp_path / "checkpoints", 2))


@pytest.mark.parametrize("last", [True, False])
def test_stop_request_waits_for_the_checkpoint_of_a_finished_epoch(last: bool):
    stop = StopFlag()
    graceful_stop = GracefulStop(stop)
    graceful_stop.on_train_batch_end(SimpleNamespace(is_last_batch=last), None)
    stop.signal = 15
    if last:
        graceful_stop.on_train_batch_end(SimpleNamespace(is_last_batch=True), None)
    with pytest.raises(SystemExit) as ended:
        graceful_stop.on_train_batch_end(SimpleNamespace(is_last_batch=False), None)
    assert ended.value.code == 143


def test_random_state_depends_on_seed_and_epoch():
    samples = {}
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        reseed(seed, epoch)
        samples.setdefault((seed, epoch), []).append(torch.rand(1).item())
    assert samples[0, 1][0] == samples[0, 1][1]
    assert len({values[0] for values in samples.values()}) == 3
