"""Clusters of images: what their dependence does to intervals, and the coverage of these in simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from graft.service.manifest import Calibration
from graft.training.data.dataset import Sample
from graft.training.evaluation.clusters import (
    are_single,
    cluster_ids,
    effective_clusters,
    inflation_of_sums,
    n_clusters,
    t_quantile,
    variance_inflation,
)
from graft.training.evaluation.confidence_intervals import bootstrap_means, mean_interval, proportion, ratio
from graft.training.evaluation.learning_curve import learning_curve
from graft.training.evaluation.metrics import accuracy_score, mean_average_precision
from graft.training.evaluation.paired import paired_difference
from graft.training.evaluation.per_class import multiclass_metrics, multilabel_metrics
from graft.training.results import Estimate, Evaluation

GROUP_SIZE = 10


def test_samples_of_one_group_have_one_cluster():
    samples = [Sample("a", (0,), group=b"x"), Sample("b", (0,), digest=b"1"), Sample("c", (1,), group=b"x"), Sample("d", (0,))]
    assert cluster_ids(samples).tolist() == [0, 1, 0, 2]
    assert n_clusters(cluster_ids(samples)) == 3
    assert n_clusters(cluster_ids([])) == 0


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (7, 2.365), (19, 2.093), (1e9, 1.960)])
def test_t_quantile_is_close_to_published_values(degrees: float, quantile: float):
    assert t_quantile(degrees) == pytest.approx(quantile, rel=0.12 if degrees < 2 else 0.01)


def test_t_quantile_has_the_published_terms():
    # 1.959964 + 2.372273 / n + 2.822502 / n^2 + 2.555850 / n^3 + 1.589534 / n^4; fewer than one degree count as one.
    assert t_quantile(1) == t_quantile(0.3) == pytest.approx(11.300117921, abs=2e-9)


@pytest.mark.parametrize(("degrees", "tolerance"), [(3, 2e-3), (10, 1e-5), (39, 1e-7)])
def test_t_quantile_is_ever_more_exact(degrees: int, tolerance: float):
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=tolerance)


def test_effective_number_of_clusters():
    assert effective_clusters(np.array([1.0, 2, 3])) == 36 / 14
    assert effective_clusters(np.full(7, 5.0)) == 7


def test_clusters_are_single_if_no_two_images_share_one():
    assert [are_single(clusters) for clusters in (None, np.array([1, 0, 2]), np.array([0, 1, 1]))] == [True, True, False]


def test_inflation_by_hand():
    # 40 clusters of 5 images: at most 5, measured 2, shrunk toward 5 by the weight of 3 clusters, widened for 39 degrees.
    sums, sizes = np.tile([2.0, -2.0], 20), np.full(40, 5.0)
    squares = 40 * 4 * 40 / 39 / 2
    widening = (stats.t.ppf(0.975, 39) / 1.959964) ** 2
    expected = pytest.approx((40 * 2 + 3 * 5) / 43 * widening, rel=1e-5)
    assert inflation_of_sums(sums, sizes, squares) == expected
    # Clusters without weight do not count, nor does the unit of the weights.
    assert inflation_of_sums(np.append(sums, [0, 0]), np.append(sizes, [0, 0]), squares) == expected
    assert inflation_of_sums(sums, sizes / 2, squares, 200 / 4) == expected


def test_inflation_of_single_images_by_hand():
    # The same, with images whose influences in a cluster are 2, 0, 0, 0 and 0, and whose weights are 1/2.
    influences, clusters = np.tile([2.0, 0, 0, 0, 0, -2.0, 0, 0, 0, 0], 20), np.repeat(np.arange(40), 5)
    widening = (stats.t.ppf(0.975, 39) / 1.959964) ** 2
    expected = (40 * 40 / 39 + 3 * 5) / 43 * widening
    assert variance_inflation(influences, np.full(200, 0.5), clusters) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("sums", "sizes", "squares", "inflation"),
    [
        ([0.0] * 40, [5.0] * 40, 9, 1),  # never fewer than independent images
        ([9.0, -9] * 20, [5.0] * 40, 9, 5),  # never more than equal images
        ([0.0] * 40, [5.0] * 40, 0, 5),  # nothing varies, so nothing is measured
        ([0.0], [5.0], 9, 5),
        ([1.0, -1], [5.0, 5], 9, 5),
        ([1.0, -1, 0], [1.0, 1, 1], 9, 1),
    ],
)
def test_limits_of_the_inflation(sums: list[float], sizes: list[float], squares: float, inflation: float):
    assert inflation_of_sums(np.array(sums), np.array(sizes), squares) == inflation


def test_independent_images_have_no_inflation():
    assert variance_inflation(np.ones(5), np.ones(5), None) == 1
    assert variance_inflation(np.arange(5.0), np.ones(5), np.array([4, 3, 2, 1, 0])) == 1


def test_equal_images_of_a_cluster_count_as_one():
    influences = np.repeat(np.tile([1.0, -1.0], 25), 4)
    assert variance_inflation(influences, np.ones(200), np.repeat(np.arange(50), 4)) == 4


def test_perfect_clusters_count_once():
    assert ratio(np.ones(60), np.ones(60), np.repeat(np.arange(20), 3)) == proportion(20, 20)


def test_images_without_weight_do_not_matter():
    outcomes, cases = np.array([1, 0, 1, 1, 0, 0]), np.array([1, 1, 1, 1, 0, 0])
    # Of each cluster only one image is a case; the others are in one cluster, which has no case.
    assert ratio(outcomes, cases, np.array([0, 1, 2, 3, 4, 4])) == proportion(3, 4)


def test_bootstrap_of_a_single_cluster_is_as_wide_as_one_image():
    values = np.random.default_rng(0).normal(size=(400, 1))
    assert bootstrap_means(values, clusters=np.zeros(400, np.int64)).std() == pytest.approx(values.std(), rel=0.1)


def grouped_outcomes(random: np.random.Generator, n_groups: int, rate: float, correlation: float) -> np.ndarray:
    """Outcomes (n_groups, GROUP_SIZE) with an intraclass correlation: a beta-binomial distribution."""
    if correlation == 0:
        rates = np.full(n_groups, rate)
    elif correlation == 1:
        rates = (random.random(n_groups) < rate).astype(float)
    else:
        rates = random.beta(rate * (1 / correlation - 1), (1 - rate) * (1 / correlation - 1), n_groups)
    return random.random((n_groups, GROUP_SIZE)) < rates[:, None]


@pytest.mark.parametrize("n_groups", [8, 20, 100])
@pytest.mark.parametrize("correlation", [0, 0.3, 0.7, 1])
@pytest.mark.parametrize("rate", [0.6, 0.85])
def test_accuracy_of_groups_is_covered(n_groups: int, correlation: float, rate: float):
    random = np.random.default_rng(7)
    clusters, logits = np.repeat(np.arange(n_groups), GROUP_SIZE), np.tile([0.0, 1.0], (n_groups * GROUP_SIZE, 1))
    covered = 0
    for _ in range(400):
        outcomes = grouped_outcomes(random, n_groups, rate, correlation).ravel().astype(np.int64)
        score = accuracy_score(logits.astype(np.float32), outcomes, clusters)
        covered += score.low <= rate <= score.high
    assert covered / 400 >= 0.9


@pytest.mark.parametrize("n_groups", [8, 20, 100])
@pytest.mark.parametrize("correlation", [0, 0.3, 0.7, 1])
def test_mean_of_groups_is_covered(n_groups: int, correlation: float):
    random = np.random.default_rng(8)
    clusters, covered = np.repeat(np.arange(n_groups), GROUP_SIZE), 0
    for _ in range(200):
        shared, own = random.normal(size=(n_groups, 1)), random.normal(size=(n_groups, GROUP_SIZE))
        values = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        estimate = mean_interval(values.ravel(), clusters=clusters)
        covered += estimate.low <= 0 <= estimate.high
    assert covered / 200 >= 0.9


def width(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.high - estimate.low


def calibrated(thresholds: tuple[float, ...]) -> Calibration:
    return Calibration(
        n_images=100,
        target_precision=0.95,
        thresholds=thresholds,
        coverage=None,
        set_thresholds=(0.5,) * len(thresholds),
        covered_by_label=(True,) * len(thresholds),
        outlier_k=1,
        outlier_threshold=1,
    )


def quadrupled(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices that repeat each of n images four times, and the clusters of the copies."""
    rows = np.repeat(np.arange(n), 4)
    return rows, rows


def test_copies_do_not_narrow_the_intervals_of_multiclass_metrics():
    random = np.random.default_rng(1)
    probabilities, labels = random.dirichlet(np.ones(7), 60), np.tile(np.arange(7), 9)[:60]
    probabilities[np.arange(40), labels[:40]] += 1
    check_copies(multiclass_metrics, probabilities, labels, 0.4, ("precision", "recall", "f1", "precision_above"))


def test_copies_do_not_narrow_the_intervals_of_multilabel_metrics():
    random = np.random.default_rng(2)
    targets = random.random((50, 5)) < 0.4
    probabilities = np.clip(0.5 * targets + 0.6 * random.random((50, 5)), 0, 1)
    check_copies(multilabel_metrics, probabilities, targets, 0.5, ("precision", "recall", "f1", "average_precision"))


def check_copies(compute, probabilities: np.ndarray, targets: np.ndarray, threshold: float, names: tuple[str, ...]) -> None:
    """Four copies of each image have intervals at least as wide as one, in all metrics and in those of each label."""
    rows, clusters = quadrupled(len(targets))
    n_labels = probabilities.shape[1]
    labels, calibration = tuple("abcdefg"[:n_labels]), calibrated((threshold,) * n_labels)
    alone, by_label = compute(probabilities, targets, labels, calibration)
    copied, copied_by_label = compute(probabilities[rows], targets[rows], labels, calibration, clusters)
    assert all(width(copied[name]) >= 0.95 * width(alone[name]) for name in alone)
    for before, after in zip(by_label, copied_by_label, strict=True):
        for name in names:
            assert width(getattr(after, name)) >= 0.95 * width(getattr(before, name)), (before.label, name)


def test_copies_do_not_narrow_the_interval_of_the_mean_average_precision():
    random = np.random.default_rng(3)
    targets = random.random((80, 4)) < 0.3
    scores = targets + random.normal(size=(80, 4))
    rows, clusters = quadrupled(80)
    alone = mean_average_precision(scores, targets)
    assert width(mean_average_precision(scores[rows], targets[rows], clusters)) >= 0.95 * width(alone)
    assert width(mean_average_precision(scores[rows], targets[rows])) < 0.6 * width(alone)


def test_copies_do_not_narrow_the_interval_of_a_paired_difference():
    random = np.random.default_rng(4)
    labels = random.integers(0, 3, 90)
    better, worse = (np.eye(3)[labels] * strength + random.normal(size=(90, 3)) for strength in (2, 1))
    rows, clusters = quadrupled(90)
    _, low, high = paired_difference(better, worse, labels)
    _, low_of_copies, high_of_copies = paired_difference(better[rows], worse[rows], labels[rows], clusters=clusters)
    assert high_of_copies - low_of_copies >= 0.9 * (high - low)


def test_learning_curve_counts_clusters_of_held_out_images():
    random = np.random.default_rng(5)
    vectors, labels = random.normal(size=(100, 3)).astype(np.float32), np.tile([0, 1], 50)
    held_out, held_out_labels = random.normal(size=(120, 3)).astype(np.float32), np.repeat([0, 1, 0, 1], 30)

    def fit(rows: np.ndarray, _: np.ndarray):
        return lambda others: np.column_stack([np.zeros(len(others)), others[:, 0] + rows.mean()]).astype(np.float32)

    clusters = np.repeat(np.arange(12), 10)
    held_out[:] = held_out[clusters * 10]  # all images of a cluster are the same
    single, grouped = (
        learning_curve(vectors, labels, held_out, held_out_labels, fit, held_out_clusters=which) for which in (None, clusters)
    )
    assert single is not None
    assert grouped is not None
    assert width(grouped.accuracy[-1]) > 2 * width(single.accuracy[-1])


def test_sample_is_described_with_its_groups():
    assert describe(495, 212) == "495 test images in 212 groups"
    assert describe(40, 1) == "40 test images in 1 group"
    assert describe(1_200, 1_200) == "1,200 test images"
    assert describe(7, None) == "7 test images"


def describe(n: int, n_groups: int | None) -> str:
    evaluation = Evaluation(
        n=n,
        n_groups=n_groups,
        multilabel=False,
        temperature=1,
        metrics={},
        labels=(),
        confusion=(),
        reliability_before=(),
        reliability_after=(),
        conformal=None,
        outliers=None,
    )
    return evaluation.describe_sample("test images")
