"""Do probabilities mean what they say? Bins of a reliability diagram, and the error they add up to. Numpy only.

Bins of equal mass, not of equal width: a good network's probabilities crowd near 1, where equal widths would see one bin
(Nixon et al. 2019, "Measuring Calibration in Deep Learning"; Roelofs et al. 2022, "Mitigating Bias in Calibration Error
Estimation").
"""

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.confidence_intervals import resampled
from graft.training.results import Bin, Estimate

N_BINS = 15  # as in Guo et al. 2017
FEWEST = 20  # claims in a bin, so that its own chance error stays below the errors worth reporting

Floats = NDArray[np.float64]


def reliability(claims: Floats, came_true: NDArray[np.bool_]) -> tuple[Bin, ...]:
    """The bins of claims (N, L), ascending, each with what was claimed and what came true."""
    bins, confidence, right = _bins(claims).ravel(), claims.ravel(), came_true.ravel()
    counts = np.bincount(bins)
    claimed, true = np.bincount(bins, confidence) / counts, np.bincount(bins, right) / counts
    return tuple(Bin(confidence=float(c), accuracy=float(a), n=int(n)) for c, a, n in zip(claimed, true, counts, strict=True))


def calibration_error(claims: Floats, came_true: NDArray[np.bool_], seed: int = 0) -> Estimate:
    """The expected calibration error: by how much claims and truth differ within a bin, averaged over all claims.

    Args:
        claims: probabilities (N, L): of the top label, L = 1, or of every label of N images.
        came_true: bool (N, L).
        seed: of the bootstrap.
    """
    n, n_claims = claims.shape
    bins = _bins(claims)
    n_bins = int(bins.max()) + 1
    cells = bins + n_bins * np.arange(n)[:, None]
    gaps = np.bincount(cells.ravel(), (claims - came_true).ravel(), minlength=n * n_bins).reshape(n, n_bins) / n_claims
    gap = gaps.mean(axis=0)
    value, draws = float(np.abs(gap).sum()), resampled(gaps, seed)
    low, high = np.quantile(np.abs(draws).sum(axis=1), [0.025, 0.975])
    # Chance alone makes gaps, and resampling adds as much again: percentiles would never hold the error of a network that
    # is calibrated. The basic bootstrap takes that back; and where chance makes errors as large as this one, none is shown.
    by_chance = float(np.quantile(np.abs(draws - gap).sum(axis=1), 0.975))
    least = 0.0 if value <= by_chance else max(0.0, min(value, 2 * value - float(high)))
    return Estimate(value=value, low=least, high=max(value, 2 * value - float(low)))


def _bins(claims: Floats) -> NDArray[np.intp]:
    """Which bin each claim is in, (N, L), from 0 on without gaps; equal claims are never in two."""
    ordered = np.sort(claims, axis=None)
    n_bins = max(1, min(N_BINS, len(ordered) // FEWEST))
    edges = ordered[[round(len(ordered) * cut / n_bins) for cut in range(1, n_bins)]]
    bins = np.searchsorted(edges, claims, side="right")
    return np.unique(bins, return_inverse=True)[1].reshape(claims.shape)
