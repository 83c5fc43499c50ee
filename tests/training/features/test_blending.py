"""The weights of several heads in a sum."""

import numpy as np
import pytest

from graft.training.data.cross_validation import stratified_group_kfold
from graft.training.evaluation.calibration import per_sample_nll
from graft.training.features.blending import blend, blend_out_of_fold, blend_weights


def make_logits(n_images: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two heads that make different mistakes, and the labels."""
    random = np.random.default_rng(0)
    labels = np.arange(n_images) % 3
    truth = 2 * np.eye(3)[labels]
    first, second = (truth + random.normal(size=truth.shape) for _ in range(2))
    return first.astype(np.float32), second.astype(np.float32), labels


def test_the_sum_is_better_than_each_head():
    first, second, labels = make_logits()
    weights = blend_weights([first, second], labels)
    assert min(weights) > 0.5
    total = weights[0] * first + weights[1] * second
    for logits in (first, second):
        [weight] = blend_weights([logits], labels)
        assert per_sample_nll(total, labels).mean() < per_sample_nll(weight * logits, labels).mean() - 0.05


def test_weights_are_those_of_logistic_regression_on_smoothed_targets():
    first, second, labels = make_logits()
    weights = np.array(blend_weights([first, second], labels))

    def loss(shift: tuple[float, float]) -> float:
        total, share = (weights[0] + shift[0]) * first + (weights[1] + shift[1]) * second, 1 / (len(labels) + 2)
        of_each_label = [per_sample_nll(total, np.full(len(labels), label)).mean() for label in range(3)]
        return float((1 - share) * per_sample_nll(total, labels).mean() + share * np.mean(of_each_label))

    assert all(loss((0, 0)) < loss(shift) for shift in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.1, -0.1), (-0.1, 0.1)))


def test_a_head_that_brings_nothing_gets_zero():
    first, _, labels = make_logits()
    assert blend_weights([first, -first], labels)[1] == 0
    assert blend_weights([first, np.zeros_like(first)], labels)[0] == pytest.approx(blend_weights([first], labels)[0], rel=0.01)


def test_several_labels_have_one_sigmoid_each():
    first, _, labels = make_logits()
    [weight] = blend_weights([first - 1], np.eye(3, dtype=bool)[labels])
    assert weight == pytest.approx(2, rel=0.3)


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_few_right_answers_do_not_make_certain(multilabel: bool):
    labels = np.arange(14) % 2
    logits = (2 * np.eye(2)[labels] - 1).astype(np.float32)
    [weight] = blend_weights([logits], np.eye(2, dtype=bool)[labels] if multilabel else labels)
    # The smoothed target of a label is 1 - 1/16 + 1/32.
    margin = weight if multilabel else 2 * weight
    assert 1 / (1 + np.exp(-margin)) == pytest.approx(31 / 32, abs=1e-3)


def test_out_of_fold_an_image_is_blended_with_weights_that_it_has_no_part_in():
    first, second, labels = make_logits(60)
    folds = stratified_group_kfold(labels, 3, seed=0)
    blended = blend_out_of_fold([first, second], labels, folds)
    for others, held_out in folds:
        weights = blend_weights([first[others], second[others]], labels[others])
        expected = weights[0] * first[held_out] + weights[1] * second[held_out]
        np.testing.assert_allclose(blended[held_out], expected, rtol=1e-5)


def test_a_head_that_says_nothing_does_not_look_better_out_of_fold():
    # On twelve images the best of two weights makes something of noise. Out of fold, the noise costs something.
    gains, fitted_gains = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        labels = np.arange(12) % 3
        good = (2 * np.eye(3)[labels] + random.normal(size=(12, 3))).astype(np.float32)
        noise = random.normal(size=(12, 3)).astype(np.float32)
        folds = stratified_group_kfold(labels, 4, seed)
        alone = per_sample_nll(blend_out_of_fold([good], labels, folds), labels).mean()
        both = per_sample_nll(blend_out_of_fold([good, noise], labels, folds), labels).mean()
        fitted = per_sample_nll(blend([good, noise], blend_weights([good, noise], labels)), labels).mean()
        gains.append(alone - both)
        fitted_gains.append(per_sample_nll(blend([good], blend_weights([good], labels)), labels).mean() - fitted)
    assert np.mean(fitted_gains) > 0.01
    assert np.mean(gains) < 0
