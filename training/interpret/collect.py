"""Collects heat maps, the embedding map, filters and activations for a page. The part for reports does not import torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.service.artifact import Artifact, Precision, Preprocessing
from graft.service.errors import ImageError
from graft.service.explain.explainer import Explainer, Method, Unexplainable
from graft.service.imaging.preprocess import Decoded, decode
from graft.service.inference.devices import cores
from graft.service.inference.engine import Pixels
from graft.service.inference.model import Model
from graft.training.data.dataset import DatasetError
from graft.training.features.feature_arrays import Vectors
from graft.training.inference import held_out
from graft.training.inference.bulk import answered
from graft.training.interpret import embedding_map, embedding_plot
from graft.training.interpret import first_layer_filters as filters
from graft.training.interpret.embedding_map import Places, sampled
from graft.training.interpret.embedding_plot import Point
from graft.training.interpret.heatmaps import Heats, heats, telling
from graft.training.runtime.thread_map import each
from graft.training.visualization import contact_sheet
from graft.training.visualization.charts import percent
from graft.training.visualization.gallery import Answers
from graft.training.visualization.thumbnails import data_uri

if TYPE_CHECKING:
    from graft.training.architecture.layers import Anatomy
    from graft.training.interpret.stage_views import Insides


LAST = "last"  # as `feature_maps.LAST_STAGE`, which needs torch
TILE = 56  # pixels of a preview image
OF_A_REPORT, MOST_POINTS = 300, 1000  # images on a map, so that a report stays small and a page renders fast
OF_EACH = 3  # images with heat maps: so many correct and so many misclassified
QUICKLY, CLOSELY = (2, 9), (4, 19)  # steps and moves of the deletion test: 12 passes per image in a report, 62 in an inspection

Read = Callable[[str], bytes]
Way = Callable[[Places, Places], tuple[str, Places, str]]  # components, explained variance -> title, coordinates, caption


@dataclass(frozen=True)
class Drawing:
    """A picture with a title and a caption; the picture is SVG or a data URI."""

    title: str
    picture: str
    sentence: str


@dataclass(frozen=True)
class Map:
    """The features of a data set in two dimensions.

    Attributes:
        legend: for each label: its marker as SVG, its name, its number of points.
        sheet: a data URI of all preview images, `columns` in a row, each of `tile_size` pixels.
    """

    drawings: tuple[Drawing, ...]
    legend: tuple[tuple[str, str, int], ...]
    sentence: str
    sheet: str
    columns: int
    rows: int
    tile: int


@dataclass(frozen=True)
class Seen:
    """All parts; None for a part that is not available."""

    filters: Drawing | None
    heats: Heats | None
    map: Map | None
    insides: "Insides | None" = None


def of_run(artifact: Artifact, answers: Answers, vectors: Vectors, read: Read) -> Seen:
    """The interpretation for a report: heat maps, a PCA map and first-layer filters on the test images.

    Args:
        predictions: for the test images.
        vectors: features of the test images, (N, D).
        read: returns the encoded bytes of a file.
    """
    labels, preprocessing = artifact.manifest.labels, artifact.manifest.preprocessing
    explainer = Explainer(artifact, _quick(artifact), cores())
    # An occlusion map takes 82 passes instead of one.
    rows = telling(answers, OF_EACH if explainer.exact else 1)
    heatmaps = heats(explainer, answers, labels, lambda path: _readable(read, path, preprocessing), rows, None, *QUICKLY)
    n_all = len(answers.paths)
    plot = mapped(answers, labels, vectors, read, preprocessing, [by_components], OF_A_REPORT, n_all)
    return Seen(kernels(artifact), heatmaps, plot)


def _quick(artifact: Artifact) -> Precision:
    """The fastest precision that does not change predictions, as recorded by the precision check at packaging."""
    check = artifact.manifest.fidelity.get("bf16")
    return "bf16" if check and check.faithful else "f32"


def of_package(model: Model, anatomy: "Anatomy", data: Path, n_images: int, chosen: Sequence[str] = ()) -> Seen:
    """The full interpretation of a package on labeled images, on their test split if they have one.

    Args:
        model_summary: of the package's network.
        n_images: maximum; a random sample is drawn from more.
        channels: to show, as "stage3:17", or "17" for the last stage; by default the most discriminative.

    Raises:
        DatasetError, ImageError: as `evaluate_package`.
        ValueError: if a requested channel does not exist.
    """
    from graft.training.interpret.stage_views import insides

    manifest, requested = model.manifest, [channel(text) for text in chosen]
    dataset, samples = held_out.held_out(model, data)
    n_all, samples = len(samples), tuple(samples[row] for row in sampled(len(samples), n_images))
    by_path = {sample.path: sample for sample in samples}
    outputs = answered(model.engine, manifest.preprocessing, dataset, samples, "predicting")
    probabilities = model.probabilities(outputs.logits).astype(np.float32)
    predictions = Answers(tuple(by_path), tuple(sample.labels for sample in samples), probabilities)

    def read(path: str) -> bytes:
        return dataset.read(by_path[path])

    def decode_path(path: str) -> Decoded:
        return decode(read(path), manifest.preprocessing)

    explainer = Explainer(model.artifact, model.engine.precision, cores())
    rows = telling(predictions, OF_EACH)
    method = _method(explainer, decode_path(predictions.paths[0]))
    heatmaps = heats(explainer, predictions, manifest.labels, decode_path, rows, method, *CLOSELY)
    projections = [by_groups, by_components]
    plot = mapped(predictions, manifest.labels, outputs.vectors, read, manifest.preprocessing, projections, MOST_POINTS, n_all)
    stages = insides(
        model.artifact,
        predictions,
        outputs.vectors,
        lambda path: decode_path(path).pixels,
        _two(predictions, rows),
        anatomy,
        requested,
    )
    return Seen(kernels(model.artifact), heatmaps, plot, stages)


def _method(explainer: Explainer, decoded: Decoded) -> Method:
    """CAM or Grad-CAM, which take one or two passes per map; occlusion, which takes 82, only as a fallback."""
    if explainer.exact:
        return "cam"
    try:
        return explainer.explain(decoded, method="gradcam").method
    except Unexplainable:
        return "occlusion"


def channel(text: str) -> tuple[str, int]:
    """Parses a channel such as "stage3:17" or "17". Raises ValueError if the syntax is wrong."""
    stage, _, number = text.rpartition(":")
    if not number.isdecimal():
        raise ValueError(f"--channels {text}: expected a number such as 17, or a stage and a number such as stage3:17.")
    return stage or LAST, int(number)


def _two(answers: Answers, rows: Sequence[int]) -> list[int]:
    """The first row, and the first misclassified row."""
    wrong = [row for row in rows if int(answers.probabilities[row].argmax()) not in answers.truth[row]]
    return list(dict.fromkeys([*rows[:1], *wrong[:1]]))


def kernels(artifact: Artifact) -> Drawing | None:
    """The kernels of the first layer."""
    first = filters.first_filters(artifact.weights, artifact.manifest.preprocessing.crop)
    return Drawing(first.name, data_uri(filters.picture(first)), filters.sentence(first)) if first else None


def mapped(
    answers: Answers,
    labels: Sequence[str],
    vectors: Vectors,
    read: Read,
    preprocessing: Preprocessing,
    ways: Sequence[Way],
    most: int,
    n_all: int,
) -> Map | None:
    """Builds the embedding map; None if there are too few images.

    Args:
        projections: one figure each.
        max_points: a random sample is drawn from more images.
        n_all: size of the data set, from which these images may be a sample.
    """
    rows = sampled(len(answers.paths), most)
    if len(rows) < embedding_map.FEWEST:
        return None
    components, explained = embedding_map.components(vectors[rows])
    points = [_point(answers, labels, row) for row in rows.tolist()]
    markers = embedding_plot.marks(points, len(labels))
    figures = []
    for project in ways:
        title, coordinates, caption = project(components, explained)
        layout = embedding_map.squared(coordinates)
        figures.append(Drawing(title, embedding_plot.scatter(title, layout, points, markers), caption))
    agreement = embedding_map.agreement(components, [point.label for point in points])
    caption = f"{_counted(points, n_all)} For {percent(agreement)} of them, the nearest neighbor has the same label."
    n_columns, small = embedding_plot.columns(len(rows)), _small([answers.paths[row] for row in rows], read, preprocessing)
    sheet = data_uri(contact_sheet.contact_sheet(small, n_columns, TILE))
    legend = tuple(embedding_plot.legend(labels, points, markers))
    return Map(tuple(figures), legend, caption, sheet, n_columns, -(-len(rows) // n_columns), TILE)


def by_components(along: Places, shares: Places) -> tuple[str, Places, str]:
    """The first two principal components."""
    caption = f"The first two principal components explain {percent(float(shares[:2].sum()))} of the variance."
    return "PCA", along[:, :2], caption


def by_groups(along: Places, _: Places) -> tuple[str, Places, str]:
    """t-SNE, which separates clusters better; importing scikit-learn takes a second."""
    return "t-SNE", embedding_map.tsne(along), "Preserves neighborhoods; distances between clusters have no meaning."


def _counted(points: Sequence[Point], n_all: int) -> str:
    n_wrong = sum(point.wrong for point in points)
    images = f"All {n_all:,} images" if len(points) == n_all else f"A random sample of {len(points):,} of {n_all:,} images"
    errors = f"rings mark the {n_wrong} misclassified" if n_wrong else "none is misclassified"
    return f"{images}; {errors}."


def _point(answers: Answers, labels: Sequence[str], row: int) -> Point:
    target, predicted = answers.truth[row], int(answers.probabilities[row].argmax())
    true_labels = ", ".join(labels[label] for label in target) or "no label"
    wrong = bool(target) and predicted not in target
    text = f"{true_labels}, predicted as {labels[predicted]}" if wrong else true_labels
    return Point(target[0] if target else predicted, f"{text} ({answers.paths[row]})", wrong)


def _small(paths: Sequence[str], read: Read, preprocessing: Preprocessing) -> list[Pixels]:
    """The preprocessed images at preview size; black for a file that has become unreadable."""
    size = {"crop": TILE, "resize": max(TILE, round(TILE * preprocessing.resize / preprocessing.crop))}
    small = preprocessing.model_copy(update=size)

    def load(path: str) -> Pixels:
        decoded = _readable(read, path, small)
        return np.zeros((TILE, TILE, 3), np.uint8) if decoded is None else decoded.pixels

    return list(each(load, paths, cores()))


def _readable(read: Read, path: str, preprocessing: Preprocessing) -> Decoded | None:
    """The preprocessed image; None if the file has become unreadable, which must not fail a run."""
    try:
        return decode(read(path), preprocessing)
    except (ImageError, DatasetError, OSError):
        return None
