"""The trained model, common to all strategies: network, predictions, calibration and scores.

Code after training depends on this class and not on the strategy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.neighbors import NeighborIndex
from graft.service.inference.postprocess import to_probabilities
from graft.service.manifest import Backbone, Calibration, Preprocessing, Score
from graft.training.config.recipe import Recipe
from graft.training.evaluation import calibration, metrics
from graft.training.evaluation.calibration import CalibrationSet, CalibrationTargets
from graft.training.evaluation.predictions import Predictions
from graft.training.runtime.progress import step

Network = Callable[[Pixels], Outputs]
Weights = dict[str, NDArray[np.generic]]


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
        calibration: thresholds, fitted on the same images.
        scores: by split.
        gain_over_probe: over the probe on test: difference, low, high (95 % interval); None for a probe.
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
    calibration: Calibration
    scores: dict[str, Score]
    gain_over_probe: tuple[float, float, float] | None = None


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
    recipe: Recipe,
    gain_over_probe: tuple[float, float, float] | None = None,
) -> TrainedModel:
    """Calibrates a model on held-out images, scores it on validation and test, and returns the `TrainedModel`."""
    temperature = calibration.temperature(held_out.predictions.logits, held_out.predictions.targets)
    wanted = CalibrationTargets(recipe.precision, recipe.coverage, recipe.max_error)
    calibrated = calibration.calibrate(held_out, temperature, wanted)
    splits = {"validation": validation, "test": test}
    scores = {name: score(predictions, temperature, calibrated) for name, predictions in splits.items()}
    return TrainedModel(
        strategy,
        backbone,
        preprocessing,
        network,
        graph,
        weights,
        validation,
        held_out.predictions,
        test,
        neighbors,
        temperature,
        calibrated,
        scores,
        gain_over_probe,
    )


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
