"""Expected calibration error and the bins of a reliability diagram. Numpy only.

The bins have equal mass, not equal width: a good network's probabilities are concentrated near 1, where bins of equal width
would put nearly all of them into one (Nixon et al. 2019, "Measuring Calibration in Deep Learning"; Roelofs et al. 2022,
"Mitigating Bias in Calibration Error Estimation").

Chance alone makes gaps between confidence and accuracy, so the observed error of a calibrated network is not 0: 7 % with 50
images is common. The error is therefore estimated by the inversion of a test: which true error makes the observed one typical?
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.clusters import Clusters, inflation_of_sums, sum_by
from graft.training.results import CalibrationBin, Estimate

N_BINS = 15  # as in Guo et al. 2017
MIN_PER_BIN = 20  # predictions per bin, so that a bin's sampling error stays below the errors worth reporting
N_SIMULATIONS = 600  # of the observed error, for each true error
N_ERRORS = 18  # true errors between which the limits are interpolated
LEVELS = (0.025, 0.5, 0.975)  # of the simulated errors: they give the upper limit, the estimate and the lower limit

Floats = NDArray[np.float64]


class _Bins(NamedTuple):
    """B bins: their shares of the predictions, mean confidences and accuracies, float64 (B,) each."""

    shares: Floats
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """The observed calibration error, which chance makes too large."""
        return float(self.shares @ np.abs(self.confidence - self.accuracy))


@dataclass(frozen=True)
class _Curve:
    """Quantiles of the observed error by the true error, both float64: (E,), and (E, 3) for LEVELS."""

    errors: Floats
    quantiles: Floats

    def smallest(self, level: int, observed: float) -> float:
        """The smallest true error whose quantile reaches the observed error."""
        quantile = np.maximum.accumulate(self.quantiles[:, level])
        return self._interpolate(quantile, int(np.searchsorted(quantile, observed)), observed)

    def largest(self, level: int, observed: float) -> float:
        """The largest true error whose quantile does not exceed the observed error."""
        quantile = np.minimum.accumulate(self.quantiles[::-1, level])[::-1]
        return self._interpolate(quantile, int(np.searchsorted(quantile, observed + 1e-12, side="right")), observed)

    def _interpolate(self, quantile: Floats, index: int, observed: float) -> float:
        """The true error between those with an index and the one before, at which the quantile is the observed error."""
        if index == 0:
            return 0.0
        if index == len(quantile):
            return float(self.errors[-1])
        step = (observed - quantile[index - 1]) / (quantile[index] - quantile[index - 1])
        return float(self.errors[index - 1] + step * (self.errors[index] - self.errors[index - 1]))


def reliability_bins(confidences: Floats, correct: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Bins of confidences (N, L), ascending, each with its mean confidence and its accuracy."""
    bins, confidence, outcomes = _assign_bins(confidences).ravel(), confidences.ravel(), correct.ravel()
    counts = np.bincount(bins)
    means, accuracies = np.bincount(bins, confidence) / counts, np.bincount(bins, outcomes) / counts
    rows = zip(means, accuracies, counts, strict=True)
    return tuple(CalibrationBin(confidence=float(mean), accuracy=float(accuracy), n=int(n)) for mean, accuracy, n in rows)


def expected_calibration_error(
    confidences: Floats, correct: NDArray[np.bool_], seed: int = 0, clusters: Clusters | None = None
) -> Estimate:
    """Expected calibration error: the expected |confidence - accuracy| of a bin, averaged over all predictions.

    The estimate is median-unbiased: it is the true error for which half of all samples would have an observed error as large
    as this one, 0 if even a calibrated network would. The limits are those of the true errors that a test does not reject
    (test inversion; Neyman 1937), where the observed error is simulated by a parametric bootstrap. For the upper limit the true
    gaps may also be equal in all bins, in either direction, which is hardest to reject.

    Args:
        confidences: probabilities (N, L): of the top label, L = 1, or of every label of N images.
        correct: bool (N, L).
        seed: of the simulations.
        clusters: int64 (N,), which images belong together; None if every image is its own.
    """
    index = _assign_bins(confidences)
    bins, counts = _summarize(index, confidences, correct)
    within, across = _variance_inflations(index, confidences - correct, bins, clusters)
    observed, gaps = bins.error, _shrunken_gaps(bins, counts / within)
    errors = _largest_error(bins, counts / across) * np.linspace(0, 1, N_ERRORS) ** 1.5
    curve = _simulate(bins, counts / within, gaps, errors, seed)
    value = curve.smallest(1, observed)
    low, high = curve.smallest(2, observed), max(value, observed, curve.largest(0, observed))
    if across != within:
        low = min(low, _simulate(bins, counts / across, gaps, errors, seed).smallest(2, observed))
    for inflation in {within, across}:
        for direction in (1.0, -1.0):
            equal = _simulate(bins, counts / inflation, np.full(len(counts), direction), errors, seed)
            high = max(high, equal.largest(0, observed))
    return Estimate(value=value, low=min(low, value), high=high)


def _summarize(index: NDArray[np.intp], confidences: Floats, correct: NDArray[np.bool_]) -> tuple[_Bins, Floats]:
    """The bins, and the number of predictions in each, float64 (B,)."""
    flat = index.ravel()
    counts = np.bincount(flat).astype(np.float64)
    confidence, accuracy = np.bincount(flat, confidences.ravel()) / counts, np.bincount(flat, correct.ravel()) / counts
    return _Bins(counts / counts.sum(), confidence, accuracy), counts


def _variance_inflations(index: NDArray[np.intp], gaps: Floats, bins: _Bins, clusters: Clusters | None) -> tuple[float, float]:
    """The variance of the mean gap of a bin, and of all predictions, relative to that of independent predictions.

    The predictions of one image, or of a cluster of images, are not independent.
    """
    n, n_outputs = gaps.shape
    owners = np.repeat(np.arange(n) if clusters is None else clusters, n_outputs)
    residuals = gaps.ravel() - (bins.confidence - bins.accuracy)[index.ravel()]
    squares, ones = float((residuals**2).sum()), np.ones(len(residuals))
    cells = np.unique(owners * len(bins.shares) + index.ravel(), return_inverse=True)[1]
    within, across = (inflation_of_sums(sum_by(which, residuals), sum_by(which, ones), squares) for which in (cells, owners))
    return within, across


def _shrunken_gaps(bins: _Bins, sizes: Floats) -> Floats:
    """The likely true gaps (B,), up to a factor: the observed ones, shrunk toward their mean by what chance explains."""
    gaps = bins.confidence - bins.accuracy
    mean = float(bins.shares @ gaps)
    noise = bins.confidence * (1 - bins.confidence) / sizes + 1e-9
    excess = float(((gaps - mean) ** 2 / noise).sum())
    kept = max(0.0, 1 - (len(gaps) - 1) / excess) if excess > 0 else 0.0
    shrunken = mean + kept * (gaps - mean)
    return shrunken / max(float(bins.shares @ np.abs(shrunken)), 1e-9)


def _largest_error(bins: _Bins, sizes: Floats) -> float:
    """A true error that is certainly rejected, so that the limits lie below it."""
    variance = np.maximum(bins.confidence * (1 - bins.confidence), 1 / (sizes + 2)) / sizes
    return bins.error + 4 * float(np.sqrt((bins.shares**2 * variance).sum())) + 3 / float(sizes.sum())


def _simulate(bins: _Bins, sizes: Floats, gaps: Floats, errors: Floats, seed: int) -> _Curve:
    """The quantiles of the observed error if the true gaps of the bins are multiples of `gaps`, whose mean size is 1."""
    trials = np.maximum(1, sizes.round()).astype(np.int64)
    true_errors, quantiles = [], []
    for error in errors:
        rates = np.clip(bins.confidence - error * gaps, 0, 1)
        # The same seed for every error, so that its quantiles increase smoothly.
        successes = np.random.default_rng(seed).binomial(trials, rates, (N_SIMULATIONS, len(trials)))
        true_errors.append(float(bins.shares @ np.abs(bins.confidence - rates)))
        quantiles.append(np.quantile(np.abs(bins.confidence - successes / trials) @ bins.shares, LEVELS))
    return _Curve(np.array(true_errors), np.array(quantiles))


def _assign_bins(confidences: Floats) -> NDArray[np.intp]:
    """The bin of each confidence, (N, L), numbered from 0 without gaps; equal confidences share a bin."""
    ordered = np.sort(confidences, axis=None)
    n_bins = max(1, min(N_BINS, len(ordered) // MIN_PER_BIN))
    edges = ordered[[round(len(ordered) * cut / n_bins) for cut in range(1, n_bins)]]
    bins = np.searchsorted(edges, confidences, side="right")
    return np.unique(bins, return_inverse=True)[1].reshape(confidences.shape)
