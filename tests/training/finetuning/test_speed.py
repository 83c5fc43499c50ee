"""The measured speed is that of the steps that will be run."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from graft.service.inference import engine_speed
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning import speed


class Counting(nn.Module):
    """Notes the images and the type of each batch: uint8 (N, 8, 8, 3) -> two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
        self.head = nn.Linear(4, 2)
        self.batches: list[tuple[int, torch.dtype]] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.backbone(images.float() / 255)
        self.batches.append((len(images), vectors.dtype))
        return self.head(vectors), vectors


def config(precision: str = "32-true", multilabel: bool = False, **choices: object) -> FineTuneConfig:
    stats = DataStats(n_images=640, counts=(320, 320), multilabel=multilabel, training_precision=precision)
    return resolve_config(Recipe.model_validate(choices), stats)


@pytest.mark.parametrize(("batch_size", "measured"), [(16, 16), (32, 32), (256, 32)])
def test_steps_have_the_configured_batch_size_but_are_short_on_a_cpu(batch_size: int, measured: int):
    network = Counting()
    speed.images_per_second(network, config(batch_size=batch_size), 8, "cpu")
    assert network.batches == [(measured, torch.float32)] * 3


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_steps_run_in_the_precision_of_the_training(precision: str, dtype: torch.dtype):
    network = Counting()
    speed.images_per_second(network, config(precision), 8, "cpu")
    assert {kind for _, kind in network.batches} == {dtype}


@pytest.mark.parametrize("multilabel", [False, True])
def test_steps_change_the_weights(multilabel: bool):
    network = Counting()
    before = network.head.weight.detach().clone()
    speed.images_per_second(network, config(multilabel=multilabel), 8, "cpu")
    assert not torch.equal(network.head.weight, before)


def test_speed_is_the_batch_size_by_the_median_step(monkeypatch):
    # Two readings per step: the warm-up takes 100 s, the others 4 and 6 s.
    times = itertools.accumulate([0.0, 100.0, 0.0, 4.0, 0.0, 6.0])
    monkeypatch.setattr(engine_speed.time, "perf_counter", lambda: next(times))
    assert speed._steps(Counting(), config(batch_size=20), 8, "cpu") == pytest.approx(20 / 5)


def test_speed_of_a_gpu_is_at_most_that_of_its_input(monkeypatch):
    monkeypatch.setattr(speed, "_steps", lambda *_: 5_000.0)
    monkeypatch.setattr(speed, "augmentations", lambda *_: 500.0)
    monkeypatch.setattr(speed, "available_cpus", lambda: 5)
    assert speed.images_per_second(Counting(), config(), 8, "cuda") == 4 * 500.0
    monkeypatch.setattr(speed, "available_cpus", lambda: 64)
    assert speed.images_per_second(Counting(), config(), 8, "cuda") == 5_000.0


def test_augmentation_is_measured():
    assert speed.augmentations(config(), 64) > 1
