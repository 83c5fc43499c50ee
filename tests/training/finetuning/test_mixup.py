"""Mixup and CutMix mix images and targets in the same proportion."""

import pytest
import torch
from torch import Tensor

from graft.training.finetuning.mixup import mixup_or_cutmix


def batch(n: int = 4, side: int = 32) -> tuple[Tensor, Tensor]:
    """Images of one gray each, 0, 50, 100, ...; each its own label."""
    images = torch.arange(n, dtype=torch.uint8).mul(50).view(n, 1, 1, 1).expand(n, side, side, 3).contiguous()
    return images, torch.eye(n)


def grays(targets: Tensor) -> Tensor:
    """The mean gray value according to the targets."""
    return targets @ (50.0 * torch.arange(targets.shape[1]))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_targets_are_mixed_in_the_proportions_of_the_images(mixup: float, cutmix: float, seed: int):
    torch.manual_seed(seed)
    images, targets = mixup_or_cutmix(*batch(), mixup, cutmix)
    torch.testing.assert_close(images.float().mean(dim=(1, 2, 3)), grays(targets), atol=1e-3, rtol=0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))


def test_images_are_mixed():
    torch.manual_seed(0)
    changed = [mixup_or_cutmix(*batch(), 1.0, 0.0)[1] for _ in range(20)]
    assert sum(not torch.equal(targets, torch.eye(4)) for targets in changed) > 15


def test_cutmix_keeps_pixel_values_and_mixup_blends_them():
    torch.manual_seed(3)
    pasted, _ = mixup_or_cutmix(*batch(), 0.0, 1.0)
    blended, _ = mixup_or_cutmix(*batch(), 1.0, 0.0)
    assert pasted.dtype == torch.uint8
    assert set(pasted.unique().tolist()) <= {0, 50, 100, 150}
    assert not set(blended.unique().tolist()) <= {0.0, 50.0, 100.0, 150.0}


def test_one_of_both_is_chosen_at_random():
    torch.manual_seed(0)
    kinds = [mixup_or_cutmix(*batch(), 1.0, 1.0)[0].dtype for _ in range(30)]
    assert 5 < sum(kind == torch.uint8 for kind in kinds) < 25


def test_inputs_are_not_modified():
    images, targets = batch()
    mixup_or_cutmix(images, targets, 0.0, 1.0)
    assert torch.equal(images, batch()[0])
    assert torch.equal(targets, torch.eye(4))


@pytest.mark.parametrize(("n", "mixup", "cutmix"), [(4, 0.0, 0.0), (1, 1.0, 1.0)])
def test_batch_without_a_partner_is_unchanged(n: int, mixup: float, cutmix: float):
    images, targets = batch(n)
    mixed, shares = mixup_or_cutmix(images, targets, mixup, cutmix)
    assert torch.equal(mixed, images)
    assert torch.equal(shares, targets)


def test_same_random_state_gives_the_same_mix():
    torch.manual_seed(1)
    one = mixup_or_cutmix(*batch(), 0.5, 0.5)
    torch.manual_seed(1)
    other = mixup_or_cutmix(*batch(), 0.5, 0.5)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
