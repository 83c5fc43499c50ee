"""Learning curve: the score by number of training images, from a head refitted on nested subsets, and the gain from doubling.

Only the head is trained here, so the curve of a fine-tuned network may be steeper. Scores are those on validation images,
never on test images.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.evaluation.clusters import Clusters, n_clusters
from graft.training.evaluation.confidence_intervals import N_RESAMPLES, bootstrap_means, percentile_interval
from graft.training.evaluation.paired import per_sample_score
from graft.training.features.feature_arrays import Vectors, map_rows
from graft.training.results import Estimate, LearningCurve
from graft.training.runtime.progress import Progress

SUBSETS = ((1 / 8, 4), (1 / 4, 3), (1 / 2, 2), (1.0, 1))  # fraction of the images, and number of random subsets of that size
MAX_SUBSET_SIZE = 5_000  # images of the largest subset that is trained on only for the curve
MANY_LABELS = 100  # labels; with more, subsets of a size differ little, and only the smallest size is repeated, once
MIN_IMAGES = 40  # images; one eighth of fewer is too small to train on
EXPONENTS = np.geomspace(0.07, 1, 19)  # of power laws measured in practice (Hestness et al. 2017; Viering & Loog 2022)
GRID_SIZE = 41  # grid points for the error at the largest size, and for the reducible fraction of it

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
Head = Callable[[Logits], Logits]  # vectors float32 (M, D) to logits (M, C)


def learning_curve(
    vectors: Vectors,
    targets: Targets,
    held_out_vectors: Vectors,
    held_out_targets: Targets,
    fit: Callable[[Vectors, Targets], Head],
    full_logits: Logits | None = None,
    seed: int = 0,
    held_out_clusters: Clusters | None = None,
) -> LearningCurve | None:
    """Computes the score on held-out images by number of training images; None if there are fewer than MIN_IMAGES.

    Args:
        vectors: float32 (N, D), or (V, N, D) for V augmented views of each image; all views of a subset are trained on.
        targets: of the N images.
        held_out_vectors: float32 (M, D).
        held_out_targets: of the M images.
        fit: takes vectors (..., n, D) and n targets; returns a function from vectors (M, D) to logits (M, C).
        full_logits: logits (M, C) of a head trained on all N images, if there is one already.
        seed: of the random subsets.
        held_out_clusters: int64 (M,), which held-out images belong together; None if every image is its own.
    """
    n_images = len(targets)
    if n_images < MIN_IMAGES:
        return None
    plan = _subset_sizes(n_images, len(np.unique(_label_of(targets))), full_logits is not None)
    trained = [(size, n_repeats) for size, n_repeats in plan if size < n_images or full_logits is None]
    with Progress("learning curve", sum(n_repeats for _, n_repeats in trained), "fits") as progress:

        def score(size: int, repeat: int) -> Floats:
            subset = nested_subset(targets, size, seed + repeat)
            head = fit(_select_images(vectors, subset), targets[subset])
            progress.advance(1)
            return per_sample_score(map_rows(head, held_out_vectors), held_out_targets)

        scores = [[score(size, repeat) for repeat in range(n_repeats)] for size, n_repeats in trained]
    if full_logits is not None:
        scores.append([per_sample_score(full_logits, held_out_targets)])
    sizes = np.array([size for size, _ in plan])
    means = np.stack([np.mean(repeats, axis=0) for repeats in scores], axis=1)
    samples = bootstrap_means(means, seed, clusters=held_out_clusters) + _resampling_noise(sizes, scores, seed)
    n_held_out = len(held_out_targets) if held_out_clusters is None else n_clusters(held_out_clusters)
    points = zip(means.mean(axis=0).tolist(), samples.T, strict=True)
    return LearningCurve(
        n_images=tuple(sizes.tolist()),
        accuracy=tuple(percentile_interval(value, np.clip(point_samples, 0, 1)) for value, point_samples in points),
        gain_of_doubling=gain_of_doubling(sizes, 1 - means.mean(axis=0), _error_covariance(samples, n_held_out)),
    )


def _select_images(vectors: Vectors, indices: NDArray[np.intp]) -> NDArray[np.float32]:
    """All views of the selected images."""
    return vectors[indices] if vectors.ndim == 2 else vectors[:, indices]


def _subset_sizes(n_images: int, n_labels: int, has_full: bool) -> list[tuple[int, int]]:
    """The subset sizes, ascending, each with its number of random subsets; every subset has an image of every label.

    Args:
        has_full: whether the head of all images is trained already, so that half of them is the largest size to train on.
    """
    n_max = n_images if has_full and n_images <= 2 * MAX_SUBSET_SIZE else min(n_images, MAX_SUBSET_SIZE)
    plan = {size: n_repeats for fraction, n_repeats in SUBSETS if (size := round(n_max * fraction)) >= min(n_labels, n_max / 2)}
    if n_labels > MANY_LABELS:
        plan = {size: 2 if size == min(plan) else 1 for size in plan}
    return sorted((plan | {n_images: 1}).items())


def nested_subset(targets: Targets, size: int, seed: int) -> NDArray[np.intp]:
    """Indices of a stratified subset of about `size` images, at least one per label; smaller subsets lie in larger ones."""
    random, n_images = np.random.default_rng(seed), len(targets)
    keys = _label_of(targets)
    position = np.empty(n_images)
    for key in np.unique(keys):
        rows = random.permutation(np.flatnonzero(keys == key))
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        position[rows[0]] = 0
    return np.flatnonzero(position < size / n_images)


def _label_of(targets: Targets) -> NDArray[np.intp]:
    """The label of each image, (N,); for multi-label data its rarest label, C if it has none."""
    if targets.ndim == 1:
        return targets
    counts = np.append(targets.sum(axis=0), len(targets) + 1)
    has_label = np.column_stack([targets, np.ones(len(targets), bool)])
    rarest: NDArray[np.intp] = np.where(has_label, counts, len(targets) + 2).argmin(axis=1)
    return rarest


def _resampling_noise(sizes: NDArray[np.int64], scores: list[list[Floats]], seed: int) -> Floats:
    """Noise (n_resamples, S) with the variance that comes from the random choice of training images.

    Estimated from the sizes with several subsets; the variance is assumed to be proportional to 1 / size.
    """
    repeated = [(size, repeats) for size, repeats in zip(sizes, scores, strict=True) if len(repeats) > 1]
    scaled_variances = [size * np.var([repeat.mean() for repeat in repeats], ddof=1) for size, repeats in repeated]
    deviation = np.sqrt(np.mean(scaled_variances) / sizes / [len(repeats) for repeats in scores])
    noise: Floats = np.random.default_rng(seed + 1).normal(size=(N_RESAMPLES, len(sizes))) * deviation
    return noise


def _error_covariance(samples: Floats, n_held_out: int) -> Floats:
    """Covariance (S, S) of the errors, plus the variance of one held-out image or cluster: no error on few stays uncertain."""
    return np.cov(samples, rowvar=False) + np.eye(samples.shape[1]) / n_held_out**2


def gain_of_doubling(sizes: NDArray[np.int64], errors: Floats, covariance: Floats) -> Estimate:
    """The reduction of the error from twice the largest size, by power laws a + b n^-c fitted to the measured errors.

    Every power law of a grid is weighted by its likelihood, because four points rarely separate an irreducible error from a
    slow decay. The value is the weighted median, and the interval is that of the weighted distribution. Errors are assumed
    not to increase with more images.

    Args:
        sizes: (S,), ascending.
        errors: (S,), measured.
        covariance: (S, S), of the errors.
    """
    deviation = math.sqrt(covariance[-1, -1])
    last_errors = np.linspace(max(0.0, errors[-1] - 3 * deviation), min(1.0, errors[-1] + 3 * deviation), GRID_SIZE)
    grid = np.meshgrid(last_errors, np.sqrt(np.linspace(0, 1, GRID_SIZE)), EXPONENTS)
    last, reducible, exponent = (axis.ravel() for axis in grid)
    # `reducible` is the fraction of the last error that decays; the rest is irreducible.
    decay = (sizes / sizes[-1])[None] ** -exponent[:, None]
    residuals = last[:, None] * (1 - reducible[:, None] * (1 - decay)) - errors
    chi_squared = np.einsum("gs,st,gt->g", residuals, np.linalg.inv(covariance), residuals, optimize=True)
    weights = np.exp(-0.5 * (chi_squared - chi_squared.min()))
    gains = last * reducible * (1 - 2**-exponent)
    order = gains.argsort()
    cumulative = weights[order].cumsum() / weights.sum()
    low, value, high = gains[order][np.searchsorted(cumulative, [0.025, 0.5, 0.975])].tolist()
    return Estimate(value=value, low=low, high=high)
