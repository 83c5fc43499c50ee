"""Learning curves of simulated heads with known error rates."""

import numpy as np
import pytest

from graft.training.evaluation.learning_curve import _resampling_noise, gain_of_doubling, learning_curve, nested_subset
from graft.training.visualization.formatting import data_scaling_text

SIZES = np.array([100, 200, 400, 800])


def heads(error, n_held_out: int, n_trained: list[int] | None = None):
    """A `fit` with heads that are wrong on exactly the `error(n)` fraction of hardest held-out images."""
    hardness = np.linspace(0, 1, n_held_out, endpoint=False)

    def fit(vectors: np.ndarray, targets: np.ndarray):
        if n_trained is not None:
            n_trained.append(len(targets))
        wrong = hardness < error(len(targets))
        return lambda held_out: np.column_stack([~wrong, wrong]).astype(np.float32)

    return fit


def curve_for(error, n_images: int = 800, n_held_out: int = 400, **options):
    vectors, held_out = np.zeros((n_images, 2), np.float32), np.zeros((n_held_out, 2), np.float32)
    targets, held_out_targets = np.zeros(n_images, np.int64), np.zeros(n_held_out, np.int64)
    return learning_curve(vectors, targets, held_out, held_out_targets, heads(error, n_held_out), **options)


@pytest.mark.parametrize(("floor", "height", "exponent"), [(0.05, 1.0, 0.4), (0.0, 1.0, 0.3), (0.1, 3.0, 0.6), (0.2, 0.0, 0.5)])
def test_gain_of_a_known_power_law(floor: float, height: float, exponent: float):
    errors = floor + height * SIZES**-exponent
    gain = gain_of_doubling(SIZES, errors, np.eye(4) * 1e-6)
    true = height * 800**-exponent * (1 - 2**-exponent)
    assert gain.value == pytest.approx(true, abs=0.004)


def test_errors_that_no_power_law_fits_have_a_gain_all_the_same():
    gain = gain_of_doubling(SIZES, np.array([0.9, 0.5, 0.1, 0.3]), np.eye(4) * 1e-6)
    assert (gain.low, gain.value, gain.high) == pytest.approx((0.0407, 0.0407, 0.0407), abs=0.002)


def test_larger_errors_widen_the_interval():
    errors = 0.05 + SIZES**-0.4
    narrow, wide = (gain_of_doubling(SIZES, errors, np.eye(4) * deviation**2) for deviation in (0.002, 0.02))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_coverage_of_the_gain_interval():
    random = np.random.default_rng(0)
    n_contained = 0
    for _ in range(200):
        # Curves sampled from the prior of the method.
        last, reducible, exponent = random.uniform(0.05, 0.4), np.sqrt(random.random()), np.exp(random.uniform(np.log(0.07), 0))
        errors = last * (1 - reducible * (1 - (SIZES / 800) ** -exponent)) + random.normal(size=4) * 0.01
        gain = gain_of_doubling(SIZES, errors, np.eye(4) * 1e-4)
        n_contained += gain.low <= last * reducible * (1 - 2**-exponent) <= gain.high
    assert n_contained / 200 > 0.9


def test_curve_has_the_measured_accuracies():
    curve = curve_for(lambda n: 0.1 + 2 * n**-0.5)
    assert curve.n_images == (100, 200, 400, 800)
    assert [estimate.value for estimate in curve.accuracy] == pytest.approx([0.7, 0.76, 0.8, 0.83], abs=0.01)
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in curve.accuracy)


def test_sentence_gives_percentage_points():
    curve = curve_for(lambda n: 0.1 + 2 * n**-0.5)
    gain = curve.gain_of_doubling.model_copy(update={"value": 0.0312, "low": 0.004, "high": 0.05})
    sentence = curve.model_copy(update={"gain_of_doubling": gain}).to_text()
    assert sentence == "estimated gain from twice as many images: +3.1 points (+0.4 to +5.0)"


def test_gain_interval_of_a_measured_curve_contains_the_true_gain():
    gain = curve_for(lambda n: 0.1 + 2 * n**-0.5).gain_of_doubling
    assert 0 < gain.low < 2 * 800**-0.5 - 2 * 1600**-0.5 < gain.high < 0.04


def test_flat_curve_has_almost_no_gain():
    gain = curve_for(lambda n: 0.2, n_held_out=2000).gain_of_doubling
    assert 0 <= gain.low <= gain.value < 0.003


def test_few_held_out_images_without_errors_stay_uncertain():
    gain = curve_for(lambda n: 0.0, n_held_out=20).gain_of_doubling
    assert gain.low < 0.001
    assert gain.high > 0.005


def test_learning_curve_is_deterministic():
    assert curve_for(lambda n: 3 / n**0.5) == curve_for(lambda n: 3 / n**0.5)


@pytest.mark.parametrize("n_images", [1, 3, 39])
def test_too_few_images_have_no_curve(n_images: int):
    assert curve_for(lambda n: 0.1, n_images=n_images) is None


def test_forty_images_are_enough():
    curve = curve_for(lambda n: 0.2, n_images=40)
    assert curve.n_images == (5, 10, 20, 40)
    assert all(estimate.low < estimate.value == 0.8 < estimate.high for estimate in curve.accuracy)


def test_groups_of_held_out_images_count_once():
    clusters = np.arange(400) // 20
    single, grouped = (curve_for(lambda n: 0.2, held_out_clusters=which) for which in (None, clusters))
    for one, other in zip(single.accuracy, grouped.accuracy, strict=True):
        assert other.high - other.low > 2 * (one.high - one.low)
    # Without errors, only the number of images or groups says how sure the gain is.
    gain = curve_for(lambda n: 0.0, held_out_clusters=clusters).gain_of_doubling
    assert gain == curve_for(lambda n: 0.0, n_held_out=20).gain_of_doubling


def test_accuracy_of_a_size_is_the_mean_of_its_subsets():
    accuracies: dict[int, list[float]] = {}

    def fit(vectors: np.ndarray, targets: np.ndarray):
        n_wrong = 10 * len(accuracies.setdefault(len(targets), []))
        accuracies[len(targets)].append(1 - n_wrong / 100)
        wrong = np.arange(100) < n_wrong
        return lambda held_out: np.column_stack([~wrong, wrong]).astype(np.float32)

    labels = np.zeros(80, np.int64)
    curve = learning_curve(np.zeros((80, 2), np.float32), labels, np.zeros((100, 2), np.float32), np.zeros(100, np.int64), fit)
    assert [len(accuracies[size]) for size in curve.n_images] == [4, 3, 2, 1]
    assert [estimate.value for estimate in curve.accuracy] == pytest.approx([0.85, 0.9, 0.95, 1])


def test_noise_of_the_subsets_falls_with_their_size_and_number():
    # Two subsets of 100 images score 0.7 and 0.9: the variance is 0.02, or 2 for one image.
    scores = [[np.array([0.6, 0.8]), np.array([0.8, 1.0])], [np.array([0.9, 0.9])]]
    noise = _resampling_noise(np.array([100, 400]), scores, 0)
    assert noise.std(axis=0) == pytest.approx(np.sqrt([2 / 100 / 2, 2 / 400]), rel=0.05)


@pytest.mark.parametrize(("n_labels", "sizes"), [(100, [100] * 4 + [200] * 3 + [400] * 2), (101, [101] * 2 + [202, 404])])
def test_many_labels_need_fewer_subsets(n_labels: int, sizes: list[int]):
    n_trained: list[int] = []
    n_images = 8 * n_labels
    vectors, targets, held_out_targets = np.zeros((n_images, 1), np.float32), np.arange(n_images) // 8, np.zeros(10, np.int64)
    full_logits = np.tile(np.array([1, 0], np.float32), (10, 1))
    learning_curve(vectors, targets, vectors[:10], held_out_targets, heads(lambda n: 0.1, 10, n_trained), full_logits)
    assert n_trained == sizes


def test_small_subsets_are_repeated_and_the_full_set_is_not_trained_again():
    n_trained: list[int] = []
    vectors, held_out_targets = np.zeros((80, 2), np.float32), np.zeros(10, np.int64)
    full_logits = np.tile(np.array([1, 0], np.float32), (10, 1))
    fit = heads(lambda n: 0.1, 10, n_trained)
    learning_curve(vectors, np.zeros(80, np.int64), vectors[:10], held_out_targets, fit, full_logits)
    assert n_trained == [10, 10, 10, 10, 20, 20, 20, 40, 40]


def test_large_data_set_is_trained_on_a_subset():
    n_trained: list[int] = []
    vectors, held_out_targets = np.zeros((50_000, 1), np.float32), np.zeros(10, np.int64)
    full_logits = np.tile(np.array([1, 0], np.float32), (10, 1))
    fit = heads(lambda n: 0.1, 10, n_trained)
    curve = learning_curve(vectors, np.zeros(50_000, np.int64), vectors[:10], held_out_targets, fit, full_logits)
    assert max(n_trained) == 5000
    assert curve.n_images == (625, 1250, 2500, 5000, 50_000)


def test_all_views_of_an_image_are_in_one_subset():
    subsets = []

    def fit(vectors: np.ndarray, targets: np.ndarray):
        subsets.append(vectors)
        return lambda held_out: np.zeros((len(held_out), 2), np.float32)

    views = np.stack([np.arange(80)[:, None], np.arange(80)[:, None] + 1000]).astype(np.float32)
    learning_curve(views, np.zeros(80, np.int64), np.zeros((5, 1), np.float32), np.zeros(5, np.int64), fit)
    assert all((vectors[1] - vectors[0] == 1000).all() for vectors in subsets)


def test_subsets_are_nested_and_contain_every_label():
    targets = np.repeat([0, 1, 2], [600, 190, 10])
    small, large = nested_subset(targets, 100, seed=3), nested_subset(targets, 400, seed=3)
    assert set(small) < set(large)
    assert np.bincount(targets[small]) == pytest.approx([75, 24, 1], abs=1)
    assert set(nested_subset(targets, 100, seed=4)) != set(small)


@pytest.mark.parametrize("seed", range(10))
def test_every_label_is_in_every_subset(seed: int):
    assert set(np.repeat([0, 1, 2], [6, 30, 2])[nested_subset(np.repeat([0, 1, 2], [6, 30, 2]), 5, seed)]) == {0, 1, 2}
    # Of ten images, nine have the first label, and one has the second one, too.
    targets = np.zeros((10, 2), bool)
    targets[:9, 0] = targets[0, 1] = True
    subset = nested_subset(targets, 3, seed)
    assert 0 in subset
    assert 9 in subset  # has no label, which is a label of its own


def test_full_subset_has_all_images():
    targets = np.repeat([0, 1], [5, 3])
    assert nested_subset(targets, 8, seed=0).tolist() == list(range(8))


def test_rare_labels_of_multilabel_data_are_in_every_subset():
    random = np.random.default_rng(0)
    targets = random.random((400, 3)) < np.array([0.6, 0.3, 0.01])
    assert targets[:, 2].any()
    assert targets[nested_subset(targets, 50, seed=0)].any(axis=0).all()


def test_multilabel_data_are_scored_by_mean_average_precision():
    random = np.random.default_rng(1)
    held_out_targets = random.random((60, 3)) < 0.4
    curve = learning_curve(
        np.zeros((80, 2), np.float32),
        random.random((80, 3)) < 0.4,
        np.zeros((60, 2), np.float32),
        held_out_targets,
        lambda vectors, targets: lambda held_out: held_out_targets.astype(np.float32),
    )
    assert [estimate.value for estimate in curve.accuracy] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("kept", "end"),
    [
        ("finetune", "for a linear probe; the fine-tuned network may gain more"),
        ("stages", "for a linear probe; the kept model (stages) may gain more"),
    ],
)
def test_sentence_names_the_model_if_another_one_was_kept(kept: str, end: str):
    curve = curve_for(lambda n: 0.1 + 2 * n**-0.5).model_copy(update={"kept": kept})
    assert curve.to_text().endswith(end)
    assert f"{end}. " in data_scaling_text(curve)
