"""The trained model, common to all strategies: network, predictions, calibration and scores.

Code after training depends on this class and not on the strategy.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.head import Head
from graft.service.inference.neighbors import NeighborIndex
from graft.service.inference.postprocess import to_probabilities
from graft.service.manifest import Backbone, Calibration, LabelFrequencies, MetricName, Preprocessing, Score
from graft.training.evaluation import calibration, label_frequencies, metrics
from graft.training.evaluation.calibration import CalibrationSet, CalibrationTargets
from graft.training.evaluation.paired import paired_difference
from graft.training.evaluation.predictions import Predictions
from graft.training.runtime.progress import step
from graft.training.strategies import label_prior, model_selection
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.label_prior import Network, Weights
from graft.training.strategies.model_selection import MIN_PROBABILITY, Comparison


@dataclass(frozen=True)
class TrainedModel:
    """A trained, calibrated and scored model, ready to be packaged.

    Attributes:
        network: the model in memory, uint8 (N, S, S, 3) -> Outputs; the package must reproduce its outputs.
        graph: the same model as the bytes of an ONNX file.
        weights: the same model's tensors by name.
        validation: predictions on validation, by weights not trained on it.
        held_out: predictions on the images of the calibration: validation, or out of fold on train and validation.
        test: predictions on test.
        neighbors: reference training images with their vectors.
        temperature: softmax temperature, fitted on held-out images: see `CalibrationSet`.
        metric: what models are judged by.
        label_frequencies: that the probabilities assume; None for multi-label data.
        shift: float32 (C,), which has been added to the logits for them.
        calibration: thresholds, fitted on the same images.
        scores: by split.
        gain_over_probe: over the probe on test: difference, low, high (95 % interval); None for a probe.
        network_head: of a fine-tuned network with a kernel machine, the head with which it was trained; else None.
    """

    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    network: Network
    graph: bytes
    weights: Weights
    validation: Predictions
    held_out: Predictions
    test: Predictions
    neighbors: NeighborIndex
    temperature: float
    metric: MetricName
    label_frequencies: LabelFrequencies | None
    shift: label_prior.Shift
    calibration: Calibration
    scores: dict[str, Score]
    gain_over_probe: tuple[float, float, float] | None = None
    network_head: Head | None = None


def compare(candidate: TrainedModel, baseline: TrainedModel, min_probability: float = MIN_PROBABILITY) -> Comparison:
    """Compares two models on the images that neither has learned from.

    Args:
        min_probability: asked of the candidate.
    """
    predictions, others = candidate.held_out, baseline.held_out
    if len(predictions.targets) != len(others.targets):  # one is out of fold: only validation is common to both
        predictions, others = candidate.validation, baseline.validation
    return model_selection.compare(
        predictions.logits,
        candidate.temperature,
        others.logits,
        baseline.temperature,
        predictions.targets,
        predictions.clusters,
        min_probability,
        baseline.metric,
    )


@step("calibrating")
def calibrate_and_score(
    strategy: str,
    backbone: Backbone,
    preprocessing: Preprocessing,
    network: Network,
    graph: bytes,
    weights: Weights,
    validation: Predictions,
    test: Predictions,
    neighbors: NeighborIndex,
    held_out: CalibrationSet,
    context: TrainingContext,
    balanced: bool,
    probe_test_logits: NDArray[np.float32] | None = None,
) -> TrainedModel:
    """Calibrates a model on held-out images, scores it on validation and test, and returns the `TrainedModel`.

    Its logits are shifted to the label frequencies that the metric assumes; everything after the temperature is fitted to them.

    Args:
        balanced: whether the network learned as if all labels were equally frequent.
        probe_test_logits: of the probe as it would be served, for the gain over it.
    """
    recipe, predictions = context.recipe, held_out.predictions
    temperature, frequencies, shift = _fit_temperature(predictions, context, balanced)
    if shift.any():
        network, graph = label_prior.shift_network(network, shift), label_prior.shift_graph(graph, shift)
        weights = label_prior.shift_weights(weights, shift)
        validation, test, predictions = (
            label_prior.shift_predictions(split, shift) for split in (validation, test, predictions)
        )
    wanted = CalibrationTargets(recipe.precision, recipe.coverage, recipe.max_error)
    calibrated = calibration.calibrate(replace(held_out, predictions=predictions), temperature, wanted)
    splits = {"validation": validation, "test": test}
    scores = {name: score(predictions, temperature, calibrated) for name, predictions in splits.items()}
    gain_over_probe = None
    if probe_test_logits is not None:
        gain_over_probe = paired_difference(test.logits, probe_test_logits, test.targets, clusters=test.clusters)
    return TrainedModel(
        strategy,
        backbone,
        preprocessing,
        network,
        graph,
        weights,
        validation,
        predictions,
        test,
        neighbors,
        temperature,
        recipe.metric,
        frequencies,
        shift,
        calibrated,
        scores,
        gain_over_probe,
    )


def _fit_temperature(
    held_out: Predictions, context: TrainingContext, balanced: bool
) -> tuple[float, LabelFrequencies | None, label_prior.Shift]:
    """The temperature, the label frequencies that the metric assumes, and the shift of the logits (C,) to them.

    The temperature is fitted under the frequencies of the training images, which held-out images have too.
    """
    logits, targets = held_out.logits, held_out.targets
    if held_out.multilabel:
        return calibration.temperature(logits, targets), None, np.zeros(logits.shape[1], np.float32)
    learned = training = context.training_frequencies()
    natural: NDArray[np.floating] = logits
    if balanced:
        learned, temperature = label_frequencies.learned_frequencies(training, logits, targets)
        natural = logits + temperature * label_frequencies.log_ratio(training, learned)
    else:
        temperature = calibration.temperature(logits, targets)
    assumed = label_frequencies.assumed_frequencies(context.recipe.metric, training, natural, temperature, targets)
    shift = (temperature * label_frequencies.log_ratio(assumed, learned)).astype(np.float32)
    frequencies = LabelFrequencies(training=tuple(training.tolist()), assumed=tuple(assumed.tolist()))
    return temperature, frequencies, shift


def score(predictions: Predictions, temperature: float, calibration: Calibration) -> Score:
    """Accuracy with its interval; for multi-label data, the accuracy of all binary decisions."""
    if not predictions.multilabel:
        return metrics.accuracy_score(predictions.logits, predictions.targets, predictions.clusters)
    thresholds = np.array(calibration.thresholds, np.float64)
    return metrics.exact_match_score(
        to_probabilities(predictions.logits, temperature, multilabel=True),
        predictions.targets,
        thresholds,
        predictions.clusters,
    )
