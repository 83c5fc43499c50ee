"""Shows feature maps of every stage, and the image patches with the highest activation of single channels. Needs torch."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.service.artifact import Artifact
from graft.service.explain.overlay import glowing
from graft.service.inference.engine import Floats, Pixels
from graft.service.inference.openvino import Graph
from graft.service.networks import network as networks
from graft.training.architecture import layers as fields
from graft.training.architecture.layers import Anatomy
from graft.training.architecture.receptive_field import ReceptiveField
from graft.training.features.feature_arrays import Vectors
from graft.training.interpret import feature_maps, max_activations
from graft.training.interpret.feature_maps import LAST
from graft.training.interpret.max_activations import Peaks
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each
from graft.training.visualization import contact_sheet
from graft.training.visualization.gallery import Answers
from graft.training.visualization.thumbnails import data_uri

PATCHES, SIDE = 8, 88  # per channel: patches, pixels of each
OF_A_STAGE, OF_A_LABEL, OF_ALL_LABELS = 3, 2, 12  # channels to show
PICTURE = 176  # pixels of an image next to its feature maps

Decode = Callable[[str], Pixels]
Chosen = tuple[str, int]  # stage name, channel index


@dataclass(frozen=True)
class Stage:
    """Feature maps of one stage for one image: `size` is height x width x channels, `picture` a data URI of some channels."""

    name: str
    size: str
    picture: str


@dataclass(frozen=True)
class Look:
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
    why: str
    answers: str
    picture: str


@dataclass(frozen=True)
class Excited:
    """Channels of one stage; the caption gives their receptive field."""

    stage: str
    sentence: str
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Insides:
    """Feature maps of a few images, and top activations of channels over all images."""

    looks: tuple[Look, ...]
    excited: tuple[Excited, ...]
    n_images: int


def insides(
    artifact: Artifact,
    answers: Answers,
    vectors: Vectors,
    decoded: Decode,
    looked_at: Sequence[int],
    anatomy: Anatomy,
    chosen: Sequence[Chosen] = (),
) -> Insides | None:
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
        graph = feature_maps.stages(network, crop, Path(folder))
        if graph is None:
            return None
        images = tuple(_look(graph, path, decoded(path)) for path in (answers.paths[row] for row in looked_at))
        maxima = _peaks(graph, answers.paths, decoded)
        _check(chosen, maxima)
        weights = network.head.weight.detach().numpy()[:, -network.facts.width :]
        channels = {stage: _picked(stage, one, answers, labels, weights, vectors, chosen) for stage, one in maxima.items()}
        shapes = {name: output.shape for name, output in feature_maps.maps(graph, decoded(answers.paths[0])).items()}
        receptive_fields = fields.fields(anatomy, feature_maps.modules(network), shapes)
        renderer = _Gallery(graph, crop, answers, labels, decoded, receptive_fields)
        stages = tuple(renderer.excited(stage, maxima[stage], shown) for stage, shown in channels.items() if shown)
    return Insides(images, stages, len(answers.paths))


def _look(graph: Graph, path: str, pixels: Pixels) -> Look:
    stages = []
    for name, output in feature_maps.maps(graph, pixels).items():
        depth, height, width = output.shape
        stages.append(Stage(name, f"{height}x{width}x{depth}", data_uri(feature_maps.tiled(output))))
    return Look(path, data_uri(contact_sheet.photo(pixels, PICTURE)), tuple(stages))


def _peaks(graph: Graph, paths: Sequence[str], decoded: Decode) -> dict[str, Peaks]:
    """The channel maxima of every stage over all images. Only a few feature maps are in memory at a time."""

    def image_maxima(path: str) -> dict[str, Peaks]:
        outputs = feature_maps.maps(graph, decoded(path))
        return {name: max_activations.peaks([output]) for name, output in outputs.items()}

    with Progress("patches", len(paths), "images") as progress:
        per_image = list(progress.each(each(image_maxima, paths, graph.lanes)))
    return {name: max_activations.joined([maxima[name] for maxima in per_image]) for name in graph.outputs}


def _check(chosen: Sequence[Chosen], found: Mapping[str, Peaks]) -> None:
    available = ", ".join(f"{name}:0 to {name}:{one.values.shape[1] - 1}" for name, one in found.items())
    for stage, number in chosen:
        if stage not in found or not 0 <= number < found[stage].values.shape[1]:
            raise ValueError(f"--channels {stage}:{number}: channel not found. Available: {available}.")


def _picked(
    stage: str,
    found: Peaks,
    answers: Answers,
    labels: Sequence[str],
    weights: Floats,
    vectors: Vectors,
    chosen: Sequence[Chosen],
) -> list[tuple[int, str]]:
    """The channels of a stage to show, each with a reason."""
    if chosen:
        return [(number, "requested") for name, number in chosen if name == stage]
    targets = [target[0] if target else -1 for target in answers.truth]
    if stage == LAST and found.values.shape[1] == weights.shape[1]:
        n_each = OF_A_LABEL if len(labels) <= OF_ALL_LABELS // OF_A_LABEL else 1
        label_channels = max_activations.speaking(weights, vectors[:], targets, n_each)
        return [(channel, f"evidence for {labels[label]}") for label, channel in label_channels[:OF_ALL_LABELS]]
    return [(channel, "discriminative") for channel in max_activations.telling(found.values, targets, OF_A_STAGE)]


@dataclass(frozen=True)
class _Gallery:
    """Renders the patches of channels."""

    graph: Graph
    side: int
    answers: Answers
    labels: Sequence[str]
    decoded: Decode
    fields: Mapping[str, ReceptiveField]

    def excited(self, stage: str, found: Peaks, channels: Sequence[tuple[int, str]]) -> Excited:
        shown = tuple(self._channel(stage, found, number, why) for number, why in channels)
        return Excited(stage, self._sentence(stage), shown)

    def _sentence(self, stage: str) -> str:
        side, field = self.side, self.fields.get(stage)
        if field is None:
            return "The receptive field is unknown, so entire images are shown with the activation as a heat map."
        size = f"{field.size[1]}x{field.size[0]} pixels"
        if max_activations.sees_all(field, side):
            return f"The receptive field of {size} covers the {side}x{side} image; the activation is shown as a heat map."
        return f"Patches show the receptive field: {size} of {side}x{side}."

    def _channel(self, stage: str, found: Peaks, number: int, why: str) -> Channel:
        rows = max_activations.strongest(found, number, PATCHES)
        pictures = [self._picture(stage, found, row, number) for row in rows]
        strip = data_uri(contact_sheet.contact_sheet(pictures, PATCHES, SIDE)) if pictures else ""
        counts = Counter(", ".join(self.labels[label] for label in self.answers.truth[row]) for row in rows)
        top_labels = ", ".join(f"{n} {name}" for name, n in counts.most_common(3))
        return Channel(number, why, top_labels, strip)

    def _picture(self, stage: str, found: Peaks, row: int, number: int) -> Pixels:
        pixels, field = self.decoded(self.answers.paths[row]), self.fields.get(stage)
        if field is not None and not max_activations.sees_all(field, len(pixels)):
            return max_activations.patch(pixels, found, row, number, field)
        activation = np.maximum(feature_maps.maps(self.graph, pixels)[stage][number], 0)
        return glowing(pixels, activation / max(float(activation.max()), 1e-12), SIDE)
