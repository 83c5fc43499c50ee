"""How scores grow with images, and what twice as many would bring: a head refitted on ever larger parts of train.

Only the head learns here, so a fine-tuned network's own curve may be steeper. Validation judges, never test.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.evaluation.confidence_intervals import DRAWS, between, resampled
from graft.training.evaluation.metrics import by_image
from graft.training.features.feature_arrays import Vectors
from graft.training.results import Estimate, LearningCurve

PARTS = ((1 / 8, 4), (1 / 4, 3), (1 / 2, 2), (1.0, 1))  # of the images, and how many different draws of them
MOST = 5_000  # images of the largest part that is learned from only for the curve
FEWEST = 40  # images; an eighth of fewer says nothing
EXPONENTS = np.geomspace(0.07, 1, 19)  # of learning curves in practice (Hestness et al. 2017; Viering & Loog 2022)
GRID = 41  # values tried for the error at the largest size, and again for the share of it that goes on falling

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
Head = Callable[[Vectors], Logits]


def learning_curve(
    vectors: Vectors,
    targets: Targets,
    held_out: Vectors,
    truth: Targets,
    fit: Callable[[Vectors, Targets], Head],
    whole: Logits | None = None,
    seed: int = 0,
) -> LearningCurve | None:
    """The score on held-out images by number of images learned from; None where there are too few for a curve.

    Args:
        vectors: float32 (N, D), or (V, N, D) for several views of each image; all of a part's are learned from.
        targets: of the N.
        held_out: float32 (M, D).
        truth: of the M.
        fit: vectors (..., n, D) and targets of n -> what gives logits (M, C) of vectors (M, D).
        whole: logits (M, C) by a head that learned from all N, if there is one already.
        seed: of the draws.
    """
    n_images = len(targets)
    if n_images < FEWEST:
        return None
    plan = _plan(n_images)
    scores = []
    for size, n_draws in plan:
        if size == n_images and whole is not None:
            scores.append([by_image(whole, truth)])
            continue
        parts = [part(targets, size, seed + draw) for draw in range(n_draws)]
        scores.append([by_image(fit(_images(vectors, chosen), targets[chosen])(held_out), truth) for chosen in parts])
    sizes = np.array([size for size, _ in plan])
    means = np.stack([np.mean(draws, axis=0) for draws in scores], axis=1)
    drawn = resampled(means, seed) + _luck(sizes, scores, seed)
    measured = zip(means.mean(axis=0).tolist(), drawn.T, strict=True)
    return LearningCurve(
        n_images=tuple(sizes.tolist()),
        accuracy=tuple(between(value, np.clip(draws, 0, 1)) for value, draws in measured),
        gain_of_doubling=gain_of_doubling(sizes, 1 - means.mean(axis=0), _doubt(drawn, len(truth))),
    )


def _images(vectors: Vectors, chosen: NDArray[np.intp]) -> NDArray[np.float32]:
    """All views of some images."""
    return vectors[chosen] if vectors.ndim == 2 else vectors[:, chosen]


def _plan(n_images: int) -> list[tuple[int, int]]:
    """How many images are learned from, ascending, and how often."""
    most = min(n_images, MOST)
    plan = {round(most * share): n_draws for share, n_draws in PARTS}
    return sorted((plan | {n_images: 1}).items())


def part(targets: Targets, size: int, seed: int) -> NDArray[np.intp]:
    """Indices of about `size` images: every label's share, and at least one of each; smaller parts lie within larger."""
    random, n_images = np.random.default_rng(seed), len(targets)
    keys = targets if targets.ndim == 1 else _rarest(targets)
    place = np.empty(n_images)
    for key in np.unique(keys):
        own = random.permutation(np.flatnonzero(keys == key))
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
        place[own[0]] = 0
    return np.flatnonzero(place < size / n_images)


def _rarest(targets: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Of each image's labels the rarest, (N,); C where it has none."""
    counts = np.append(targets.sum(axis=0), len(targets) + 1)
    has = np.column_stack([targets, np.ones(len(targets), bool)])
    rarest: NDArray[np.intp] = np.where(has, counts, len(targets) + 2).argmin(axis=1)
    return rarest


def _luck(sizes: NDArray[np.int64], scores: list[list[Floats]], seed: int) -> Floats:
    """Noise (draws, S) as large as what another draw of the images to learn from would have changed.

    Seen where a size was learned more than once; its variance is taken to fall with the number of images.
    """
    several = [(size, draws) for size, draws in zip(sizes, scores, strict=True) if len(draws) > 1]
    spread = [size * np.var([draw.mean() for draw in draws], ddof=1) for size, draws in several]
    deviation = np.sqrt(np.mean(spread) / sizes / [len(draws) for draws in scores])
    noise: Floats = np.random.default_rng(seed + 1).normal(size=(DRAWS, len(sizes))) * deviation
    return noise


def _doubt(drawn: Floats, n_held_out: int) -> Floats:
    """The errors' covariance (S, S), with one held-out image more or less at each: few images that are all right doubt."""
    return np.cov(drawn, rowvar=False) + np.eye(drawn.shape[1]) / n_held_out**2


def gain_of_doubling(sizes: NDArray[np.int64], errors: Floats, covariance: Floats) -> Estimate:
    """What twice the largest size would take off the error, by all curves a + b n^-c that the measured errors allow.

    Every curve of a grid counts by its likelihood, because four points rarely tell a floor from a slow decay; the value is
    the median, and the interval says how far the curves disagree. Errors are taken not to grow with images.

    Args:
        sizes: (S,), ascending.
        errors: (S,), measured.
        covariance: (S, S), of the measurements.
    """
    spread = math.sqrt(covariance[-1, -1])
    lasts = np.linspace(max(0.0, errors[-1] - 3 * spread), min(1.0, errors[-1] + 3 * spread), GRID)
    last, share, exponent = (axis.ravel() for axis in np.meshgrid(lasts, np.sqrt(np.linspace(0, 1, GRID)), EXPONENTS))
    # `share` of the last error goes on falling, the rest is the floor.
    fall = (sizes / sizes[-1])[None] ** -exponent[:, None]
    apart = last[:, None] * (1 - share[:, None] * (1 - fall)) - errors
    misfit = np.einsum("gs,st,gt->g", apart, np.linalg.inv(covariance), apart, optimize=True)
    weights = np.exp(-0.5 * (misfit - misfit.min()))
    gains = last * share * (1 - 2**-exponent)
    order = gains.argsort()
    below = weights[order].cumsum() / weights.sum()
    low, value, high = gains[order][np.searchsorted(below, [0.025, 0.5, 0.975])].tolist()
    return Estimate(value=value, low=low, high=high)
