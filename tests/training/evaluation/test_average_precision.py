"""Average precision, by hand, by scikit-learn, and its derivative by trying."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from graft.training.evaluation.per_class import average_precision, average_precisions


def drawn(n: int = 200, seed: int = 0, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets that have to do with each other; with `levels`, many scores are equal."""
    random = np.random.default_rng(seed)
    targets = random.random(n) < 0.3
    scores = random.normal(size=n) + targets
    return (np.round(scores * levels) / levels if levels else scores), targets


def test_average_precision_by_hand():
    # Of four images, the first and the third have the label: (1/1 + 2/3) / 2.
    value, _ = average_precision(np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False]))
    assert value == pytest.approx(5 / 6)


def test_equal_scores_are_one_step():
    value, _ = average_precision(np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, False, False, False]))
    assert value == 0.25


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_scikit_learns(seed: int, levels: int | None):
    scores, targets = drawn(seed=seed, levels=levels)
    assert average_precision(scores, targets)[0] == pytest.approx(average_precision_score(targets, scores), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 1])
def test_influences_are_the_derivative_by_each_images_weight(levels: int | None):
    scores, targets = drawn(30, levels=levels)
    value, influences = average_precision(scores, targets)
    for image in range(30):
        weights = np.ones(30)
        weights[image] += 1e-6
        heavier = average_precision_score(targets, scores, sample_weight=weights)
        assert influences[image] == pytest.approx((heavier - value) / 1e-6, abs=1e-5)


def test_influences_tell_how_much_the_value_varies():
    scores, targets = drawn(400)
    _, influences = average_precision(scores, targets)
    random = np.random.default_rng(1)
    draws = [average_precision(scores[rows], targets[rows])[0] for rows in random.integers(0, 400, (500, 400))]
    assert np.sqrt((influences**2).sum()) == pytest.approx(np.std(draws), rel=0.15)


def test_a_label_that_no_image_has_is_unknown():
    value, influences = average_precision(np.array([0.5, 0.1]), np.array([False, False]))
    assert np.isnan(value)
    assert influences.tolist() == [0, 0]


def test_labels_stand_side_by_side():
    scores, targets = drawn()
    values, influences = average_precisions(np.column_stack([scores, -scores]), np.column_stack([targets, ~targets]))
    assert values[1] == average_precision(-scores, ~targets)[0]
    assert influences.shape == (200, 2)
