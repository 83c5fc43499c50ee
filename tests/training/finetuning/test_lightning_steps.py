"""Steps of the LightningModule, with a small network, bright and dark images, and the Lightning Trainer."""

import copy
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from graft.service.manifest import Backbone, Preprocessing
from graft.service.networks.network import Network, build
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning.lightning_module import Diverged, FineTune

HALF = Preprocessing(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
RESNET = Backbone(name="resnet10t", weights="random", license="none", sha256="0" * 64, width=512)
N_IMAGES = 64


class Shades(Dataset[tuple[Tensor, Tensor]]):
    """Bright images of one label and dark ones of the other; multilabel: bright at the top, the bottom, both, or neither."""

    def __init__(self, multilabel: bool = False) -> None:
        random = torch.Generator().manual_seed(0)
        answers = torch.randint(0, 2, (N_IMAGES, 2 if multilabel else 1), generator=random)
        bright = answers.repeat_interleave(16 if multilabel else 32, dim=1).view(N_IMAGES, 32, 1, 1)
        self._images = (torch.randint(0, 128, (N_IMAGES, 32, 32, 3), generator=random) + 100 * bright).to(torch.uint8)
        self._targets = answers.float() if multilabel else answers[:, 0]

    def __len__(self) -> int:
        return N_IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._images[index], self._targets[index]


class Noted(Callback):
    """State of the trainer after each epoch."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.rates: list[float] = []
        self.validated: list[Tensor] = []
        self.stepped: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: FineTune, *_: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])

    def on_validation_batch_end(self, trainer: Trainer, pl_module: FineTune, *_: object) -> None:
        self.validated.append(pl_module.network.head.weight.detach().clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: FineTune, *_: object) -> None:
        self.stepped.append(pl_module.network.head.weight.detach().clone())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: FineTune) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build(RESNET, 2, HALF)


def planned(multilabel: bool = False, **choices: object) -> FineTuneConfig:
    usual = {"batch_size": 16, "epochs": 3, "ema": False, "strategy": "scratch", "layer_decay": 1}
    facts = DataStats(n_images=N_IMAGES, counts=(32, 32), multilabel=multilabel)
    return resolve_config(Recipe.model_validate({**usual, **choices}), facts)


def trained(network: Network, chosen: FineTuneConfig, run: Path) -> tuple[FineTune, Noted]:
    module, recorded = FineTune(copy.deepcopy(network), chosen), Noted()
    loader = DataLoader(Shades(chosen.multilabel), 16)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_epochs=chosen.epochs, accelerator="cpu", default_root_dir=run, num_sanity_val_steps=0, callbacks=[recorded], **quiet
    )
    trainer.fit(module, loader, loader)
    return module, recorded


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        {"optimizer": "adamw"},
        {"optimizer": "sgd"},
        {"schedule": "plateau"},
        {"balance": "logits"},
        {"balance": "weights"},
        {"mixup": 0.2, "cutmix": 1.0},
        {"ema": True},
        {"unfreeze": "last"},
        {"multilabel": True},
        {"multilabel": True, "balance": "weights", "mixup": 0.2, "label_smoothing": 0.1},
    ],
)
def test_every_recipe_separates_bright_from_dark(network: Network, tmp_path: Path, choices: dict):
    _, recorded = trained(network, planned(**{"head_lr": 3e-3, "backbone_lr": 3e-3, **choices}, epochs=12), tmp_path)
    assert recorded.metrics[-1]["val/accuracy"] >= 0.9


def test_multilabel_accuracy_is_the_fraction_of_correct_predictions(network: Network, tmp_path: Path):
    _, recorded = trained(network, planned(multilabel=True, epochs=1, head_lr=1e-9, backbone_lr=1e-9), tmp_path)
    module, _ = trained(network, planned(multilabel=True, epochs=1, head_lr=1e-9, backbone_lr=1e-9), tmp_path)
    images, targets = next(iter(DataLoader(Shades(True), N_IMAGES)))
    with torch.inference_mode():
        right = ((module.network.eval()(images)[0] > 0) == targets.bool()).float().mean()
    assert recorded.metrics[0]["val/accuracy"] == pytest.approx(right.item(), abs=1e-6)


def test_learning_rates_warm_up_and_decay_to_zero(network: Network, tmp_path: Path):
    _, recorded = trained(network, planned(warmup=0.25, head_lr=1e-3), tmp_path)
    assert recorded.rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert recorded.rates[3:] == sorted(recorded.rates[3:], reverse=True)
    assert recorded.rates[-1] < 1e-4


@pytest.mark.slow
def test_plateau_schedule_reduces_rates_only_without_improvement(network: Network, tmp_path: Path):
    stuck = planned(schedule="plateau", warmup=0.25, epochs=4, head_lr=1e-12, backbone_lr=1e-12, freeze_bn=True, patience=2)
    _, recorded = trained(network, stuck, tmp_path)
    peak = 1e-12
    assert recorded.rates[:4] == pytest.approx([peak / 4, peak / 2, peak * 3 / 4, peak])
    assert recorded.rates[4:8] == pytest.approx([peak] * 4)
    assert recorded.rates[8] == pytest.approx(0.3 * peak)


def test_validation_uses_the_averaged_weights(network: Network, tmp_path: Path):
    chosen = planned(ema=True, epochs=1).model_copy(update={"ema_decay": 0.5, "ema_interval": 1})
    module, recorded = trained(network, chosen, tmp_path)
    average = recorded.stepped[0]
    for weight in recorded.stepped[1:]:
        average = 0.5 * average + 0.5 * weight
    torch.testing.assert_close(recorded.validated[0], average)
    torch.testing.assert_close(module.network.head.weight.detach(), average)  # and kept at the end
    assert not torch.allclose(average, recorded.stepped[-1])


def test_average_is_updated_at_its_interval(network: Network, tmp_path: Path):
    chosen = planned(ema=True, epochs=1).model_copy(update={"ema_decay": 0.5, "ema_interval": 2})
    _, recorded = trained(network, chosen, tmp_path)
    torch.testing.assert_close(recorded.validated[0], 0.5 * recorded.stepped[1] + 0.5 * recorded.stepped[3])


def test_training_continues_from_the_raw_weights_after_validation(network: Network, tmp_path: Path):
    once, _ = trained(network, planned(epochs=2), tmp_path)
    chosen = planned(epochs=2).model_copy(update={"ema_decay": 0.9, "ema_interval": 1})
    _, recorded = trained(network, chosen, tmp_path)
    torch.testing.assert_close(recorded.stepped[-1], once.network.head.weight.detach())


def test_frozen_layers_do_not_change(network: Network, tmp_path: Path):
    module, _ = trained(network, planned(unfreeze="last"), tmp_path)
    before, after = network.state_dict(), module.network.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in changed} == {"layer4", "weight", "bias"}


def test_randomness_of_a_step_depends_on_seed_and_epoch(network: Network):
    images, targets = next(iter(DataLoader(Shades(), 16)))

    def loss(seed: int, before: int) -> float:
        module = FineTune(copy.deepcopy(network), planned(seed=seed, dropout=0.5, mixup=1.0))
        torch.manual_seed(before)
        module.on_train_epoch_start()
        return module.train_loss(images, targets).item()

    assert loss(seed=3, before=1) == loss(seed=3, before=2)
    assert loss(seed=3, before=1) != loss(seed=4, before=1)


def test_dropout_is_applied_only_in_training(network: Network):
    images, targets = next(iter(DataLoader(Shades(), 16)))
    module = FineTune(copy.deepcopy(network), planned(dropout=0.9)).eval()
    torch.manual_seed(0)
    one, other = module.train_loss(images, targets), module.train_loss(images, targets)
    assert one != other
    with torch.inference_mode():
        assert torch.equal(module.network(images)[0], module.network(images)[0])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_error_of_a_non_finite_loss_has_step_and_learning_rates(network: Network, tmp_path: Path, number: float):
    class Broken(FineTune):
        def train_loss(self, images: Tensor, targets: Tensor) -> Tensor:
            return super().train_loss(images, targets) * (number if self.global_step == 6 else 1.0)

    module = Broken(copy.deepcopy(network), planned(head_lr=1e-3, backbone_lr=1e-3))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    with pytest.raises(Diverged, match=rf"The loss became {number} at step 6, learning rates \[0\.00\d+\]; try lower ones\.$"):
        trainer.fit(module, DataLoader(Shades(), 16))
