"""Losses at values computed by hand."""

import math

import pytest
import torch

from graft.training.config.finetune_config import DataStats, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning.loss import Loss

EVEN = torch.zeros(1, 2)  # equal logits


def loss(counts: tuple[int, ...] = (3, 1), multilabel: bool = False, n_images: int = 4, **choices: object) -> Loss:
    recipe = Recipe.model_validate({"label_smoothing": 0, "balance": "none", **choices})
    return Loss(resolve_config(recipe, DataStats(n_images=n_images, counts=counts, multilabel=multilabel)))


def label(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_multiclass_loss_is_cross_entropy():
    assert loss()(EVEN, label(0)).item() == pytest.approx(math.log(2))


def test_soft_targets_are_supported():
    logits = torch.tensor([[math.log(3.0), 0.0]])  # 3/4 and 1/4
    found = loss()(logits, torch.tensor([[0.5, 0.5]])).item()
    assert found == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_label_smoothing_lowers_the_optimal_confidence():
    sure = torch.tensor([[30.0, 0.0]])
    assert loss()(sure, label(0)).item() == pytest.approx(0, abs=1e-6)
    assert loss(label_smoothing=0.2)(sure, label(0)).item() == pytest.approx(0.1 * 30, rel=1e-4)


def test_logit_adjustment_of_zero_logits_gives_the_prior():
    found = loss(balance="logits")
    assert found(EVEN, label(0)).item() == pytest.approx(-math.log(3 / 4))
    assert found(EVEN, label(1)).item() == pytest.approx(-math.log(1 / 4))


def test_rare_labels_have_larger_weights():
    # Weights 4/6 and 4/2: the loss of the rare label counts three times as much.
    sure = torch.tensor([[math.log(3.0), 0.0]] * 2)
    found = loss(balance="weights")(sure, label(0, 1)).item()
    assert found == pytest.approx((-math.log(0.75) - 3 * math.log(0.25)) / 4)


@pytest.mark.parametrize("balance", ["weights", "logits", "sampling"])
@pytest.mark.parametrize("metric", ["log-loss", "accuracy"])
def test_validation_moves_a_balanced_network_to_the_natural_frequencies(balance: str, metric: str):
    judged = loss(balance=balance, metric=metric).val_loss(EVEN.repeat(2, 1), label(0, 1))
    torch.testing.assert_close(judged, -torch.log(torch.tensor([3 / 4, 1 / 4])))


@pytest.mark.parametrize("metric", ["balanced-accuracy", "f1-macro"])
def test_validation_of_rare_labels_is_that_of_equal_frequencies(metric: str):
    # Logits of equal probabilities, 3/4 and 1/4 of the labels, become 1/4 and 3/4 of equally frequent ones.
    judged = loss(metric=metric).val_loss(EVEN.repeat(2, 1), label(0, 1))
    torch.testing.assert_close(judged, -torch.log(torch.tensor([1 / 4, 3 / 4])) * torch.tensor([4 / 6, 4 / 2]))
    balanced = loss(metric=metric, balance="weights").val_loss(EVEN.repeat(2, 1), label(0, 1))
    torch.testing.assert_close(balanced, math.log(2) * torch.tensor([4 / 6, 4 / 2]))


def test_class_weights_have_mean_one_over_the_images():
    judged = loss(balance="weights", metric="balanced-accuracy").val_loss(EVEN.repeat(4, 1), label(0, 0, 0, 1))
    assert judged.mean().item() == pytest.approx(math.log(2))


def test_validation_loss_is_neither_smoothed_nor_adjusted():
    judged = loss(label_smoothing=0.5).val_loss(torch.tensor([[30.0, 0.0]]), label(0))
    assert judged.item() == pytest.approx(0, abs=1e-6)


def test_multilabel_loss_is_binary_cross_entropy():
    logits, targets = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[1.0, 1.0]])
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert loss(multilabel=True)(logits, targets).item() == pytest.approx(expected)
    assert loss(multilabel=True).val_loss(logits, targets).item() == pytest.approx(expected)


def test_multilabel_smoothing_applies_to_each_label():
    sure = torch.tensor([[30.0, -30.0]])
    found = loss(multilabel=True, label_smoothing=0.2)(sure, torch.tensor([[1.0, 0.0]])).item()
    assert found == pytest.approx(0.1 * 30, rel=1e-4)


def test_positive_weight_is_a_limited_square_root():
    found = loss((20, 100, 1), multilabel=True, n_images=200, balance="weights")
    torch.testing.assert_close(found.weight, torch.tensor([3.0, 1.0, 10.0]))


def test_label_without_images_is_handled():
    found = loss((4, 0), balance="logits")
    assert torch.isfinite(found(EVEN, label(0)))
    assert torch.isfinite(found.val_loss(EVEN, label(1))).all()


def test_loss_adds_nothing_to_a_checkpoint():
    assert loss(balance="weights").state_dict() == {}
