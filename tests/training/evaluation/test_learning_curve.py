"""Learning curves whose truth is known, because the heads were made so."""

import numpy as np
import pytest

from graft.training.evaluation.learning_curve import gain_of_doubling, learning_curve, part

SIZES = np.array([100, 200, 400, 800])


def heads(error, n_held_out: int, asked: list[int] | None = None):
    """A `fit` whose heads are wrong on just the `error(n)` hardest of the held-out images."""
    hardness = np.linspace(0, 1, n_held_out, endpoint=False)

    def fit(vectors: np.ndarray, targets: np.ndarray):
        if asked is not None:
            asked.append(len(targets))
        wrong = hardness < error(len(targets))
        return lambda held_out: np.column_stack([~wrong, wrong]).astype(np.float32)

    return fit


def curve_of(error, n_images: int = 800, n_held_out: int = 400, **given):
    vectors, held_out = np.zeros((n_images, 2), np.float32), np.zeros((n_held_out, 2), np.float32)
    targets, truth = np.zeros(n_images, np.int64), np.zeros(n_held_out, np.int64)
    return learning_curve(vectors, targets, held_out, truth, heads(error, n_held_out), **given)


@pytest.mark.parametrize(("floor", "height", "exponent"), [(0.05, 1.0, 0.4), (0.0, 1.0, 0.3), (0.1, 3.0, 0.6), (0.2, 0.0, 0.5)])
def test_the_gain_is_that_of_the_true_curve(floor: float, height: float, exponent: float):
    errors = floor + height * SIZES**-exponent
    gain = gain_of_doubling(SIZES, errors, np.eye(4) * 1e-6)
    true = height * 800**-exponent * (1 - 2**-exponent)
    assert gain.value == pytest.approx(true, abs=0.004)


def test_more_doubt_makes_a_wider_interval():
    errors = 0.05 + SIZES**-0.4
    narrow, wide = (gain_of_doubling(SIZES, errors, np.eye(4) * doubt**2) for doubt in (0.002, 0.02))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_a_gain_holds_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        # Curves as the method believes they may be.
        last, share, exponent = random.uniform(0.05, 0.4), np.sqrt(random.random()), np.exp(random.uniform(np.log(0.07), 0))
        errors = last * (1 - share * (1 - (SIZES / 800) ** -exponent)) + random.normal(size=4) * 0.01
        gain = gain_of_doubling(SIZES, errors, np.eye(4) * 1e-4)
        held += gain.low <= last * share * (1 - 2**-exponent) <= gain.high
    assert held / 200 > 0.9


def test_a_curve_tells_what_was_measured():
    curve = curve_of(lambda n: 0.1 + 2 * n**-0.5)
    assert curve.n_images == (100, 200, 400, 800)
    assert [estimate.value for estimate in curve.accuracy] == pytest.approx([0.7, 0.76, 0.8, 0.83], abs=0.01)
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in curve.accuracy)


def test_the_sentence_names_points():
    curve = curve_of(lambda n: 0.1 + 2 * n**-0.5)
    gain = curve.gain_of_doubling.model_copy(update={"value": 0.0312, "low": 0.004, "high": 0.05})
    told = curve.model_copy(update={"gain_of_doubling": gain}).sentence()
    assert told == "twice the images would bring about +3.1 points (+0.4 to +5.0)"


def test_a_measured_curve_holds_the_true_gain():
    gain = curve_of(lambda n: 0.1 + 2 * n**-0.5).gain_of_doubling
    assert 0 < gain.low < 2 * 800**-0.5 - 2 * 1600**-0.5 < gain.high < 0.04


def test_scores_that_do_not_grow_promise_next_to_nothing():
    gain = curve_of(lambda n: 0.2, n_held_out=2000).gain_of_doubling
    assert 0 <= gain.low <= gain.value < 0.003


def test_a_handful_of_held_out_images_that_are_all_right_stay_in_doubt():
    gain = curve_of(lambda n: 0.0, n_held_out=20).gain_of_doubling
    assert gain.low < 0.001
    assert gain.high > 0.005


def test_the_same_data_give_the_same_curve():
    assert curve_of(lambda n: 3 / n**0.5) == curve_of(lambda n: 3 / n**0.5)


@pytest.mark.parametrize("n_images", [1, 3, 39])
def test_too_few_images_have_no_curve(n_images: int):
    assert curve_of(lambda n: 0.1, n_images=n_images) is None


def test_small_parts_are_drawn_several_times_and_the_whole_is_not_learned_again():
    asked: list[int] = []
    vectors, truth = np.zeros((80, 2), np.float32), np.zeros(10, np.int64)
    whole = np.tile(np.array([1, 0], np.float32), (10, 1))
    fit = heads(lambda n: 0.1, 10, asked)
    learning_curve(vectors, np.zeros(80, np.int64), vectors[:10], truth, fit, whole)
    assert asked == [10, 10, 10, 10, 20, 20, 20, 40, 40]


def test_a_large_set_is_learned_from_in_part_but_counted_whole():
    asked: list[int] = []
    vectors, truth = np.zeros((50_000, 1), np.float32), np.zeros(10, np.int64)
    whole = np.tile(np.array([1, 0], np.float32), (10, 1))
    curve = learning_curve(vectors, np.zeros(50_000, np.int64), vectors[:10], truth, heads(lambda n: 0.1, 10, asked), whole)
    assert max(asked) == 5000
    assert curve.n_images == (625, 1250, 2500, 5000, 50_000)


def test_all_views_of_an_image_are_learned_from_together():
    seen = []

    def fit(vectors: np.ndarray, targets: np.ndarray):
        seen.append(vectors)
        return lambda held_out: np.zeros((len(held_out), 2), np.float32)

    views = np.stack([np.arange(80)[:, None], np.arange(80)[:, None] + 1000]).astype(np.float32)
    learning_curve(views, np.zeros(80, np.int64), np.zeros((5, 1), np.float32), np.zeros(5, np.int64), fit)
    assert all((vectors[1] - vectors[0] == 1000).all() for vectors in seen)


def test_parts_are_nested_and_hold_every_label():
    targets = np.repeat([0, 1, 2], [600, 190, 10])
    small, large = part(targets, 100, seed=3), part(targets, 400, seed=3)
    assert set(small) < set(large)
    assert np.bincount(targets[small]) == pytest.approx([75, 24, 1], abs=1)
    assert set(part(targets, 100, seed=4)) != set(small)


def test_the_whole_is_all_of_it():
    targets = np.repeat([0, 1], [5, 3])
    assert part(targets, 8, seed=0).tolist() == list(range(8))


def test_rare_labels_of_several_are_in_every_part():
    random = np.random.default_rng(0)
    targets = random.random((400, 3)) < np.array([0.6, 0.3, 0.01])
    assert targets[:, 2].any()
    assert targets[part(targets, 50, seed=0)].any(axis=0).all()


def test_several_labels_are_scored_by_mean_average_precision():
    random = np.random.default_rng(1)
    truth = random.random((60, 3)) < 0.4
    curve = learning_curve(
        np.zeros((80, 2), np.float32),
        random.random((80, 3)) < 0.4,
        np.zeros((60, 2), np.float32),
        truth,
        lambda vectors, targets: lambda held_out: truth.astype(np.float32),
    )
    assert [estimate.value for estimate in curve.accuracy] == [1, 1, 1, 1]
