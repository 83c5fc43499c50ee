"""The loop around the steps: what ends it early says why, and leaves what was learned until then."""

import dataclasses
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import files_of_at_most
from torch import Tensor, nn

from graft.service.artifact import Preprocessing
from graft.training.audit.image_scan import examine
from graft.training.config.finetune_config import Facts, Plan, plan
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.splits import Splits, split
from graft.training.finetuning import checkpoints, datamodule
from graft.training.finetuning.datamodule import Batches
from graft.training.finetuning.lightning_module import Diverged
from graft.training.finetuning.trainer import learn

SIDE = 32
SQUARE = Preprocessing(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Small(nn.Module):
    """A network of two layers: uint8 (N, 32, 32, 3) -> two logits; `meddle` is called with each batch's number."""

    def __init__(self, meddle: Callable[["Small", int], None] = lambda network, step: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, 4))
        self.head = nn.Linear(4, 2)
        self._meddle, self._step = meddle, 0

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self._meddle(self, self._step)
            self._step += 1
        vectors = self.backbone(images.float() / 255 - 0.5)
        return self.head(vectors), vectors


@dataclasses.dataclass(frozen=True)
class Photos:
    dataset: Dataset
    splits: Splits

    def path(self, part: str, number: int = 0) -> str:
        return self.splits.named()[part][number].path

    def learn(self, network: nn.Module, run: Path, epochs: int = 3, **choices: object) -> Path:
        plan = self.plan(epochs, **choices)
        learn(network, Batches(self.dataset, self.splits, SQUARE, plan, gpu=False), plan, epochs, run, gpu=False)
        return run

    def plan(self, epochs: int, **choices: object) -> Plan:
        train = self.splits.train
        given = {"batch_size": 4, "epochs": epochs, "balance": "none", "augment": "none", "pixel_cache": 0, **choices}
        return plan(Recipe.model_validate(given), Facts(len(train), self.dataset.counts(train)))


@pytest.fixture
def photos(make_folder) -> Photos:
    """Twelve images of two labels: 8 to learn from in batches of four, 2 to choose by."""
    dataset = examine(scan(make_folder({"cat": 6, "dog": 6}, side=SIDE)))[0]
    return Photos(dataset, split(dataset, seed=0))


def kept(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*.ckpt"))


def rows(run: Path) -> list[str]:
    return (run / "metrics.csv").read_text().splitlines()


def ruin(network: Small, step: int) -> None:
    """Makes the loss of the third step no number."""
    if step == 2:
        with torch.no_grad():
            network.head.bias[0] = float("nan")


def test_learning_that_diverges_stops_at_that_step_and_keeps_the_last_good_checkpoint(photos: Photos, tmp_path: Path):
    said = (
        r"The loss became nan at step 2, learning rates \[.+\]; try lower ones\. The batch: (\w+/\d+\.png, ){3}\w+/\d+\.png\.$"
    )
    with pytest.raises(Diverged, match=said):
        photos.learn(Small(ruin), tmp_path)
    assert kept(tmp_path) == ["epoch-0000.ckpt", "epoch-0001.ckpt"]
    good = checkpoints.newest(tmp_path / "checkpoints")
    assert all(tensor.isfinite().all() for tensor in good["state_dict"].values())
    assert [row.partition(",")[0] for row in rows(tmp_path)] == ["epoch", "0", "1"]


def test_batch_that_is_named_is_the_one_that_was_shown(photos: Photos, tmp_path: Path):
    with pytest.raises(Diverged) as refused:
        photos.learn(Small(ruin), tmp_path)
    named = set(re.findall(r"\w+/\d+\.png", str(refused.value)))
    plan = photos.plan(3)
    loader = Batches(photos.dataset, photos.splits, SQUARE, plan, gpu=False).train_dataloader()
    assert named == set(datamodule.shown(loader, epoch=1, batch=0))


def spoil(network: Small, step: int) -> None:
    """Lets the second epoch end with weights that say no number, after a loss that was one."""
    if step == 3:
        network.backbone[1].weight.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))


def test_epoch_whose_validation_is_no_number_is_never_saved_and_never_best(photos: Photos, tmp_path: Path):
    with pytest.raises(Diverged, match="The loss on validation became nan after epoch 2"):
        photos.learn(Small(spoil), tmp_path, averaging=False)
    assert kept(tmp_path) == ["epoch-0000.ckpt", "epoch-0001.ckpt"]


def take_all_memory(network: Small, step: int) -> None:
    torch.empty(2**50, dtype=torch.uint8)


def run_out(network: Small, step: int) -> None:
    raise MemoryError


def run_out_on_a_gpu(network: Small, step: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ...")


@pytest.mark.parametrize("meddle", [take_all_memory, run_out, run_out_on_a_gpu])
@pytest.mark.parametrize(
    ("batch_size", "next_to_try"), [(4, "--batch-size 2"), (7, "--batch-size 3"), (1, "a smaller --input-size")]
)
def test_lack_of_memory_names_the_batch_size_tried_and_the_next_to_try(
    photos: Photos, tmp_path: Path, meddle, batch_size: int, next_to_try: str
):
    said = rf"^A batch of {batch_size} images does not fit into memory; try {next_to_try}\."
    with pytest.raises(MemoryError, match=said) as refused:
        photos.learn(Small(meddle), tmp_path, batch_size=batch_size)
    assert "\n" not in str(refused.value)
    assert kept(tmp_path) == ["epoch-0000.ckpt"]


def test_other_errors_are_told_as_they_are(photos: Photos, tmp_path: Path):
    def break_down(network: Small, step: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes cannot be multiplied$"):
        photos.learn(Small(break_down), tmp_path)


def test_full_disk_at_the_start_is_told_before_anything_is_computed(photos: Photos, tmp_path: Path, monkeypatch):
    weights = sum(parameter.nbytes for parameter in Small().parameters())
    monkeypatch.setattr("graft.training.runtime.atomic_files.free", lambda _: 9 * weights - 1)
    with pytest.raises(OSError, match=rf"{9 * weights:,} bytes are needed and {9 * weights - 1:,} are free"):
        photos.learn(Small(take_all_memory), tmp_path)
    assert kept(tmp_path) == []
    monkeypatch.setattr("graft.training.runtime.atomic_files.free", lambda _: 9 * weights)
    photos.learn(Small(), tmp_path, epochs=1)


def test_disk_that_fills_up_while_learning_leaves_the_last_good_checkpoint(photos: Photos, tmp_path: Path):
    with files_of_at_most(60_000), pytest.raises(OSError, match=r"The disk is full: [\d,]+ bytes are needed"):
        photos.learn(Small(), tmp_path)  # 49 kB of weights, and twice that of moments from the first epoch on
    assert kept(tmp_path) == ["epoch-0000.ckpt"]
    assert checkpoints.newest(tmp_path / "checkpoints")["best"] == 0
    photos.learn(Small(), tmp_path)
    assert kept(tmp_path) == ["best.ckpt"]


def ask_to_stop(number: int) -> Callable[[Small, int], None]:
    """A signal while the first batch of the second epoch is computed."""

    def meddle(network: Small, step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    return meddle


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_is_asked_to_stop_finishes_the_batch_and_goes_on_later_as_if_nothing_had_been(
    photos: Photos, tmp_path: Path, number: int, code: int
):
    with pytest.raises(SystemExit) as ended:
        photos.learn(Small(ask_to_stop(number)), tmp_path / "stopped")
    assert ended.value.code == code
    assert kept(tmp_path / "stopped") == ["epoch-0000.ckpt", "epoch-0001.ckpt"]
    photos.learn(Small(), tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(photos.learn(Small(), tmp_path / "unbroken"))


def test_what_a_killed_one_left_half_written_is_removed(photos: Photos, tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    for half in (tmp_path / ".metrics.csv.123.tmp", tmp_path / "checkpoints/.epoch-0001.ckpt.123.tmp"):
        half.write_bytes(b"half")
    photos.learn(Small(), tmp_path, epochs=1)
    assert list(tmp_path.rglob(".*")) == []


def test_harmed_checkpoint_costs_an_epoch_and_changes_nothing(photos: Photos, tmp_path: Path, capsys):
    with pytest.raises(Diverged):
        photos.learn(Small(lambda network, step: ruin(network, step - 2)), tmp_path / "harmed")
    assert kept(tmp_path / "harmed")[-1] == "epoch-0002.ckpt"
    os.truncate(tmp_path / "harmed/checkpoints/epoch-0002.ckpt", 1000)
    photos.learn(Small(), tmp_path / "harmed")
    said = capsys.readouterr().err
    assert "epoch-0002.ckpt has sha256" in said
    assert "going on after epoch 1/3" in said
    assert rows(tmp_path / "harmed") == rows(photos.learn(Small(), tmp_path / "unbroken"))


def test_image_that_vanished_is_named_in_one_line(photos: Photos, tmp_path: Path):
    path = photos.path("train")
    (photos.dataset.source.root / path).unlink()
    with pytest.raises(DatasetError) as refused:
        photos.learn(Small(), tmp_path)
    assert str(refused.value) == f"{photos.dataset.source.root / path} cannot be read: No such file or directory"


def test_image_that_changed_is_named_in_one_line(photos: Photos, tmp_path: Path):
    path = photos.path("validation")
    (photos.dataset.source.root / path).write_bytes(b"another one")
    with pytest.raises(DatasetError) as refused:
        photos.learn(Small(), tmp_path)
    said = "cannot be read: it has changed since the data were checked."
    assert str(refused.value) == f"{photos.dataset.source.root / path} {said}"


@dataclasses.dataclass(frozen=True)
class Deadly:
    """Files of which one kills whoever reads it."""

    root: Path
    path: str

    def read(self, path: str, n_bytes: int) -> bytes:
        if path == self.path:
            os.kill(os.getpid(), signal.SIGKILL)
        return (self.root / path).read_bytes()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_loaders_process_that_dies_names_the_file_that_it_was_at(photos: Photos, tmp_path: Path, monkeypatch, part: str):
    monkeypatch.setattr(datamodule, "LONGEST_WAIT_S", 8)  # where an earlier test's Lightning took torch's handler away
    root, path = photos.dataset.source.root, photos.path(part, 1)
    source = dataclasses.replace(photos.dataset.source, reader=Deadly(root, path))
    deadly = dataclasses.replace(photos, dataset=dataclasses.replace(photos.dataset, source=source))
    said = rf"^A process that reads images gave nothing more, at {path} \(DataLoader worker .*\)\. Look at that file"
    with pytest.raises(DatasetError, match=said):
        deadly.learn(Small(), tmp_path)


def test_loaders_process_that_hangs_names_the_file_that_it_was_at(photos: Photos, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datamodule, "LONGEST_WAIT_S", 8)
    path = photos.path("train", 1)
    (photos.dataset.source.root / path).unlink()
    os.mkfifo(photos.dataset.source.root / path)  # whoever opens it waits for a writer
    with pytest.raises(DatasetError, match=rf"gave nothing more, at {path} \(DataLoader timed out after 8 seconds\)"):
        photos.learn(Small(), tmp_path)
