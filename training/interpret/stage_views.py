"""Inside a network, on a person's own images: what its stages say of an image, and what excites single channels. With torch."""

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

PATCHES, SIDE = 8, 88  # of a channel: patches, pixels of each
OF_A_STAGE, OF_A_LABEL, OF_ALL_LABELS = 3, 2, 12  # channels that are shown
PICTURE = 176  # pixels of an image beside its maps

Decode = Callable[[str], Pixels]
Chosen = tuple[str, int]  # a stage's name and a channel's number


@dataclass(frozen=True)
class Stage:
    """What one stage says of one image: `size` as height x width x channels; `picture` is a data URI of some channels."""

    name: str
    size: str
    picture: str


@dataclass(frozen=True)
class Look:
    """One image, and what every stage says of it."""

    path: str
    picture: str
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Channel:
    """One channel of a stage.

    Attributes:
        why: it was chosen.
        answers: to images of which labels, in words.
        picture: a data URI of a strip of patches, the one that excites it most first.
    """

    number: int
    why: str
    answers: str
    picture: str


@dataclass(frozen=True)
class Excited:
    """Channels of one stage, and how much of an image each of their answers depends on."""

    stage: str
    sentence: str
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Insides:
    """All of it."""

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
    """What a package's network says inside of images that it has answered; None if it has no stages, as a perceptron.

    Args:
        vectors: of the images, (N, D).
        decoded: the pixels of the image at a path.
        looked_at: rows of the images whose maps are shown.
        anatomy: of the network, which says how much of an image a channel sees.
        chosen: the channels to show; those that tell most unless given.

    Raises:
        ValueError: if a chosen channel does not exist.
    """
    network, labels, crop = networks.load(artifact), artifact.manifest.labels, artifact.manifest.preprocessing.crop
    with tempfile.TemporaryDirectory() as folder:
        graph = feature_maps.stages(network, crop, Path(folder))
        if graph is None:
            return None
        looks = tuple(_look(graph, path, decoded(path)) for path in (answers.paths[row] for row in looked_at))
        found = _peaks(graph, answers.paths, decoded)
        _check(chosen, found)
        weights = network.head.weight.detach().numpy()[:, -network.facts.width :]
        picked = {stage: _picked(stage, seen, answers, labels, weights, vectors, chosen) for stage, seen in found.items()}
        shapes = {name: map.shape for name, map in feature_maps.maps(graph, decoded(answers.paths[0])).items()}
        seen_by = fields.fields(anatomy, feature_maps.modules(network), shapes)
        gallery = _Gallery(graph, crop, answers, labels, decoded, seen_by)
        excited = tuple(gallery.excited(stage, found[stage], channels) for stage, channels in picked.items() if channels)
    return Insides(looks, excited, len(answers.paths))


def _look(graph: Graph, path: str, pixels: Pixels) -> Look:
    stages = []
    for name, map in feature_maps.maps(graph, pixels).items():
        depth, tall, wide = map.shape
        stages.append(Stage(name, f"{tall}x{wide}x{depth}", data_uri(feature_maps.tiled(map))))
    return Look(path, data_uri(contact_sheet.photo(pixels, PICTURE)), tuple(stages))


def _peaks(graph: Graph, paths: Sequence[str], decoded: Decode) -> dict[str, Peaks]:
    """Every stage's peaks over all images, of which only a few have their maps in memory at a time."""

    def one(path: str) -> dict[str, Peaks]:
        return {name: max_activations.peaks([map]) for name, map in feature_maps.maps(graph, decoded(path)).items()}

    with Progress("patches", len(paths), "images") as progress:
        found = list(progress.each(each(one, paths, graph.lanes)))
    return {name: max_activations.joined([peaks[name] for peaks in found]) for name in graph.outputs}


def _check(chosen: Sequence[Chosen], found: Mapping[str, Peaks]) -> None:
    there = ", ".join(f"{name}:0 to {name}:{peaks.values.shape[1] - 1}" for name, peaks in found.items())
    for stage, number in chosen:
        if stage not in found or not 0 <= number < found[stage].values.shape[1]:
            raise ValueError(f"--channels {stage}:{number}: there is no such channel; there are {there}.")


def _picked(
    stage: str,
    found: Peaks,
    answers: Answers,
    labels: Sequence[str],
    weights: Floats,
    vectors: Vectors,
    chosen: Sequence[Chosen],
) -> list[tuple[int, str]]:
    """The channels of a stage that are shown, each with why."""
    if chosen:
        return [(number, "chosen") for name, number in chosen if name == stage]
    own = [truth[0] if truth else -1 for truth in answers.truth]
    if stage == LAST and found.values.shape[1] == weights.shape[1]:
        n_each = OF_A_LABEL if len(labels) <= OF_ALL_LABELS // OF_A_LABEL else 1
        speaking = max_activations.speaking(weights, vectors[:], own, n_each)
        return [(channel, f"speaks for {labels[label]}") for label, channel in speaking[:OF_ALL_LABELS]]
    return [(channel, "tells labels apart") for channel in max_activations.telling(found.values, own, OF_A_STAGE)]


@dataclass(frozen=True)
class _Gallery:
    """Where the pictures of channels come from."""

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
            return "How much of the image each answer depends on is not known, so all of it is shown; the answer glows."
        seen = f"{field.size[1]}x{field.size[0]} pixels"
        if max_activations.sees_all(field, side):
            return f"Each answer depends on {seen}, all of an image of {side}x{side}; where the channel answers glows."
        return f"Each answer depends on {seen} of {side}x{side}, which is what is shown."

    def _channel(self, stage: str, found: Peaks, number: int, why: str) -> Channel:
        rows = max_activations.strongest(found, number, PATCHES)
        pictures = [self._picture(stage, found, row, number) for row in rows]
        strip = data_uri(contact_sheet.contact_sheet(pictures, PATCHES, SIDE)) if pictures else ""
        counts = Counter(", ".join(self.labels[label] for label in self.answers.truth[row]) for row in rows)
        told = ", ".join(f"{n} {name}" for name, n in counts.most_common(3))
        return Channel(number, why, told, strip)

    def _picture(self, stage: str, found: Peaks, row: int, number: int) -> Pixels:
        pixels, field = self.decoded(self.answers.paths[row]), self.fields.get(stage)
        if field is not None and not max_activations.sees_all(field, len(pixels)):
            return max_activations.patch(pixels, found, row, number, field)
        heat = np.maximum(feature_maps.maps(self.graph, pixels)[stage][number], 0)
        return glowing(pixels, heat / max(float(heat.max()), 1e-12), SIDE)
