"""What is best is a number, what is written is whole, and what is random depends on the seed and the epoch alone."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import files_of_at_most

from graft.training.finetuning import checkpoints
from graft.training.finetuning.callbacks import Asked, Keeper, _best, reseed
from graft.training.finetuning.lightning_module import Diverged
from graft.training.runtime.signals import Stop


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
def test_best_epoch_is_the_earliest_with_the_lowest_loss_and_never_one_without_a_number(losses: tuple[float, ...], best: int):
    assert _best(history(*losses)) == best


def trainer(epoch: int, loss: float, **more: object) -> SimpleNamespace:
    """As much of Lightning's trainer as a Keeper looks at; its checkpoint is a real one."""

    def save_checkpoint(path: Path) -> None:
        checkpoints.save({"state_dict": {}, "best": 0}, path)

    scores = {"val/loss": torch.tensor(loss), "train/loss": torch.tensor(1.0)}
    made = SimpleNamespace(current_epoch=epoch, global_step=2 * epoch + 2, callback_metrics=scores, should_stop=False)
    made.__dict__.update(max_epochs=4, save_checkpoint=save_checkpoint, **more)
    return made


def keeper(run: Path, *losses: float) -> Keeper:
    (run / "checkpoints").mkdir()
    made = Keeper(run)
    made.history = history(*losses)
    checkpoints.save({"state_dict": {}, "best": 0}, checkpoints.path_of(run / "checkpoints", 0))
    return made


def test_epoch_without_a_number_is_neither_saved_nor_told(tmp_path: Path):
    kept = keeper(tmp_path, 0.5)
    with pytest.raises(Diverged, match="The loss on validation became nan after epoch 1"):
        kept.on_train_epoch_end(trainer(0, math.nan), None)
    assert (len(kept.history), kept.best) == (1, 0)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")] == ["epoch-0000.ckpt"]


def test_metrics_have_a_row_for_each_epoch(tmp_path: Path):
    kept = keeper(tmp_path, 0.5)
    kept.on_train_epoch_end(trainer(0, 0.25), None)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss,val/loss\n0,0,,0.5\n1,2,1.0,0.25\n"
    assert (kept.epoch, kept.best, kept.ended) == (1, 1, False)


def test_last_two_epochs_and_the_best_are_kept(tmp_path: Path):
    kept = keeper(tmp_path, 0.5)
    for epoch, loss in enumerate((0.2, 0.3, 0.4, 0.45)):
        kept.on_train_epoch_end(trainer(epoch, loss), None)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt"))
    assert names == ["epoch-0001.ckpt", "epoch-0003.ckpt", "epoch-0004.ckpt"]
    assert kept.ended


def test_log_that_finds_no_room_keeps_its_older_rows_and_the_checkpoint(tmp_path: Path):
    kept = keeper(tmp_path, 0.5)
    kept.on_train_epoch_end(trainer(0, 0.25), None)
    before = (tmp_path / "metrics.csv").read_text()
    kept.history[0]["x" * 5000] = 1.0  # a long log, and a checkpoint that still finds its room
    with files_of_at_most(4000), pytest.raises(OSError, match="The disk is full") as refused:
        kept.on_train_epoch_end(trainer(1, 0.125), None)
    assert refused.value.filename == str(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == before
    checkpoints.verify(checkpoints.path_of(tmp_path / "checkpoints", 2))


@pytest.mark.parametrize("last", [True, False])
def test_stop_between_two_batches_waits_for_an_epoch_that_is_done_to_be_saved(last: bool):
    stop = Stop()
    asked = Asked(stop)
    asked.on_train_batch_end(SimpleNamespace(is_last_batch=last), None)
    stop.signal = 15
    if last:
        asked.on_train_batch_end(SimpleNamespace(is_last_batch=True), None)
    with pytest.raises(SystemExit) as ended:
        asked.on_train_batch_end(SimpleNamespace(is_last_batch=False), None)
    assert ended.value.code == 143


def test_random_state_follows_from_seed_and_epoch():
    drawn = {}
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        reseed(seed, epoch)
        drawn.setdefault((seed, epoch), []).append(torch.rand(1).item())
    assert drawn[0, 1][0] == drawn[0, 1][1]
    assert len({values[0] for values in drawn.values()}) == 3
