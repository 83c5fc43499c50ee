"""Average precision by hand and against scikit-learn, and its derivative by finite differences."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from graft.training.evaluation.average_precision import average_precision, average_precisions, macro_average_precision
from graft.training.evaluation.clusters import variance_inflation
from graft.training.evaluation.confidence_intervals import design_effect, macro_mean_interval, proportion
from graft.training.results import Estimate


def random_scores(n: int = 200, seed: int = 0, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Correlated scores and targets; with `levels`, many scores are equal."""
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
def test_average_precision_matches_scikit_learn(seed: int, levels: int | None):
    scores, targets = random_scores(seed=seed, levels=levels)
    assert average_precision(scores, targets)[0] == pytest.approx(average_precision_score(targets, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [None, 1])
def test_influences_are_the_derivative_with_respect_to_image_weights(levels: int | None, seed: int):
    scores, targets = random_scores(30, seed, levels)
    targets[scores.argmax()] = seed > 0
    value, influences = average_precision(scores, targets)
    for image in range(30):
        weights = np.ones(30)
        weights[image] += 1e-6
        reweighted = average_precision_score(targets, scores, sample_weight=weights)
        assert influences[image] == pytest.approx((reweighted - value) / 1e-6, abs=1e-5)


def test_squared_influences_sum_to_the_variance():
    scores, targets = random_scores(400)
    _, influences = average_precision(scores, targets)
    random = np.random.default_rng(1)
    samples = [average_precision(scores[rows], targets[rows])[0] for rows in random.integers(0, 400, (500, 400))]
    assert np.sqrt((influences**2).sum()) == pytest.approx(np.std(samples), rel=0.15)


def test_average_precision_of_a_label_without_images_is_nan():
    value, influences = average_precision(np.array([0.5, 0.1]), np.array([False, False]))
    assert np.isnan(value)
    assert influences.tolist() == [0, 0]


def test_average_precisions_has_one_column_per_label():
    scores, targets = random_scores()
    values, influences = average_precisions(np.column_stack([scores, -scores]), np.column_stack([targets, ~targets]))
    assert values[1] == average_precision(-scores, ~targets)[0]
    assert influences.shape == (200, 2)


def limits(estimate: Estimate | None) -> tuple[float, float, float] | None:
    return estimate and (estimate.value, estimate.low, estimate.high)


@pytest.mark.parametrize("clusters", [None, np.random.default_rng(3).permutation(np.arange(90) // 3)])
def test_intervals_count_the_images_of_a_label_and_their_groups(clusters: np.ndarray | None):
    random = np.random.default_rng(2)
    targets = random.random((90, 4)) < [0.5, 0.2, 0, 0]
    targets[7, 2] = True  # a single image
    values, influences = average_precisions(targets + random.normal(size=(90, 4)), targets)
    mean, by_label = macro_average_precision(values, influences, targets, clusters)
    for label, n in enumerate(targets.sum(axis=0)[:3]):
        inflations = [
            variance_inflation(influences[:, label], weights, clusters) for weights in (targets[:, label], np.ones(90))
        ]
        assert limits(by_label[label]) == pytest.approx(limits(proportion(values[label] * n, n, max(inflations))))
    assert by_label[3] is None
    sizes, weights = targets[:, :3].sum(axis=0), np.zeros(90)
    for image in range(90):
        weights[image] = sum(1 / sizes[label] for label in range(3) if targets[image, label])
    total = influences[:, :3].sum(axis=1)
    inflation = max(variance_inflation(total, which, clusters) for which in (weights, np.ones(90)))
    assert limits(mean) == pytest.approx(limits(macro_mean_interval(values[:3], sizes / inflation, design_effect(influences))))


def test_labels_without_any_image_cannot_be_averaged():
    with pytest.raises(ValueError, match="None of the images has any label"):
        macro_average_precision(*average_precisions(np.ones((3, 2)), np.zeros((3, 2), bool)), np.zeros((3, 2), bool))
