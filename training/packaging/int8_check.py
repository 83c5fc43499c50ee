"""Compares the int8 model of a package with the f32 model."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.fidelity import Fidelity
from graft.service.inference.engine import LOGITS, Pixels
from graft.service.inference.openvino import OpenVinoModel
from graft.training.backbones.quantization import disable_telemetry
from graft.training.data.dataset import Dataset
from graft.training.data.splits import Splits
from graft.training.evaluation import metrics
from graft.training.evaluation.metrics import predicted_labels
from graft.training.packaging.precision_check import N_MEASURED, Floats, Logits, in_threads, max_probability_shift, read_pixels
from graft.training.runtime.progress import step
from graft.training.strategies.trained_model import TrainedModel


def load_int8(graph: Path) -> Logits:
    """The quantized network, an ONNX file, as the service computes it."""
    quantized = OpenVinoModel(graph, output_names=(LOGITS,))
    return in_threads(lambda pixels: quantized(pixels)[LOGITS], quantized.streams)


@step("comparing int8 with f32")
def check_int8(int8: TrainedModel, graph: Path, trained: TrainedModel, dataset: Dataset, splits: Splits) -> Fidelity:
    """Compares the predictions of the int8 and the f32 model on images that neither has learned from.

    The probability shift is that between two ways to compute the int8 network, with integers and without: processors differ
    in how they add up and round, and near the edge between two steps of 8 bits, the smallest difference becomes a step.

    Args:
        graph: the int8 network, an ONNX file.

    Raises:
        ValueError: if the models do not have predictions of the same images.
    """
    if not np.array_equal(int8.held_out.targets, trained.held_out.targets):
        raise ValueError("The two models were not calibrated on the same images.")
    labels, is_correct, loss = _outcomes(int8)
    labels_before, was_correct, loss_before = _outcomes(trained)
    samples = sorted(splits.validation, key=lambda sample: sample.digest)[:N_MEASURED]
    pixels = read_pixels(samples, dataset, trained.preprocessing)
    changes = _reference_logits(graph, pixels) - load_int8(graph)(pixels)
    return Fidelity(
        n_images=len(labels),
        agreement=float((labels == labels_before).all(axis=1).mean()),
        accuracy_change=float(is_correct.mean() - was_correct.mean()),
        log_loss_change=loss - loss_before,
        max_probability_shift=max_probability_shift(changes, int8.temperature, int8.held_out.multilabel),
    )


def _outcomes(model: TrainedModel) -> tuple[NDArray[np.generic], NDArray[np.bool_], float]:
    """The labels (N, 1 or C) that a model predicts for its held-out images, for which it is right (N,), and its log-loss."""
    held_out, multilabel = model.held_out, model.held_out.multilabel
    labels = predicted_labels(held_out.logits, model.temperature, model.calibration, multilabel)
    expected = held_out.targets if multilabel else held_out.targets[:, None]
    is_correct: NDArray[np.bool_] = (labels == expected).all(axis=1)
    return labels, is_correct, metrics.log_loss(held_out.logits, held_out.targets, model.temperature)


def _reference_logits(graph: Path, pixels: Pixels) -> Floats:
    """The logits of a quantized network as the standard defines them: float32 between QuantizeLinear and DequantizeLinear."""
    disable_telemetry()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run([LOGITS], {name: image[None]})[0] for image in pixels])
