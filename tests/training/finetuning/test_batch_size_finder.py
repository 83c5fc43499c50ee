"""The batch size finder measures memory and keeps the optimizer steps the same."""

from pathlib import Path

import pytest
import torch
from torch import nn

from graft.training.cli.main import main
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning import batch_size_finder


class Two(nn.Module):
    """Saves 4 * 3 * side**2 bytes of input per image, and four times as much of its ReLU output, for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 12, 1, bias=False)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.layer(batch.permute(0, 3, 1, 2).float()).relu().mean(dim=(2, 3))
        return vectors, vectors


WEIGHTS = 5 * 4 * 36


def planned(batch_size: int = 32, precision: str = "32-true") -> FineTuneConfig:
    stats = DataStats(n_images=320, counts=(160, 160), training_precision=precision)
    return resolve_config(Recipe(batch_size=batch_size), stats)


def test_activation_memory_per_image_is_measured():
    assert batch_size_finder.bytes_per_image(Two(), 16) == pytest.approx(5 * 4 * 3 * 16**2, rel=0.05)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_activations_of_16_bits_take_half_the_memory(precision: str):
    exact, mixed = batch_size_finder.bytes_per_image(Two(), 16), batch_size_finder.bytes_per_image(Two(), 16, precision)
    assert mixed == exact // 2


class Wide(nn.Module):
    """Many weights and few activations: 1,000 of 4 bytes per image that are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1_000, 1_000, bias=False)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.layer(batch.float().mean(dim=(1, 2, 3), keepdim=True).flatten(1).expand(-1, 1_000).contiguous())
        return vectors, vectors


def test_copies_of_weights_in_16_bits_are_not_counted_per_image():
    assert batch_size_finder.bytes_per_image(Wide(), 16, "bf16-mixed") < 10_000  # the copy takes 2,000,000 bytes


def test_mixed_precision_fits_more_images_but_gradients_and_optimizer_stay_as_large():
    free = int((WEIGHTS + 9.5 * batch_size_finder.bytes_per_image(Two(), 16)) / batch_size_finder.USABLE_FRACTION)
    exact, mixed = (
        batch_size_finder.fit_batch_size(Two(), planned(precision=precision), 16, free)
        for precision in ("32-true", "bf16-mixed")
    )
    assert (exact.batch_size, mixed.batch_size) == (8, 16)
    free = int(21_000_000 / batch_size_finder.USABLE_FRACTION)  # 20 bytes for each of 1,000,000 weights, but not 2 more
    assert batch_size_finder.fit_batch_size(Wide(), planned(), 16, free).batch_size == 32
    with pytest.raises(MemoryError):
        batch_size_finder.fit_batch_size(Wide(), planned(precision="bf16-mixed"), 16, free)


def test_measurement_does_not_change_the_network():
    network = nn.Sequential(Two(), nn.BatchNorm2d(3)).train()
    network[1].eval()
    two = network[0]
    batch_size_finder.bytes_per_image(two, 16)
    assert (network.training, two.training, two.layer.training, network[1].training) == (True, True, True, False)


@pytest.mark.parametrize(("images", "batch_size", "accumulate"), [(32, 32, 1), (31, 16, 2), (9, 8, 4), (1, 1, 32)])
def test_batches_are_halved_until_one_fits_with_the_same_steps(images: int, batch_size: int, accumulate: int):
    network = Two()
    free = (WEIGHTS + (images + 0.5) * batch_size_finder.bytes_per_image(network, 16)) / batch_size_finder.USABLE_FRACTION
    found = batch_size_finder.fit_batch_size(network, planned(), 16, int(free))
    assert (found.batch_size, found.accumulate_grad_batches) == (batch_size, accumulate)
    assert found.total_steps == planned().total_steps


def test_error_if_a_single_image_does_not_fit():
    with pytest.raises(MemoryError, match=r"needs 0\.0 GiB at 16 pixels; 0\.0 GiB are free\. Try a smaller --input-size"):
        batch_size_finder.fit_batch_size(Two(), planned(), 16, 100)


def test_too_little_memory_is_exit_code_5(fitted, make_folder, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch_size_finder, "free_memory", lambda device: 2**20)
    photos = make_folder({"cat": 6, "dog": 6}, side=16)
    choices = ["--strategy", "finetune", "--epochs", "1", "--input-size", "128", "--device", "cpu"]
    assert main(["fit", str(photos), "--out", "run", *choices]) == 5
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: Training needs 0.")
    assert error.endswith("GiB at 128 pixels; 0.0 GiB are free. Try a smaller --input-size or --backbone.")


def test_free_memory_is_less_than_total_memory():
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < batch_size_finder.free_memory(device="cpu") < int(total.split()[1]) * 1024


def test_container_limit_is_respected(tmp_path: Path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert batch_size_finder._cgroup_free_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert batch_size_finder._cgroup_free_bytes(tmp_path) > 2**60
    assert batch_size_finder._cgroup_free_bytes(tmp_path / "none") > 2**60
