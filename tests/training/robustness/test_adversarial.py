"""Attacks that raise the loss, and stay where they promised to."""

import numpy as np
import pytest
import torch

from graft.service.networks import network
from graft.training.data.dataset import scan
from graft.training.robustness.adversarial import attacker, fgsm, losses, pgd
from graft.training.sample import SAMPLE


@pytest.fixture(scope="module")
def target(fitted):
    return attacker(network.load(fitted.artifact))


@pytest.fixture(scope="module")
def shown(model) -> tuple[np.ndarray, np.ndarray]:
    """Four held-out images as the network sees them, and their labels."""
    dataset = scan(SAMPLE)
    samples = [sample for sample in dataset.samples if sample.part == "test"][::126][:4]
    return np.stack([model.decode(dataset.read(sample)).pixels for sample in samples]), dataset.targets(samples)


def loss(target, images: np.ndarray, truth: np.ndarray) -> float:
    with torch.no_grad():
        return float(losses(target, torch.from_numpy(images).float(), torch.from_numpy(truth)).mean())


def furthest(images: np.ndarray, changed: np.ndarray) -> int:
    return int(np.abs(changed.astype(int) - images).max())


def test_one_step_raises_the_loss_and_goes_no_further_than_its_radius(target, shown):
    images, truth = shown
    small, large = fgsm(target, images, truth, (1, 4))
    assert (small.dtype, small.shape) == (np.uint8, images.shape)
    assert (furthest(images, small), furthest(images, large)) == (1, 4)
    assert loss(target, images, truth) < min(loss(target, small, truth), loss(target, large, truth))


@pytest.mark.parametrize("radius", [1, 2, 8])
def test_several_steps_stay_inside_the_ball(target, shown, radius: int):
    images, truth = shown
    changed = pgd(target, images, truth, radius)
    assert furthest(images, changed) == radius
    assert loss(target, changed, truth) > loss(target, images, truth)


def test_several_steps_hurt_more_than_one(target, shown):
    images, truth = shown
    [once] = fgsm(target, images, truth, (2,))
    assert loss(target, pgd(target, images, truth, 2), truth) > loss(target, once, truth)


def test_attacks_are_repeatable(target, shown):
    images, truth = shown
    np.testing.assert_array_equal(pgd(target, images[:2], truth[:2], 2, 7), pgd(target, images[:2], truth[:2], 2, 7))


def test_images_of_several_labels_are_attacked_too(target, shown):
    images, truth = shown
    several = np.eye(10, dtype=np.bool_)[truth]
    [changed] = fgsm(target, images, several, (2,))
    assert loss(target, changed, several) > loss(target, images, several)


def test_networks_own_weights_stay_as_they_are(target, shown):
    before = target.head.weight.clone()
    list(fgsm(target, *shown, (1,)))
    assert torch.equal(target.head.weight, before)
    assert target.head.weight.grad is None
