"""Expected calibration error and the bins of a reliability diagram. Numpy only.

The bins have equal mass, not equal width: a good network's probabilities are concentrated near 1, where bins of equal width
would put nearly all of them into one (Nixon et al. 2019, "Measuring Calibration in Deep Learning"; Roelofs et al. 2022,
"Mitigating Bias in Calibration Error Estimation").
"""

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.confidence_intervals import bootstrap_means
from graft.training.results import CalibrationBin, Estimate

N_BINS = 15  # as in Guo et al. 2017
MIN_PER_BIN = 20  # predictions per bin, so that a bin's sampling error stays below the errors worth reporting

Floats = NDArray[np.float64]


def reliability_bins(confidences: Floats, correct: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Bins of confidences (N, L), ascending, each with its mean confidence and its accuracy."""
    bins, confidence, outcomes = _assign_bins(confidences).ravel(), confidences.ravel(), correct.ravel()
    counts = np.bincount(bins)
    means, accuracies = np.bincount(bins, confidence) / counts, np.bincount(bins, outcomes) / counts
    rows = zip(means, accuracies, counts, strict=True)
    return tuple(CalibrationBin(confidence=float(mean), accuracy=float(accuracy), n=int(n)) for mean, accuracy, n in rows)


def expected_calibration_error(confidences: Floats, correct: NDArray[np.bool_], seed: int = 0) -> Estimate:
    """Expected calibration error: |confidence - accuracy| per bin, averaged over all predictions.

    Args:
        confidences: probabilities (N, L): of the top label, L = 1, or of every label of N images.
        correct: bool (N, L).
        seed: of the bootstrap.
    """
    n, n_outputs = confidences.shape
    bins = _assign_bins(confidences)
    n_bins = int(bins.max()) + 1
    cells = bins + n_bins * np.arange(n)[:, None]
    gaps = np.bincount(cells.ravel(), (confidences - correct).ravel(), minlength=n * n_bins).reshape(n, n_bins) / n_outputs
    gap = gaps.mean(axis=0)
    value, samples = float(np.abs(gap).sum()), bootstrap_means(gaps, seed)
    low, high = np.quantile(np.abs(samples).sum(axis=1), [0.025, 0.975])
    # Sampling noise alone produces gaps, and resampling adds as much again, so the percentile interval of a calibrated
    # network never contains its error. The basic bootstrap corrects this; and if noise explains an error as large as this
    # one, the lower limit is 0.
    noise = float(np.quantile(np.abs(samples - gap).sum(axis=1), 0.975))
    lower = 0.0 if value <= noise else max(0.0, min(value, 2 * value - float(high)))
    return Estimate(value=value, low=lower, high=max(value, 2 * value - float(low)))


def _assign_bins(confidences: Floats) -> NDArray[np.intp]:
    """The bin of each confidence, (N, L), numbered from 0 without gaps; equal confidences share a bin."""
    ordered = np.sort(confidences, axis=None)
    n_bins = max(1, min(N_BINS, len(ordered) // MIN_PER_BIN))
    edges = ordered[[round(len(ordered) * cut / n_bins) for cut in range(1, n_bins)]]
    bins = np.searchsorted(edges, confidences, side="right")
    return np.unique(bins, return_inverse=True)[1].reshape(confidences.shape)
