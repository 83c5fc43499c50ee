"""A network that has learned, and all that its validation images taught about it: where every way to learn ends."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Backbone, Calibration, Preprocessing, Score
from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.neighbours import Neighbours
from graft.service.inference.postprocess import probabilities
from graft.training.config.recipe import Recipe
from graft.training.evaluation import calibration as calibrate
from graft.training.evaluation import metrics
from graft.training.evaluation.predictions import Answered

Network = Callable[[Pixels], Outputs]
Weights = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Trained:
    """What is packaged, whatever it learned by: nothing after this asks how.

    Attributes:
        network: in memory, as it was trained: uint8 (N, S, S, 3) -> Outputs. What the package must match.
        graph: the same network as an ONNX file's bytes.
        weights: the same network's tensors by name.
        validation: what it said of validation, which it had never seen.
        test: what it said of the test images.
        neighbours: some of the images it learned from, as it sees them.
        temperature: chosen on validation.
        calibration: chosen on validation, too.
        scores: by split.
        gain: over its own probe on the test images: difference, low, high; None for a probe.
    """

    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    network: Network
    graph: bytes
    weights: Weights
    validation: Answered
    test: Answered
    neighbours: Neighbours
    temperature: float
    calibration: Calibration
    scores: dict[str, Score]
    gain: tuple[float, float, float] | None = None


def trained(
    strategy: str,
    backbone: Backbone,
    preprocessing: Preprocessing,
    network: Network,
    graph: bytes,
    weights: Weights,
    validation: Answered,
    test: Answered,
    neighbours: Neighbours,
    choices: Recipe,
    gain: tuple[float, float, float] | None = None,
) -> Trained:
    """The network with what validation teaches about trusting it."""
    temperature = calibrate.temperature(validation.logits, validation.targets)
    calibration = calibrate.calibrate(validation, temperature, neighbours, choices.precision, choices.coverage)
    scores = {name: score(said, temperature, calibration) for name, said in (("validation", validation), ("test", test))}
    return Trained(
        strategy,
        backbone,
        preprocessing,
        network,
        graph,
        weights,
        validation,
        test,
        neighbours,
        temperature,
        calibration,
        scores,
        gain,
    )


def score(said: Answered, temperature: float, calibration: Calibration) -> Score:
    """How many answers are right; where images may have several labels, how many of all yeses and noes."""
    if not said.multilabel:
        return metrics.score(said.logits, said.targets)
    chances = probabilities(said.logits, temperature, multilabel=True)
    return metrics.score_several(chances, said.targets, np.array(calibration.thresholds, np.float64))
