"""Shows feature maps of every stage, and the image patches with the highest activation of single channels. Needs torch."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from graft.service.artifact import Artifact
from graft.service.explain.overlay import blend
from graft.service.inference.engine import Floats, Pixels
from graft.service.inference.openvino import OpenVinoModel
from graft.service.inference.thread_map import ordered_map
from graft.service.networks import network as networks
from graft.training.architecture import layers as fields
from graft.training.architecture.layers import ModelSummary
from graft.training.architecture.receptive_field import ReceptiveField
from graft.training.features.feature_arrays import Vectors
from graft.training.interpret import feature_maps, max_activations
from graft.training.interpret.feature_maps import LAST_STAGE
from graft.training.interpret.max_activations import ChannelMaxima
from graft.training.runtime.progress import Progress, step
from graft.training.visualization import contact_sheet
from graft.training.visualization.gallery import ImagePredictions
from graft.training.visualization.thumbnails import data_uri

MAX_PATCHES, PATCH_SIZE = 8, 88  # per channel: patches, pixels of each
CHANNELS_PER_STAGE, CHANNELS_PER_LABEL, MAX_LABEL_CHANNELS = 3, 2, 12  # channels to show
IMAGE_SIZE = 176  # pixels of an image next to its feature maps

Decode = Callable[[str], Pixels]
ChannelId = tuple[str, int]  # stage name, channel index


@dataclass(frozen=True)
class Stage:
    """Feature maps of one stage for one image: `size` is height x width x channels, `picture` a data URI of some channels."""

    name: str
    size: str
    picture: str


@dataclass(frozen=True)
class ImageActivations:
    """One image and the feature maps of every stage."""

    path: str
    picture: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Channel:
    """One channel of a stage.

    Attributes:
        reason: why it is shown.
        top_labels: labels of the images with the highest activation, as text.
        picture: a data URI of a strip of patches, highest activation first.
    """

    number: int
    reason: str
    top_labels: str
    picture: str


@dataclass(frozen=True)
class StageChannels:
    """Channels of one stage; the caption gives their receptive field."""

    stage: str
    caption: str
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class StageReport:
    """Feature maps of a few images, and top activations of channels over all images."""

    images: tuple[ImageActivations, ...]
    stages: tuple[StageChannels, ...]
    n_images: int


@step("looking for the top activations")
def build_stage_report(
    artifact: Artifact,
    predictions: ImagePredictions,
    vectors: Vectors,
    decode: Decode,
    example_rows: Sequence[int],
    model_summary: ModelSummary,
    requested: Sequence[ChannelId] = (),
) -> StageReport | None:
    """Feature maps and top activations of a package's network; None if it has no stages, as a multilayer perceptron.

    Args:
        vectors: features of the images, (N, D).
        decode: returns the preprocessed pixels of the image at a path.
        example_rows: rows of the images with feature maps.
        model_summary: of the network, for the receptive fields.
        requested: the channels to show; by default the most discriminative.

    Raises:
        ValueError: if a requested channel does not exist.
    """
    network, labels, crop = networks.load(artifact), artifact.manifest.labels, artifact.manifest.preprocessing.crop
    with tempfile.TemporaryDirectory() as folder:
        graph = feature_maps.export_stages(network, crop, Path(folder))
        if graph is None:
            return None
        images = tuple(
            _image_activations(graph, path, decode(path)) for path in (predictions.paths[row] for row in example_rows)
        )
        maxima = _collect_maxima(graph, predictions.paths, decode)
        _check_channels(requested, maxima)
        head = network.head
        weights = head.weight.detach().numpy()[:, -network.backbone_info.width :] if isinstance(head, nn.Linear) else None
        channels = {
            stage: _select_channels(stage, one, predictions, labels, weights, vectors, requested)
            for stage, one in maxima.items()
        }
        shapes = {name: output.shape for name, output in feature_maps.stage_maps(graph, decode(predictions.paths[0])).items()}
        receptive_fields = fields.stage_receptive_fields(model_summary, feature_maps.stage_modules(network), shapes)
        renderer = _ChannelRenderer(graph, crop, predictions, labels, decode, receptive_fields)
        stages = tuple(renderer.stage_channels(stage, maxima[stage], shown) for stage, shown in channels.items() if shown)
    return StageReport(images, stages, len(predictions.paths))


def _image_activations(graph: OpenVinoModel, path: str, pixels: Pixels) -> ImageActivations:
    stages = []
    for name, output in feature_maps.stage_maps(graph, pixels).items():
        depth, height, width = output.shape
        stages.append(Stage(name, f"{height}x{width}x{depth}", data_uri(feature_maps.tile_channels(output))))
    return ImageActivations(path, data_uri(contact_sheet.square_webp(pixels, IMAGE_SIZE)), tuple(stages))


def _collect_maxima(graph: OpenVinoModel, paths: Sequence[str], decode: Decode) -> dict[str, ChannelMaxima]:
    """The channel maxima of every stage over all images. Only a few feature maps are in memory at a time."""

    def image_maxima(path: str) -> dict[str, ChannelMaxima]:
        outputs = feature_maps.stage_maps(graph, decode(path))
        return {name: max_activations.channel_maxima([output]) for name, output in outputs.items()}

    with Progress("patches", len(paths), "images") as progress:
        per_image = list(progress.track(ordered_map(image_maxima, paths, graph.streams)))
    return {name: max_activations.concatenate([maxima[name] for maxima in per_image]) for name in graph.outputs}


def _check_channels(requested: Sequence[ChannelId], maxima: Mapping[str, ChannelMaxima]) -> None:
    available = ", ".join(f"{name}:0 to {name}:{one.values.shape[1] - 1}" for name, one in maxima.items())
    for stage, number in requested:
        if stage not in maxima or not 0 <= number < maxima[stage].values.shape[1]:
            raise ValueError(f"--channels {stage}:{number}: channel not found. Available: {available}.")


def _select_channels(
    stage: str,
    maxima: ChannelMaxima,
    predictions: ImagePredictions,
    labels: Sequence[str],
    weights: Floats | None,
    vectors: Vectors,
    requested: Sequence[ChannelId],
) -> list[tuple[int, str]]:
    """The channels of a stage to show, each with a reason.

    Args:
        weights: of a linear head for the last vector, (C, D); None for a head that weighs each image's channels differently.
    """
    if requested:
        return [(number, "requested") for name, number in requested if name == stage]
    targets = [target[0] if target else -1 for target in predictions.targets]
    if stage == LAST_STAGE and weights is not None and maxima.values.shape[1] == weights.shape[1]:
        n_each = CHANNELS_PER_LABEL if len(labels) <= MAX_LABEL_CHANNELS // CHANNELS_PER_LABEL else 1
        label_channels = max_activations.label_channels(weights, vectors[:], targets, n_each)
        return [(channel, f"evidence for {labels[label]}") for label, channel in label_channels[:MAX_LABEL_CHANNELS]]
    return [
        (channel, "discriminative")
        for channel in max_activations.discriminative_channels(maxima.values, targets, CHANNELS_PER_STAGE)
    ]


@dataclass(frozen=True)
class _ChannelRenderer:
    """Renders the patches of channels."""

    graph: OpenVinoModel
    side: int
    predictions: ImagePredictions
    labels: Sequence[str]
    decode: Decode
    fields: Mapping[str, ReceptiveField]

    def stage_channels(self, stage: str, maxima: ChannelMaxima, channels: Sequence[tuple[int, str]]) -> StageChannels:
        shown = tuple(self._channel(stage, maxima, number, why) for number, why in channels)
        return StageChannels(stage, self._caption(stage), shown)

    def _caption(self, stage: str) -> str:
        side, field = self.side, self.fields.get(stage)
        if field is None:
            return "The receptive field is unknown, so entire images are shown with the activation as a heat map."
        size = f"{field.size[1]}x{field.size[0]} pixels"
        if max_activations.covers_image(field, side):
            return f"The receptive field of {size} covers the {side}x{side} image; the activation is shown as a heat map."
        return f"Patches show the receptive field: {size} of {side}x{side}."

    def _channel(self, stage: str, maxima: ChannelMaxima, number: int, reason: str) -> Channel:
        rows = max_activations.top_images(maxima, number, MAX_PATCHES)
        pictures = [self._picture(stage, maxima, row, number) for row in rows]
        strip = data_uri(contact_sheet.contact_sheet(pictures, MAX_PATCHES, PATCH_SIZE)) if pictures else ""
        counts = Counter(", ".join(self.labels[label] for label in self.predictions.targets[row]) for row in rows)
        top_labels = ", ".join(f"{n} {name}" for name, n in counts.most_common(3))
        return Channel(number, reason, top_labels, strip)

    def _picture(self, stage: str, maxima: ChannelMaxima, row: int, number: int) -> Pixels:
        pixels, field = self.decode(self.predictions.paths[row]), self.fields.get(stage)
        if field is not None and not max_activations.covers_image(field, len(pixels)):
            return max_activations.activating_patch(pixels, maxima, row, number, field)
        activation = np.maximum(feature_maps.stage_maps(self.graph, pixels)[stage][number], 0)
        return blend(pixels, activation / max(float(activation.max()), 1e-12), PATCH_SIZE)
