"""The range test finds a good learning rate without side effects."""

import pytest
import torch
from torch import Tensor, nn

from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning.lr_finder import N_STEPS, lr_find, suggest_lr_scale

SCALES = [0.01 * 10_000 ** (trial / (N_STEPS - 1)) for trial in range(N_STEPS)]


class Plain(nn.Module):
    """A network of one layer: uint8 (N, 2, 2, 3) -> two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Flatten()
        self.head = nn.Linear(12, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.backbone(images.float() / 255 - 0.5)
        return self.head(vectors), vectors


def planned(rate: float) -> FineTuneConfig:
    choices = {
        "optimizer": "sgd",
        "head_lr": rate,
        "backbone_lr": rate,
        "label_smoothing": 0,
        "dropout": 0,
        "balance": "none",
    }
    return resolve_config(Recipe.model_validate(choices), DataStats(n_images=960, counts=(480, 480)))


def batches(count: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Bright images are of one label, dark ones of the other."""
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        labels = torch.randint(0, 2, (16,), generator=random)
        noise = torch.randint(0, 128, (16, 2, 2, 3), generator=random)
        found.append(((noise + 100 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels))
    return found


def test_rate_is_a_safety_factor_below_the_lowest_loss():
    losses = [2.0] * 20 + [1.0] * 20 + [0.5] + [0.1, 0.0, 0.1] + [5.0] * 16
    assert suggest_lr_scale(SCALES, losses) == pytest.approx(SCALES[42] / 10)


def test_single_outlier_batch_is_smoothed_out():
    losses = [2.0] * 20 + [1.0] * 20 + [0.5] * 4 + [5.0] * 16
    lucky = [*losses[:50], 0.0, *losses[51:]]
    assert suggest_lr_scale(SCALES, lucky) == suggest_lr_scale(SCALES, losses)


@pytest.mark.parametrize(("lowest", "factor"), [(0, 0.1), (N_STEPS - 1, 10.0)])
def test_scale_is_limited(lowest: int, factor: float):
    assert suggest_lr_scale(SCALES, [float(abs(trial - lowest)) for trial in range(N_STEPS)]) == pytest.approx(factor)


def test_too_few_steps_keep_the_rates():
    assert suggest_lr_scale(SCALES[:14], [1.0] * 14) == 1.0
    assert lr_find(Plain(), batches(5), planned(0.1), device="cpu") == planned(0.1)


def test_low_rates_are_raised_and_high_rates_are_lowered():
    torch.manual_seed(0)
    network = Plain()
    low, high = (lr_find(network, batches(), planned(rate), device="cpu") for rate in (1e-3, 10.0))
    assert low.head_lr >= 3e-3
    assert high.head_lr <= 3.0
    assert low.backbone_lr == low.head_lr


def test_range_test_changes_neither_network_nor_random_state():
    network = Plain().eval()
    before, state = {name: tensor.clone() for name, tensor in network.state_dict().items()}, torch.get_rng_state()
    lr_find(network, batches(), planned(0.1), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_same_seed_gives_the_same_rates():
    network = Plain()
    one, other = (lr_find(network, batches(), planned(0.1), device="cpu") for _ in range(2))
    assert one == other
