"""Mixed precision trains like float32, resumes exactly, and a step that the gradient scaler skips is no divergence.

A CPU computes both kinds too, with a real scaler: the arithmetic is that of a GPU's, only its speed is not.
"""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn

from graft.service.manifest import Preprocessing
from graft.training.audit.image_scan import scan_images
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, scan
from graft.training.data.splits import Splits, split
from graft.training.finetuning import checkpoints
from graft.training.finetuning.datamodule import DataModule
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.lightning_module import Diverged, FineTune
from graft.training.finetuning.lr_finder import lr_find
from graft.training.finetuning.precision import TrainingStep, precision_plugin
from graft.training.finetuning.trainer import train

SIDE = 32
SQUARE = Preprocessing(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
MIXED = ["16-mixed", "bf16-mixed"]
Hook = Callable[["Layers", int], None]


class Layers(nn.Module):
    """Two layers: uint8 (N, 32, 32, 3) -> two logits; `hook` is called before each training batch with its number."""

    def __init__(self, hook: Hook = lambda network, step: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, 8), nn.GELU())
        self.head = nn.Linear(8, 2)
        self._hook, self._step = hook, 0
        self.dtypes: set[torch.dtype] = set()
        self.overflows = False
        self.head.bias.register_hook(lambda gradient: gradient + float("inf") if self.overflows else gradient)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self._hook(self, self._step)
            self._step += 1
        vectors = self.backbone(images.float() / 255 - 0.5)
        logits = self.head(vectors)
        self.dtypes.add(logits.dtype)
        return logits, vectors


@dataclasses.dataclass(frozen=True)
class Photos:
    dataset: Dataset
    splits: Splits

    def config(self, precision: str, **choices: object) -> FineTuneConfig:
        options = {"batch_size": 4, "epochs": 3, "balance": "none", "augment": "none", "pixel_cache": 0, **choices}
        samples = self.splits.train
        stats = DataStats(len(samples), self.dataset.counts(samples), training_precision=precision)
        return resolve_config(Recipe.model_validate(options), stats)

    def train(self, network: nn.Module, run: Path, config: FineTuneConfig) -> Path:
        train(
            network, DataModule(self.dataset, self.splits, SQUARE, config, "cpu"), config, EpochPlan(config.epochs), run, "cpu"
        )
        return run


@pytest.fixture
def photos(make_folder) -> Photos:
    """Twenty-four images of two labels: 16 for training in batches of four."""
    dataset = scan_images(scan(make_folder({"cat": 12, "dog": 12}, side=SIDE)))[0]
    return Photos(dataset, split(dataset, seed=0))


def losses(run: Path, name: str = "val/loss") -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def stop_at(step: int) -> Hook:
    def hook(network: Layers, current: int) -> None:
        if current == step:
            raise SystemExit(143)

    return hook


def overflow_at(*steps: int) -> Hook:
    """Makes gradients infinite in some steps, as too large a scale does."""

    def hook(network: Layers, current: int) -> None:
        network.overflows = current in steps

    return hook


@pytest.mark.parametrize("precision", MIXED)
@pytest.mark.parametrize(
    "choices",
    [{}, {"ema": True}, {"optimizer": "sgd", "head_lr": 0.1, "backbone_lr": 0.1}, {"clip_grad": 0.05}, {"accumulate": 2}],
)
def test_mixed_precision_learns_what_float32_learns(photos: Photos, tmp_path: Path, precision: str, choices: dict):
    choices, found = {"head_lr": 0.01, "backbone_lr": 0.01, **choices}, []
    accumulate = choices.pop("accumulate", 1)
    for name in ("32-true", precision):
        config = photos.config(name, **choices).model_copy(update={"accumulate_grad_batches": accumulate})
        found.append(losses(photos.train(Layers(), tmp_path / name, config), "train/loss"))
    exact, mixed = found
    assert mixed == pytest.approx(exact, abs=0.02)
    assert mixed != exact
    assert exact[-1] < exact[0] - 0.1


@pytest.mark.parametrize("precision", MIXED)
def test_networks_run_in_the_configured_type(photos: Photos, tmp_path: Path, precision: str):
    network = Layers()
    photos.train(network, tmp_path, photos.config(precision, epochs=1))
    assert network.dtypes == {{"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}[precision]}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", MIXED)
@pytest.mark.parametrize("ema", [False, True])
def test_resumed_run_gives_the_same_result(photos: Photos, tmp_path: Path, precision: str, ema: bool):
    config = photos.config(precision, ema=ema)
    overflow = overflow_at(1) if precision == "16-mixed" else overflow_at()  # so that the scale is not the initial one
    with pytest.raises(SystemExit):
        photos.train(Layers(lambda *call: (overflow(*call), stop_at(6)(*call))), tmp_path / "stopped", config)
    photos.train(Layers(), tmp_path / "stopped", config)
    unbroken = photos.train(Layers(overflow), tmp_path / "unbroken", config)
    assert (tmp_path / "stopped/metrics.csv").read_text() == (unbroken / "metrics.csv").read_text()


def test_checkpoint_holds_the_scale_of_the_loss(photos: Photos, tmp_path: Path):
    with pytest.raises(SystemExit):
        photos.train(Layers(lambda *call: (overflow_at(1)(*call), stop_at(6)(*call))), tmp_path, photos.config("16-mixed"))
    state = checkpoints.load_newest(tmp_path / "checkpoints")["MixedPrecision"]
    assert (state["scale"], state["_growth_tracker"]) == (2.0**15, 2)  # halved once, and two steps since then


def test_skipped_steps_are_no_divergence(photos: Photos, tmp_path: Path):
    photos.train(Layers(overflow_at(0, 1, 5)), tmp_path, photos.config("16-mixed"))
    assert len(losses(tmp_path)) == 4


def test_a_loss_that_is_not_a_number_is_a_divergence(photos: Photos, tmp_path: Path):
    def hook(network: Layers, step: int) -> None:
        if step == 2:
            network.head.bias.data[0] = float("nan")

    with pytest.raises(Diverged, match="The loss became nan at step 2"):
        photos.train(Layers(hook), tmp_path, photos.config("16-mixed"))


def test_a_run_without_mixed_precision_has_no_scale(photos: Photos, tmp_path: Path):
    with pytest.raises(SystemExit):
        photos.train(Layers(stop_at(6)), tmp_path, photos.config("32-true"))
    assert "MixedPrecision" not in checkpoints.load_newest(tmp_path / "checkpoints")
    assert type(precision_plugin("32-true", "cpu")) is Precision
    assert isinstance(precision_plugin("16-mixed", "cpu"), MixedPrecision)


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (8, SIDE, SIDE, 3), dtype=torch.uint8, generator=random), torch.arange(8) % 2


@pytest.mark.parametrize("precision", ["32-true", *MIXED])
def test_single_steps_clip_gradients_after_their_scale_is_undone(photos: Photos, precision: str):
    config = photos.config(precision, optimizer="sgd", clip_grad=1e-3, dropout=0.0)
    module = FineTune(Layers(), config).train()
    before = {name: weight.detach().clone() for name, weight in module.network.named_parameters()}
    step = TrainingStep(module, "cpu")
    for group in step.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1.0, 0.0
    step(*batch())
    moved = sum((weight - before[name]).square().sum() for name, weight in module.network.named_parameters()).sqrt()
    assert moved.item() == pytest.approx(1.9e-3, rel=0.02)  # the clipped norm; Nesterov's momentum of 0.9 adds to it


def test_range_test_runs_in_the_precision_of_the_training(photos: Photos):
    network = Layers()
    dtypes = network.dtypes
    network.__deepcopy__ = lambda memo: network
    lr_find(network, [batch()] * 20, photos.config("16-mixed"), "cpu")
    assert dtypes == {torch.float16}
