"""Metrics with confidence intervals from logits and targets, paired comparisons, and the test evaluation. Numpy only.

Targets are int64 (N,) for one label per image and bool (N, C) for multi-label data; functions that make sense for both accept
both.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.inference import postprocess
from graft.service.inference.neighbors import NeighborIndex
from graft.service.manifest import Calibration, LabelFrequencies, Score
from graft.training.data.cross_validation import Targets
from graft.training.evaluation import confidence_intervals, selective
from graft.training.evaluation.average_precision import average_precisions, macro_average_precision
from graft.training.evaluation.calibration import per_sample_nll
from graft.training.evaluation.calibration_error import expected_calibration_error, reliability_bins
from graft.training.evaluation.clusters import Clusters, n_clusters
from graft.training.evaluation.confidence_intervals import share
from graft.training.evaluation.label_frequencies import as_trained
from graft.training.evaluation.outliers import outlier_scores
from graft.training.evaluation.paired import paired_difference, paired_log_loss
from graft.training.evaluation.per_class import confusion_matrix, multiclass_metrics, multilabel_metrics
from graft.training.evaluation.predictions import Predictions
from graft.training.results import ConformalPrediction, Estimate, Evaluation, LearningCurve, OutlierDetection

Floats = NDArray[np.float64]


class Metric(NamedTuple):
    """How a metric is shown, as text and in the report."""

    title: str
    description: str
    is_proportion: bool


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("Accuracy", "share of images with the correct top-1 prediction", True),
    "top5": Metric("Top-5 accuracy", "share of images with the true label among the five most probable", True),
    "balanced_accuracy": Metric("Balanced accuracy", "mean of the per-class recall", True),
    "map": Metric("Mean average precision", "mean of the per-class average precision", True),
    "micro_f1": Metric("Micro F1", "F1 over all predictions", True),
    "macro_f1": Metric("Macro F1", "mean of the per-class F1", True),
    "exact_match": Metric("Exact match", "share of images with exactly the true labels", True),
    "log_loss": Metric("Log-loss", "mean negative log-likelihood in nats; lower is better", False),
    "brier": Metric("Brier score", "mean squared error of the probabilities; lower is better", False),
    "ece_before": Metric(
        "ECE before calibration", "expected calibration error without temperature scaling; lower is better", True
    ),
    "ece_after": Metric("ECE", "expected calibration error with temperature scaling, as served; lower is better", True),
}


def accuracy_score(logits: NDArray[np.float32], labels: NDArray[np.int64], clusters: Clusters | None = None) -> Score:
    """Top-1 accuracy of logits (N, C) with its 95 % Wilson interval; clusters int64 (N,), None if every image is its own."""
    return _to_score(logits.argmax(axis=1) == labels, clusters)


def exact_match_score(
    probabilities: Floats, targets: NDArray[np.bool_], thresholds: Floats, clusters: Clusters | None = None
) -> Score:
    """Exact-match ratio: images with all labels predicted correctly, by thresholds (C,), with its 95 % Wilson interval."""
    return _to_score((postprocess.above_threshold(probabilities, thresholds) == targets).all(axis=1), clusters)


def _to_score(correct: NDArray[np.bool_], clusters: Clusters | None) -> Score:
    if not len(correct):
        return Score(accuracy=0, low=0, high=1, n=0)
    estimate = share(correct, clusters)
    return Score(accuracy=estimate.value, low=estimate.low, high=estimate.high, n=len(correct))


def log_loss(logits: NDArray[np.float32], targets: Targets, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats; for multi-label data the mean over labels too."""
    return float(per_sample_nll(logits, targets, temperature).mean())


def primary_metric(predictions: Predictions) -> Estimate:
    """Accuracy, or mean average precision for multi-label data."""
    if predictions.multilabel:
        return mean_average_precision(predictions.logits, predictions.targets, predictions.clusters)
    accuracy = accuracy_score(predictions.logits, predictions.targets, predictions.clusters)
    return _estimate(accuracy.accuracy, accuracy.low, accuracy.high)


def predicted_labels(
    logits: NDArray[np.float32], temperature: float, calibration: Calibration, multilabel: bool
) -> NDArray[np.generic]:
    """The predicted label, int (N, 1); for multilabel data the predicted labels, bool (N, C)."""
    if multilabel:
        probabilities = postprocess.to_probabilities(logits, temperature, multilabel=True)
        return postprocess.above_threshold(probabilities, np.array(calibration.thresholds, np.float64))
    top: NDArray[np.intp] = logits.argmax(axis=1)[:, None]  # calibration keeps the order
    return top


def n_errors(logits: NDArray[np.float32], targets: Targets) -> int:
    """Number of wrong predictions: labels, or binary decisions for multi-label data."""
    wrong = logits.argmax(axis=1) != targets if targets.ndim == 1 else (logits > 0) != targets
    return int(wrong.sum())


def mean_average_precision(
    logits: NDArray[np.floating], targets: NDArray[np.bool_], clusters: Clusters | None = None
) -> Estimate:
    """Mean average precision over the labels that have images.

    Raises:
        ValueError: if no image has any label.
    """
    return macro_average_precision(*average_precisions(logits, targets), targets, clusters)[0]


def evaluate(
    test: Predictions,
    labels: tuple[str, ...],
    temperature: float,
    calibration: Calibration,
    neighbors: NeighborIndex,
    curve: LearningCurve | None = None,
    ten_crop: NDArray[np.float32] | None = None,
    frequencies: LabelFrequencies | None = None,
) -> Evaluation:
    """Evaluates predictions on test images, with the temperature and thresholds chosen on other held-out images.

    Log-loss, Brier score and calibration error are those of probabilities under the label frequencies of the training images.

    Args:
        test: predictions on held-out images that were not used for any choice.
        labels: names of the C labels.
        temperature, calibration: chosen on other images.
        neighbors: reference vectors of the outlier scores.
        curve: the learning curve, if it was computed.
        ten_crop: ten-crop logits (N, C) of the test images, if they were computed.
        frequencies: the label frequencies that the probabilities assume; None for multi-label data.

    Raises:
        ValueError: if there are no images.
    """
    if len(test.targets) == 0:
        raise ValueError("There are no test images to evaluate on.")
    after = postprocess.to_probabilities(test.logits, temperature, test.multilabel)
    compute = multilabel_metrics if test.multilabel else multiclass_metrics
    metrics, by_label = compute(after, test.targets, labels, calibration, test.clusters)
    natural = as_trained(test, temperature, frequencies)
    (confidence_before, correct), (confidence_after, _) = (_confidences(natural, divisor) for divisor in (1.0, temperature))
    ece_before, ece_after = calibration_errors(natural, temperature)
    natural_probabilities = postprocess.to_probabilities(natural.logits, temperature, test.multilabel)
    metrics |= {
        "log_loss": _mean_loss(per_sample_nll(natural.logits, test.targets, temperature), test.clusters),
        "brier": _mean_loss(_brier_scores(natural_probabilities, test.targets), test.clusters),
        "ece_before": ece_before,
        "ece_after": ece_after,
    }
    is_outlier = outlier_scores(neighbors, test.vectors, calibration.outlier_k) > calibration.outlier_threshold
    ten_crop_gain = None if ten_crop is None else paired_difference(ten_crop, test.logits, test.targets, clusters=test.clusters)
    return Evaluation(
        n=len(test.targets),
        n_groups=n_clusters(test.clusters),
        temperature_gain=temperature_gain(natural, temperature),
        label_frequencies="" if frequencies is None or not frequencies.is_shifted else frequencies.to_text(),
        multilabel=test.multilabel,
        temperature=temperature,
        metrics=metrics,
        labels=by_label,
        confusion=None if test.multilabel else tuple(map(tuple, confusion_matrix(after, test.targets).tolist())),
        reliability_before=reliability_bins(confidence_before, correct),
        reliability_after=reliability_bins(confidence_after, correct),
        conformal=None if test.multilabel else _conformal_metrics(after, test.targets, calibration, test.clusters),
        selective=None
        if test.multilabel
        else selective.measure(after.max(axis=1), after.argmax(axis=1) == test.targets, is_outlier, calibration, test.clusters),
        outliers=OutlierDetection(
            k=calibration.outlier_k, threshold=calibration.outlier_threshold, flagged=share(is_outlier, test.clusters)
        ),
        curve=curve,
        ten_crop=None if ten_crop_gain is None else _estimate(*ten_crop_gain),
    )


def _confidences(predictions: Predictions, temperature: float) -> tuple[Floats, NDArray[np.bool_]]:
    """The probabilities that are calibrated and whether they came true, (N, L): of the top label, or of every label."""
    probabilities = postprocess.to_probabilities(predictions.logits, temperature, predictions.multilabel)
    if predictions.multilabel:
        return probabilities, predictions.targets
    return probabilities.max(axis=1, keepdims=True), (probabilities.argmax(axis=1) == predictions.targets)[:, None]


def calibration_errors(predictions: Predictions, temperature: float) -> tuple[Estimate, Estimate]:
    """The expected calibration error without and with temperature scaling."""
    before, after = (
        expected_calibration_error(*_confidences(predictions, divisor), clusters=predictions.clusters)
        for divisor in (1.0, temperature)
    )
    return before, after


def temperature_gain(predictions: Predictions, temperature: float) -> Estimate:
    """The log-loss without temperature scaling minus that with it, in nats, paired."""
    logits, targets, clusters = predictions.logits, predictions.targets, predictions.clusters
    return _estimate(*paired_log_loss(logits, logits, targets, temperature, clusters=clusters))


def _mean_loss(values: Floats, clusters: Clusters) -> Estimate:
    """The mean of losses, which are never negative, even where the interval of a few clusters is."""
    estimate = confidence_intervals.mean_interval(values, clusters=clusters)
    return _estimate(estimate.value, max(0.0, estimate.low), estimate.high)


def _brier_scores(probabilities: Floats, targets: Targets) -> Floats:
    """Brier score of each image (Brier 1950), (N,).

    One label per image: summed over labels, in [0, 2]. Multi-label: the mean over labels, in [0, 1].
    """
    if targets.ndim == 2:
        squared_errors: Floats = ((probabilities - targets) ** 2).mean(axis=1)
        return squared_errors
    target_probability = probabilities[np.arange(len(targets)), targets]
    squares: Floats = np.einsum("nc,nc->n", probabilities, probabilities)
    return squares - 2 * target_probability + 1


def _conformal_metrics(
    probabilities: Floats, labels: NDArray[np.int64], calibration: Calibration, clusters: Clusters
) -> ConformalPrediction:
    if calibration.coverage is None or calibration.set_thresholds is None:
        raise ValueError("The calibration is for multi-label data; the predictions have one label per image.")
    in_set = postprocess.prediction_set(probabilities, np.array(calibration.set_thresholds))
    sizes = in_set.sum(axis=1)
    return ConformalPrediction(
        promised=calibration.coverage,
        coverage=share(in_set[np.arange(len(labels)), labels], clusters),
        mean_size=float(sizes.mean()),
        sizes={int(size): int(n) for size, n in zip(*np.unique(sizes, return_counts=True), strict=True)},
    )


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)
