"""The int8 model of a package: the network, quantized after its training, with a head that has learned from its features.

Rounding to 8 bits moves every feature, so a head that was trained on the f32 features is not the best one for them. All that
depends on features is fitted again: head, temperature, thresholds, and the neighbors.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.imaging.preprocess import decode
from graft.service.inference.devices import available_cpus
from graft.service.inference.head import Head
from graft.service.inference.openvino import OpenVinoEngine
from graft.service.inference.thread_map import ordered_map
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.backbones.quantization import MAX_CALIBRATION_IMAGES, quantize_backbone
from graft.training.backbones.registry import BackboneError
from graft.training.data.dataset import Sample
from graft.training.features.extraction import View, extract_on_cpu
from graft.training.features.feature_arrays import map_rows
from graft.training.features.stage_selection import Candidate, Selection
from graft.training.inference.bulk import predict_dataset
from graft.training.runtime.progress import log, step
from graft.training.strategies import kernel, probe
from graft.training.strategies.context import TrainingContext, all_views, extract_readable, whole_views
from graft.training.strategies.label_prior import shift_head
from graft.training.strategies.probe import ProbeResult, fine_tuning_is_balanced
from graft.training.strategies.trained_model import TrainedModel

ON_FROZEN_FEATURES = frozenset({"probe", "svm", "stages", "kernel"})  # strategies that only train a head
MAX_ADAPTED_IMAGES = 5_000  # training images whose logits the head of a fine-tuned network is adapted to
RIDGES = 10.0 ** np.arange(-5, 2)  # times the sum of squares of a feature, on average

Floats = NDArray[np.float32]


def train_int8(context: TrainingContext, trained: TrainedModel) -> TrainedModel | None:
    """The same model on the quantized network; None, with a warning, if the network cannot be quantized.

    On frozen features, the same strategy trains a new head. The head of a fine-tuned network stays and is adapted: its
    training images would teach a new one too little, because the network knows them by heart.

    Args:
        trained: by one of the strategies on this context.

    Raises:
        DatasetError: if an image has become unreadable.
    """
    is_frozen = trained.strategy in ON_FROZEN_FEATURES
    with context.folder.temporary() as folder:
        exported = context.exported if is_frozen or trained.strategy == "previous" else _export(trained, folder)
        try:
            quantized = quantize_backbone(exported, _calibration_pixels(context), folder / "int8")
        except BackboneError as error:
            log(f"warning: {error}. The package has no int8 model")
            return None
        features = extract_readable(context, _views(context, trained), quantized, folder / "features", extract_on_cpu)
        on_int8 = replace(context, exported=quantized, features=features)
        with step("training the head of the int8 model"):
            result = _fit_again(on_int8, trained.strategy) if is_frozen else _adapt(on_int8, trained, folder)
        return probe.export_probe(result, on_int8)


def _export(trained: TrainedModel, folder: Path) -> ExportedBackbone:
    """The backbone of a fine-tuned network without its head."""
    import torch

    from graft.service.networks import network as networks
    from graft.training.backbones.onnx_export import export_trained

    network = networks.build(trained.backbone, len(trained.calibration.thresholds), trained.preprocessing)
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in trained.weights.items()})
    with step("exporting the network"):
        return export_trained(network, trained.preprocessing, folder)


@step("reading calibration images")
def _calibration_pixels(context: TrainingContext) -> list[NDArray[np.uint8]]:
    samples, preprocessing = _first_by_digest(context.splits.train, MAX_CALIBRATION_IMAGES), context.exported.preprocessing
    pixels = ordered_map(lambda sample: decode(context.dataset.read(sample), preprocessing).pixels, samples, available_cpus())
    return list(pixels)


def _first_by_digest(samples: Sequence[Sample], n: int) -> list[Sample]:
    """A subset that is the same in every run and mixes the labels."""
    return sorted(samples, key=lambda sample: sample.digest)[:n]


def _views(context: TrainingContext, trained: TrainedModel) -> list[View]:
    """The views whose features the head of the int8 model learns from, and all others that the model needs."""
    splits = context.splits
    if trained.strategy == "kernel":
        return all_views(context)
    if trained.strategy in ON_FROZEN_FEATURES:
        return whole_views(splits, context.recipe)
    if trained.network_head:
        return kernel.views_for_network(context)
    to_adapt = _first_by_digest(splits.train, MAX_ADAPTED_IMAGES)
    samples = dict.fromkeys((*to_adapt, *context.reference_samples, *splits.validation, *splits.test))
    return [View(sample) for sample in samples]


def _fit_again(context: TrainingContext, strategy: str) -> ProbeResult:
    if strategy == "kernel":
        return kernel.fit_kernel(context, probe.fit_probe(context))
    return probe.fit_probe(context, strategy)


def _adapt(context: TrainingContext, trained: TrainedModel, folder: Path) -> ProbeResult:
    """The trained head, adapted, and again with a kernel machine if it had one."""
    splits, balanced = context.splits, fine_tuning_is_balanced(context)
    head_input = "last" if trained.network_head else trained.backbone.head_input
    head = _adapt_head(context, trained, head_input, folder)
    if trained.network_head and (result := kernel.fit_on_network(context, head, trained.strategy, balanced)):
        return result
    validation, test = (
        map_rows(head, context.features.select(samples, feature_set=head_input)) for samples in (splits.validation, splits.test)
    )
    unknown = float("nan")
    candidate = Candidate(head_input, "logistic", unknown, unknown, unknown, len(splits.train))
    selection = Selection(candidate, (candidate,))
    return ProbeResult(head, head, validation, splits.validation, validation, test, selection, trained.strategy, balanced)


def _adapt_head(context: TrainingContext, trained: TrainedModel, head_input: str, folder: Path) -> Head:
    """The head with a linear correction by which the logits of the int8 network approach those of the f32 network."""
    validation_samples, train_samples = context.splits.validation, _first_by_digest(context.splits.train, MAX_ADAPTED_IMAGES)
    (folder / "f32.onnx").write_bytes(trained.graph)
    engine = OpenVinoEngine(folder / "f32.onnx")
    train = predict_dataset(engine, trained.preprocessing, context.dataset, train_samples, "predicting in f32")
    if trained.network_head:
        head = trained.network_head
        wanted = [map_rows(head, predictions.vectors) for predictions in (train, trained.validation)]
    else:
        head = shift_head(Head.from_tensors(trained.weights), -trained.shift)
        wanted = [predictions.logits - trained.shift for predictions in (train, trained.validation)]
    inputs = [context.features.select(samples, feature_set=head_input) for samples in (train_samples, validation_samples)]
    errors = [logits - map_rows(head, rows) for logits, rows in zip(wanted, inputs, strict=True)]
    weight, bias = fit_correction(inputs[0][:], errors[0], inputs[1][:], errors[1])
    return replace(head, weight=head.weight + weight, bias=head.bias + bias)


def fit_correction(inputs: Floats, errors: Floats, new_inputs: Floats, new_errors: Floats) -> tuple[Floats, Floats]:
    """The ridge regression of a head's errors on its inputs: weight (C, W) and bias (C,), to be added to those of the head.

    The penalty with the smallest mean squared error on new images is taken. If none is better than no correction, the result
    is 0.

    Args:
        inputs: float32 (N, W).
        errors: float32 (N, C), the wanted logits less those of the head.
        new_inputs, new_errors: the same for M other images.
    """
    mean, bias = inputs.mean(axis=0), errors.mean(axis=0)
    centered = inputs.astype(np.float64) - mean
    eigenvalues, axes = np.linalg.eigh(centered.T @ centered)
    products = axes.T @ (centered.T @ (errors - bias))
    best, best_error = (np.zeros((errors.shape[1], inputs.shape[1])), np.zeros(errors.shape[1])), np.square(new_errors).mean()
    for ridge in RIDGES * eigenvalues.mean():
        weight = (axes @ (products / (eigenvalues + ridge)[:, None])).T
        correction = weight, bias - weight @ mean
        error = np.square(new_errors - new_inputs @ correction[0].T - correction[1]).mean()
        if error < best_error:
            best, best_error = correction, error
    return best[0].astype(np.float32), best[1].astype(np.float32)
