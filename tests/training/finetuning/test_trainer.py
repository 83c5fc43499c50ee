"""Training loop: errors, signals, a full disk and resuming."""

import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import file_size_limit
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from graft.service.manifest import Preprocessing
from graft.training.audit.image_scan import scan_images
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.splits import Splits, split
from graft.training.finetuning import checkpoints, datamodule
from graft.training.finetuning.datamodule import DataModule
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.lightning_module import Diverged, FineTune
from graft.training.finetuning.trainer import train
from graft.training.runtime.signals import allow_graceful_stop

SIDE = 32
SQUARE = Preprocessing(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Small(nn.Module):
    """A network of two layers: uint8 (N, 32, 32, 3) -> two logits; `hook` is called with the number of each batch."""

    def __init__(self, hook: Callable[["Small", int], None] = lambda network, step: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, 4))
        self.head = nn.Linear(4, 2)
        self._hook, self._step = hook, 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self._hook(self, self._step)
            self._step += 1
        vectors = self.backbone(images.float() / 255 - 0.5)
        return self.head(vectors), vectors


@dataclasses.dataclass(frozen=True)
class Photos:
    dataset: Dataset
    splits: Splits

    def path(self, part: str, number: int = 0) -> str:
        return self.splits.to_dict()[part][number].path

    def learn(self, network: nn.Module, run: Path, epochs: int | EpochPlan = 3, **choices: object) -> Path:
        epoch_plan = epochs if isinstance(epochs, EpochPlan) else EpochPlan(epochs)
        plan = self.plan(epoch_plan.epochs, **choices)
        train(network, DataModule(self.dataset, self.splits, SQUARE, plan, device="cpu"), plan, epoch_plan, run, device="cpu")
        return run

    def plan(self, epochs: int, **choices: object) -> FineTuneConfig:
        train = self.splits.train
        options = {"batch_size": 4, "epochs": epochs, "balance": "none", "augment": "none", "pixel_cache": 0, **choices}
        return resolve_config(Recipe.model_validate(options), DataStats(len(train), self.dataset.counts(train)))


@pytest.fixture
def photos(make_folder) -> Photos:
    """Twelve images of two labels: 8 for training in batches of four, 2 for validation."""
    dataset = scan_images(scan(make_folder({"cat": 6, "dog": 6}, side=SIDE)))[0]
    return Photos(dataset, split(dataset, seed=0))


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*.ckpt"))


def rows(run: Path) -> list[str]:
    return (run / "metrics.csv").read_text().splitlines()


class Rates(Callback):
    """Records the factor of the learning rates before each step."""

    def __init__(self) -> None:
        self.factors: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        self.factors.append(trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[-1])


def budgeted(epochs: int, totals: dict[int, int]) -> EpochPlan:
    """A plan with a deadline, which is revised to these numbers of epochs."""
    return EpochPlan(epochs, 20, time.monotonic() + 1e6, lambda trained, _: totals[trained])


@pytest.mark.parametrize(("planned", "totals"), [(6, {1: 4, 2: 3, 3: 3}), (2, {1: 3, 2: 5, 3: 5, 4: 5, 5: 5})])
def test_revised_number_of_epochs_is_trained_and_ends_annealed(photos: Photos, tmp_path: Path, monkeypatch, planned, totals):
    rates, n_epochs = Rates(), max(totals)
    monkeypatch.setattr(FineTune, "configure_callbacks", lambda _: [rates])
    run = photos.learn(Small(), tmp_path, budgeted(planned, totals), patience=20)
    assert [row.partition(",")[0] for row in rows(run)[1:]] == [str(epoch) for epoch in range(n_epochs + 1)]
    assert len(rates.factors) == 2 * n_epochs
    assert rates.factors[-1] < 0.35 * max(rates.factors)  # one of two steps of the last epoch is left
    assert checkpoints.load_best(run / "checkpoints") is not None


def test_resumed_training_repeats_the_revised_plan(photos: Photos, tmp_path: Path):
    totals = {1: 5, 2: 4, 3: 4, 4: 4}
    whole, resumed = Small(), Small()
    photos.learn(whole, tmp_path / "whole", budgeted(7, totals), patience=20)

    def fail(_: Small, step: int) -> None:
        if step == 5:  # in the third epoch
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        photos.learn(Small(fail), tmp_path / "resumed", budgeted(7, totals), patience=20)
    photos.learn(resumed, tmp_path / "resumed", budgeted(7, totals), patience=20)
    assert rows(tmp_path / "resumed") == rows(tmp_path / "whole")
    for key, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], tensor, rtol=0, atol=0)


def make_loss_nan(network: Small, step: int) -> None:
    """Makes the loss of the third step NaN."""
    if step == 2:
        with torch.no_grad():
            network.head.bias[0] = float("nan")


def test_divergence_stops_at_that_step_and_keeps_the_last_valid_checkpoint(photos: Photos, tmp_path: Path):
    message = (
        r"The loss became nan at step 2, learning rates \[.+\]; try lower ones\. The batch: (\w+/\d+\.png, ){3}\w+/\d+\.png\.$"
    )
    with pytest.raises(Diverged, match=message):
        photos.learn(Small(make_loss_nan), tmp_path)
    assert kept(tmp_path) == ["epoch-0000.ckpt", "epoch-0001.ckpt"]
    good = checkpoints.load_newest(tmp_path / "checkpoints")
    assert all(tensor.isfinite().all() for tensor in good["state_dict"].values())
    assert [row.partition(",")[0] for row in rows(tmp_path)] == ["epoch", "0", "1"]


def test_error_names_the_files_of_the_failing_batch(photos: Photos, tmp_path: Path):
    with pytest.raises(Diverged) as raised:
        photos.learn(Small(make_loss_nan), tmp_path)
    named = set(re.findall(r"\w+/\d+\.png", str(raised.value)))
    plan = photos.plan(3)
    loader = DataModule(photos.dataset, photos.splits, SQUARE, plan, device="cpu").train_dataloader()
    assert named == set(datamodule.batch_paths(loader, epoch=1, batch=0))


def make_validation_nan(network: Small, step: int) -> None:
    """Makes the weights NaN at the end of the second epoch, after a finite loss."""
    if step == 3:
        network.backbone[1].weight.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))


def test_epoch_with_nan_validation_loss_is_neither_saved_nor_best(photos: Photos, tmp_path: Path):
    with pytest.raises(Diverged, match="The validation loss became nan after epoch 2"):
        photos.learn(Small(make_validation_nan), tmp_path, ema=False)
    assert kept(tmp_path) == ["epoch-0000.ckpt", "epoch-0001.ckpt"]


def take_all_memory(network: Small, step: int) -> None:
    torch.empty(2**50, dtype=torch.uint8)


def raise_memory_error(network: Small, step: int) -> None:
    raise MemoryError


def raise_cuda_out_of_memory(network: Small, step: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ...")


@pytest.mark.parametrize("hook", [take_all_memory, raise_memory_error, raise_cuda_out_of_memory])
@pytest.mark.parametrize(
    ("batch_size", "next_to_try"), [(4, "--batch-size 2"), (7, "--batch-size 3"), (1, "a smaller --input-size")]
)
def test_out_of_memory_error_suggests_a_smaller_batch_size(
    photos: Photos, tmp_path: Path, hook, batch_size: int, next_to_try: str
):
    message = rf"^A batch of {batch_size} images does not fit into memory; try {next_to_try}\."
    with pytest.raises(MemoryError, match=message) as raised:
        photos.learn(Small(hook), tmp_path, batch_size=batch_size)
    assert "\n" not in str(raised.value)
    assert kept(tmp_path) == ["epoch-0000.ckpt"]


def test_other_errors_are_not_changed(photos: Photos, tmp_path: Path):
    def break_down(network: Small, step: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes cannot be multiplied$"):
        photos.learn(Small(break_down), tmp_path)


def test_full_disk_at_the_start_is_reported_before_training(photos: Photos, tmp_path: Path, monkeypatch):
    weights = sum(parameter.nbytes for parameter in Small().parameters())
    monkeypatch.setattr("graft.training.runtime.atomic_files.free_bytes", lambda _: 9 * weights - 1)
    with pytest.raises(OSError, match=rf"{9 * weights:,} bytes are needed and {9 * weights - 1:,} are free"):
        photos.learn(Small(take_all_memory), tmp_path)
    assert kept(tmp_path) == []
    monkeypatch.setattr("graft.training.runtime.atomic_files.free_bytes", lambda _: 9 * weights)
    photos.learn(Small(), tmp_path, epochs=1)


def test_full_disk_during_training_keeps_the_last_valid_checkpoint(photos: Photos, tmp_path: Path):
    with file_size_limit(60_000), pytest.raises(OSError, match=r"The disk is full: [\d,]+ bytes are needed"):
        photos.learn(Small(), tmp_path)  # 49 kB of weights, and twice as much of optimizer moments from the first epoch on
    assert kept(tmp_path) == ["epoch-0000.ckpt"]
    assert checkpoints.load_newest(tmp_path / "checkpoints")["best"] == 0
    photos.learn(Small(), tmp_path)
    assert kept(tmp_path) == ["best.ckpt"]


def send_signal(number: int) -> Callable[[Small, int], None]:
    """Sends a signal during the first batch of the second epoch."""

    def hook(network: Small, step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    return hook


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stop_signal_finishes_the_batch_and_resume_gives_the_same_result(
    photos: Photos, tmp_path: Path, number: int, code: int
):
    with allow_graceful_stop(), pytest.raises(SystemExit) as ended:
        photos.learn(Small(send_signal(number)), tmp_path / "stopped")
    assert ended.value.code == code
    assert kept(tmp_path / "stopped") == ["epoch-0000.ckpt", "epoch-0001.ckpt"]
    photos.learn(Small(), tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(photos.learn(Small(), tmp_path / "unbroken"))


def test_unfinished_files_of_a_killed_run_are_removed(photos: Photos, tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    for half in (tmp_path / ".metrics.csv.123.tmp", tmp_path / "checkpoints/.epoch-0001.ckpt.123.tmp"):
        half.write_bytes(b"half")
    photos.learn(Small(), tmp_path, epochs=1)
    assert list(tmp_path.rglob(".*")) == []


@pytest.mark.slow
def test_corrupt_checkpoint_costs_an_epoch_and_gives_the_same_result(photos: Photos, tmp_path: Path, capsys):
    with pytest.raises(Diverged):
        photos.learn(Small(lambda network, step: make_loss_nan(network, step - 2)), tmp_path / "harmed")
    assert kept(tmp_path / "harmed")[-1] == "epoch-0002.ckpt"
    os.truncate(tmp_path / "harmed/checkpoints/epoch-0002.ckpt", 1000)
    photos.learn(Small(), tmp_path / "harmed")
    message = capsys.readouterr().err
    assert "epoch-0002.ckpt has sha256" in message
    assert "resuming after epoch 1/3" in message
    assert rows(tmp_path / "harmed") == rows(photos.learn(Small(), tmp_path / "unbroken"))


def test_missing_image_is_named_in_one_line(photos: Photos, tmp_path: Path):
    path = photos.path("train")
    (photos.dataset.source.root / path).unlink()
    with pytest.raises(DatasetError) as raised:
        photos.learn(Small(), tmp_path)
    assert str(raised.value) == f"{photos.dataset.source.root / path} cannot be read: No such file or directory"


def test_changed_image_is_named_in_one_line(photos: Photos, tmp_path: Path):
    path = photos.path("validation")
    (photos.dataset.source.root / path).write_bytes(b"another one")
    with pytest.raises(DatasetError) as raised:
        photos.learn(Small(), tmp_path)
    message = "cannot be read: it has changed since the data were checked."
    assert str(raised.value) == f"{photos.dataset.source.root / path} {message}"


@dataclasses.dataclass(frozen=True)
class KillingReader:
    """Reader that kills its process at one file."""

    root: Path
    path: str

    def read(self, path: str, n_bytes: int) -> bytes:
        if path == self.path:
            os.kill(os.getpid(), signal.SIGKILL)
        return (self.root / path).read_bytes()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_error_of_a_dead_worker_names_its_file(photos: Photos, tmp_path: Path, monkeypatch, part: str):
    monkeypatch.setattr(datamodule, "BATCH_TIMEOUT_S", 8)  # in case Lightning removed torch's handler in an earlier test
    root, path = photos.dataset.source.root, photos.path(part, 1)
    source = dataclasses.replace(photos.dataset.source, reader=KillingReader(root, path))
    deadly = dataclasses.replace(photos, dataset=dataclasses.replace(photos.dataset, source=source))
    message = rf"^A data loader worker failed at {path} \(DataLoader worker .*\)\. Check that file"
    with pytest.raises(DatasetError, match=message):
        deadly.learn(Small(), tmp_path)


@pytest.mark.slow
def test_error_of_a_hung_worker_names_its_file(photos: Photos, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datamodule, "BATCH_TIMEOUT_S", 8)
    path = photos.path("train", 1)
    (photos.dataset.source.root / path).unlink()
    os.mkfifo(photos.dataset.source.root / path)  # opening it blocks until a writer opens it
    with pytest.raises(DatasetError, match=rf"worker failed at {path} \(DataLoader timed out after 8 seconds\)"):
        photos.learn(Small(), tmp_path)
