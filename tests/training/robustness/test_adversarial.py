"""Adversarial attacks increase the loss and stay within their radius."""

import numpy as np
import pytest
import torch

from graft.service.networks import network
from graft.training.data.dataset import scan
from graft.training.robustness.adversarial import attack_model, fgsm, per_sample_loss, pgd
from graft.training.sample import SAMPLE


@pytest.fixture(scope="module")
def target(fitted):
    return attack_model(network.load(fitted.artifact))


@pytest.fixture(scope="module")
def batch(model) -> tuple[np.ndarray, np.ndarray]:
    """Four preprocessed test images and their labels."""
    dataset = scan(SAMPLE)
    samples = [sample for sample in dataset.samples if sample.split == "test"][::126][:4]
    return np.stack([model.decode(dataset.read(sample)).pixels for sample in samples]), dataset.targets(samples)


def loss(target, images: np.ndarray, truth: np.ndarray) -> float:
    with torch.no_grad():
        return float(per_sample_loss(target, torch.from_numpy(images).float(), torch.from_numpy(truth)).mean())


def max_difference(images: np.ndarray, changed: np.ndarray) -> int:
    return int(np.abs(changed.astype(int) - images).max())


def test_fgsm_increases_the_loss_and_stays_within_its_radius(target, batch):
    images, truth = batch
    small, large = fgsm(target, images, truth, (1, 4))
    assert (small.dtype, small.shape) == (np.uint8, images.shape)
    assert (max_difference(images, small), max_difference(images, large)) == (1, 4)
    assert loss(target, images, truth) < min(loss(target, small, truth), loss(target, large, truth))


@pytest.mark.parametrize("radius", [1, 2, 8])
def test_pgd_stays_within_its_radius(target, batch, radius: int):
    images, truth = batch
    changed = pgd(target, images, truth, radius)
    assert max_difference(images, changed) == radius
    assert loss(target, changed, truth) > loss(target, images, truth)


def test_pgd_increases_the_loss_more_than_fgsm(target, batch):
    images, truth = batch
    [single_step] = fgsm(target, images, truth, (2,))
    assert loss(target, pgd(target, images, truth, 2), truth) > loss(target, single_step, truth)


def test_attacks_are_reproducible(target, batch):
    images, truth = batch
    np.testing.assert_array_equal(pgd(target, images[:2], truth[:2], 2, 7), pgd(target, images[:2], truth[:2], 2, 7))


def test_multilabel_images_can_be_attacked(target, batch):
    images, truth = batch
    multilabel_targets = np.eye(10, dtype=np.bool_)[truth]
    [changed] = fgsm(target, images, multilabel_targets, (2,))
    assert loss(target, changed, multilabel_targets) > loss(target, images, multilabel_targets)


def test_attack_does_not_change_the_weights(target, batch):
    before = target.head.weight.clone()
    list(fgsm(target, *batch, (1,)))
    assert torch.equal(target.head.weight, before)
    assert target.head.weight.grad is None
