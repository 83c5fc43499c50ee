"""Calibration on validation images: temperature, thresholds, prediction sets and outlier threshold. Numpy only.

Validation is also used for model selection, so its estimates are slightly optimistic; `graft.training.evaluation.metrics`
measures each of them on test images. Test images must not be used here.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.inference import postprocess
from graft.service.inference.devices import available_cpus
from graft.service.inference.neighbors import NeighborIndex, l2_normalize
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import Calibration
from graft.service.package_contents import MAX_NEIGHBORS, MAX_VECTOR_VALUES
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Sample
from graft.training.evaluation.predictions import Predictions
from graft.training.features.feature_arrays import Vectors

TARGET_PRECISION = 0.95  # default target precision
COVERAGE = 0.9  # default coverage of prediction sets
INLIER_QUANTILE = 0.95  # fraction of in-distribution images that must not be flagged as outliers
PRECISION_RISK = 0.1  # probability that a label's threshold does not reach the target precision
MAX_COSINE_DISTANCE = 2.0  # the maximum of the cosine distance
BLOCK_SIZE = 512  # images compared with all neighbors in one matrix product

Floats = NDArray[np.float64]


def calibrate(
    validation: Predictions,
    temperature: float,
    neighbors: NeighborIndex,
    target_precision: float = TARGET_PRECISION,
    coverage: float = COVERAGE,
) -> Calibration:
    """Computes everything that is calibrated on validation, given the temperature, which is fitted first."""
    probabilities = postprocess.to_probabilities(validation.logits, temperature, validation.multilabel)
    k = outlier_k(len(neighbors.paths))
    distances = outlier_scores(neighbors, validation.vectors, k)
    outlier_threshold = conformal_quantile(distances, INLIER_QUANTILE)
    multilabel, targets = validation.multilabel, validation.targets
    thresholds = (
        best_f1_thresholds(probabilities, targets)
        if multilabel
        else precision_thresholds(probabilities, targets, target_precision)
    )
    return Calibration(
        target_precision=target_precision,
        thresholds=thresholds,
        coverage=None if multilabel else coverage,
        set_threshold=None if multilabel else set_threshold(probabilities, targets, coverage),
        outlier_k=k,
        outlier_threshold=MAX_COSINE_DISTANCE if outlier_threshold is None else outlier_threshold,
    )


def temperature(logits: NDArray[np.float32], targets: Targets) -> float:
    """The temperature for temperature scaling: the divisor of the logits that calibrates the probabilities, in [1/4, 4].

    Minimizes the log-loss on held-out images (Guo et al. 2017) with a weak prior around 1, worth five images: without it, a
    small validation set that happens to be classified without error would drive the temperature to its lower limit.
    """

    def cost(log_temperature: float) -> float:
        return float(per_sample_nll(logits, targets, math.exp(log_temperature)).sum()) + 2.5 * log_temperature**2

    return math.exp(_golden_section_search(cost, math.log(0.25), math.log(4)))


def _golden_section_search(cost: Callable[[float], float], low: float, high: float, n_steps: int = 18) -> float:
    """The minimum of a unimodal function by golden-section search; every step evaluates the function once."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(n_steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = cost(right)
    return (low + high) / 2


def per_sample_nll(logits: NDArray[np.floating], targets: Targets, temperature: float = 1.0) -> Floats:
    """Negative log-likelihood of each image, (N,), in nats; for multi-label data the mean over labels."""
    scaled = logits.astype(np.float64) / temperature
    if targets.ndim == 2:
        binary_nll: Floats = (np.logaddexp(0, scaled) - scaled * targets).mean(axis=1)
        return binary_nll
    scaled -= scaled.max(axis=1, keepdims=True)
    nll: Floats = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(targets)), targets]
    return nll


def conformal_quantile(scores: Floats, coverage: float) -> float | None:
    """Conformal quantile of exchangeable scores: an upper bound for the next score with probability `coverage`.

    The ceil((n + 1) * coverage)-th smallest of n (Vovk et al. 2005; Papadopoulos et al. 2002). None if n is too small.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None


def set_threshold(probabilities: Floats, labels: NDArray[np.int64], coverage: float) -> float:
    """The minimum probability of a label in the prediction set, so that the set has the true label with probability `coverage`.

    Split conformal prediction; the score is one minus the true label's probability (Sadinle, Lei & Wasserman 2019). Returns
    0, so that every label is in the set, if there are too few images to guarantee the coverage.
    """
    quantile = conformal_quantile(1 - probabilities[np.arange(len(labels)), labels], coverage)
    return 0.0 if quantile is None else max(0.0, 1 - quantile)


def precision_thresholds(probabilities: Floats, labels: NDArray[np.int64], precision: float) -> tuple[float | None, ...]:
    """The lowest probability per label at which its predictions are shown to reach the target precision; None if there is none.

    Each threshold holds with probability 1 - PRECISION_RISK, the search for it included: they are tested from the strictest
    down, each with an exact binomial test, and the search ends at the first that fails (fixed-sequence testing; Angelopoulos
    et al. 2021, "Learn then Test"). The lowest threshold that happens to be precise on these images is often less so on others.
    """
    predicted, n_labels = probabilities.argmax(axis=1), probabilities.shape[1]
    confidence = probabilities.max(axis=1)
    groups = ((confidence[predicted == label], labels[predicted == label] == label) for label in range(n_labels))
    return tuple(_precision_threshold(confidences, correct, precision) for confidences, correct in groups)


def _precision_threshold(confidences: Floats, correct: NDArray[np.bool_], precision: float) -> float | None:
    order = np.argsort(-confidences, kind="stable")
    ranked, n_errors = confidences[order], (~correct[order]).cumsum()
    threshold = None
    for n in _tested_ranks(len(ranked), precision):
        n_above = int(np.searchsorted(-ranked, -ranked[n - 1], side="right"))  # a threshold cannot separate equal probabilities
        if binomial_cdf(int(n_errors[n_above - 1]), n_above, 1 - precision) > PRECISION_RISK:
            break
        threshold = float(ranked[n_above - 1])
    return threshold


def _tested_ranks(n: int, precision: float) -> list[int]:
    """How many predictions are above each threshold that is tested: from the fewest that can show a precision to all n.

    Each is a tenth larger than the one before. They depend on no label, as the test requires.
    """
    ranks = []
    rank = math.ceil(math.log(PRECISION_RISK) / math.log(precision))  # without an error among them
    while rank < n:
        ranks.append(rank)
        rank += rank // 10 + 1
    return [*ranks, n] if ranks or rank == n else []


def binomial_cdf(k: int, n: int, p: float) -> float:
    """The probability of at most k successes in n trials with probability p, in (0, 1)."""
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, log_terms)))


def best_f1_thresholds(probabilities: Floats, targets: NDArray[np.bool_]) -> tuple[float, ...]:
    """The probability threshold per label that maximizes its F1; 1/2 if no image has the label."""
    return tuple(_best_f1_threshold(probabilities[:, label], targets[:, label]) for label in range(targets.shape[1]))


def _best_f1_threshold(probabilities: Floats, targets: NDArray[np.bool_]) -> float:
    if not targets.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, true_positives = probabilities[order], targets[order].cumsum()
    f1 = 2 * true_positives / (np.arange(1, len(ranked) + 1) + targets.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = -1  # a threshold cannot separate equal probabilities
    best = int(f1.argmax())
    # The midpoint between this probability and the next lower one, so that it does not depend on one validation image alone.
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def outlier_scores(neighbors: NeighborIndex, vectors: Vectors, k: int) -> Floats:
    """The cosine distance of each vector of (N, D) to its k-th nearest neighbor, float64 (N,), in [0, 2].

    The same as `NeighborIndex.outlier_score` of each, up to float32 rounding, but as matrix products: thirty times as fast.
    """
    from threadpoolctl import threadpool_limits

    def block_distances(start: int) -> NDArray[np.float32]:
        similarity = l2_normalize(vectors[start : start + BLOCK_SIZE]) @ neighbors.vectors.T
        similarity.partition(similarity.shape[1] - k, axis=1)
        return 1 - similarity[:, -k]

    with threadpool_limits(1):  # outside of the threads, because the limit holds for the whole process
        blocks = list(ordered_map(block_distances, range(0, len(vectors), BLOCK_SIZE), available_cpus()))
    distances: Floats = np.concatenate([np.zeros(0), *blocks])
    return distances.clip(0, 2)


def outlier_k(n_neighbors: int) -> int:
    """The k of the outlier score: 10, so that one unusual training image has no effect; less if there are few neighbors."""
    return max(1, min(10, n_neighbors // 20))


def reference_samples(samples: Sequence[Sample], width: int) -> list[Sample]:
    """Selects the training images that new images are compared with: at most 5,000, fewer if the vectors are wide.

    Round-robin over the labels, so that small labels are complete; ordered by digest within a label, so that the selection
    does not depend on file names or order.
    """
    rounds: dict[tuple[int, ...], int] = {}
    entries = []
    for sample in sorted(samples, key=lambda sample: (sample.digest, sample.path)):
        rounds[sample.labels] = rounds.get(sample.labels, 0) + 1
        entries.append((rounds[sample.labels], sample.digest, sample.path, sample))
    n_max = max(1, min(MAX_NEIGHBORS, MAX_VECTOR_VALUES // width))
    return [sample for *_, sample in sorted(entries, key=lambda entry: entry[:3])[:n_max]]


def build_neighbors(samples: Sequence[Sample], vectors: Vectors) -> NeighborIndex:
    """The neighbor index of reference samples and their vectors (M, D), as the package stores it."""
    # Rounded to float16 as in the package, so that the outlier threshold is computed from the values used in serving.
    stored = l2_normalize(vectors[:]).astype(np.float16).astype(np.float32)
    return NeighborIndex(stored, tuple(sample.labels for sample in samples), tuple(sample.path for sample in samples))
