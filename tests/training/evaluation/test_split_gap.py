"""Whether test differs from validation by more than chance: with a planted shift and without."""

import numpy as np
import pytest

from graft.training.evaluation.predictions import Predictions
from graft.training.evaluation.split_gap import split_gap


def scored(random: np.random.Generator, n_groups: int, accuracy: float, group_size: int = 1) -> Predictions:
    """Predictions whose groups are entirely right or wrong."""
    correct = np.repeat(random.random(n_groups) < accuracy, group_size)
    labels, n = np.zeros(len(correct), np.int64), len(correct)
    logits = np.column_stack([correct, ~correct]).astype(np.float32)
    return Predictions(logits, np.zeros((n, 2), np.float32), labels, np.repeat(np.arange(n_groups), group_size))


def test_planted_shift_is_found_and_named_with_both_numbers():
    random = np.random.default_rng(0)
    gap = split_gap(scored(random, 400, 0.985), scored(random, 400, 0.75))
    assert gap.is_significant
    validation, test = f"{gap.validation.value:.1%}", f"{gap.test.value:.1%}"
    points = 100 * (gap.validation.value - gap.test.value)
    start = f"test is {points:.1f} points below validation (validation {validation}, test {test}), more than chance: "
    assert gap.to_text().startswith(start)
    assert "Trust the test number" in gap.to_text()


def test_easier_test_part_is_found_too():
    random = np.random.default_rng(1)
    gap = split_gap(scored(random, 500, 0.7), scored(random, 500, 0.95))
    assert "above validation" in gap.to_text()


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.99])
@pytest.mark.parametrize("group_size", [1, 8])
def test_random_splits_rarely_differ(accuracy: float, group_size: int):
    random = np.random.default_rng(2)
    gaps = [split_gap(scored(random, 60, accuracy, group_size), scored(random, 90, accuracy, group_size)) for _ in range(400)]
    assert np.mean([gap.is_significant for gap in gaps]) <= 0.025  # 1 % wanted; 2.5 % is three standard deviations above
    assert all(gap.to_text() == "" for gap in gaps if not gap.is_significant)


@pytest.mark.parametrize(("validation", "test", "low", "high"), [(9, 0, 0, 1), (0, 9, -1, 0)])
def test_difference_stays_within_its_range(validation: int, test: int, low: float, high: float):
    def right(n: int) -> Predictions:
        logits = np.column_stack([np.arange(10) < n, np.arange(10) >= n]).astype(np.float32)
        return Predictions(logits, np.zeros((10, 2), np.float32), np.zeros(10, np.int64), np.arange(10))

    gap = split_gap(right(validation), right(test))
    assert gap.difference.value == pytest.approx((validation - test) / 10)
    # Beyond the range without the limits: the Wilson interval of 9 of 10 ends at 0.982, and 0.9 + 0.082 * 2.58 / 1.96 > 1.
    assert (gap.difference.low == low) == (low == -1)
    assert (gap.difference.high == high) == (high == 1)


def test_shift_in_groups_needs_more_than_images():
    random = np.random.default_rng(3)
    validation, test = scored(random, 10, 0.9, 50), scored(random, 10, 0.6, 50)
    as_images = [Predictions(one.logits, one.vectors, one.targets, np.arange(500)) for one in (validation, test)]
    assert split_gap(*as_images).is_significant
    assert not split_gap(validation, test).is_significant


def test_no_images_are_refused():
    random = np.random.default_rng(4)
    with pytest.raises(ValueError, match="no images"):
        split_gap(scored(random, 0, 1), scored(random, 9, 1))
