"""Collects heat maps, the embedding map, filters and activations for a page. The part for reports does not import torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.service.artifact import Artifact
from graft.service.errors import ImageError
from graft.service.explain.explainer import Explainer, Method, UnsupportedMethod
from graft.service.fidelity import Precision
from graft.service.imaging.preprocess import DecodedImage, decode
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import Pixels
from graft.service.inference.loader import supported_precisions
from graft.service.inference.model import Model
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import Preprocessing
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import DatasetError
from graft.training.features.feature_arrays import Vectors
from graft.training.inference import held_out
from graft.training.inference.bulk import predict_dataset
from graft.training.interpret import embedding_map, embedding_plot
from graft.training.interpret import first_layer_filters as filters
from graft.training.interpret.embedding_map import Coordinates, sample_rows
from graft.training.interpret.embedding_plot import Point
from graft.training.interpret.heatmaps import HeatmapGallery, explain_images, select_examples
from graft.training.runtime.progress import log, step
from graft.training.visualization import contact_sheet
from graft.training.visualization.charts import percent
from graft.training.visualization.gallery import ImagePredictions
from graft.training.visualization.thumbnails import data_uri

if TYPE_CHECKING:
    from graft.training.architecture.layers import ModelSummary
    from graft.training.interpret.stage_views import StageReport


LAST = "last"  # as `feature_maps.LAST_STAGE`, which needs torch
TILE_SIZE = 56  # pixels of a preview image
MAX_REPORT_POINTS, MAX_POINTS = 300, 1000  # images on a map, so that a report stays small and a page renders fast
N_PER_OUTCOME = 3  # images with heat maps: so many correct and so many misclassified
# Steps and moves of the deletion test: 12 passes per image in a report, 62 in an inspection.
FAST_DELETION, THOROUGH_DELETION = (2, 9), (4, 19)

Read = Callable[[str], bytes]
# Components, explained variance -> title, coordinates, caption.
Projection = Callable[[Coordinates, Coordinates], tuple[str, Coordinates, str]]


@dataclass(frozen=True)
class Figure:
    """A picture with a title and a caption; the picture is SVG or a data URI."""

    title: str
    picture: str
    caption: str


@dataclass(frozen=True)
class EmbeddingMap:
    """The features of a data set in two dimensions.

    Attributes:
        legend: for each label: its marker as SVG, its name, its number of points.
        sheet: a data URI of all preview images, `columns` in a row, each of `tile_size` pixels.
    """

    figures: tuple[Figure, ...]
    legend: tuple[tuple[str, str, int], ...]
    caption: str
    sheet: str
    columns: int
    rows: int
    tile_size: int


@dataclass(frozen=True)
class Interpretation:
    """All parts; None for a part that is not available."""

    filters: Figure | None
    heatmaps: HeatmapGallery | None
    embedding_map: EmbeddingMap | None
    stage_report: "StageReport | None" = None


def interpret_run(artifact: Artifact, predictions: ImagePredictions, vectors: Vectors, read: Read) -> Interpretation:
    """The interpretation for a report: heat maps, a PCA map and first-layer filters on the test images.

    Args:
        predictions: for the test images.
        vectors: features of the test images, (N, D).
        read: returns the encoded bytes of a file.
    """
    labels, preprocessing = artifact.manifest.labels, artifact.manifest.preprocessing
    explainer = Explainer(artifact, _fast_precision(artifact), available_cpus())
    # An occlusion map takes 82 passes instead of one.
    rows = select_examples(predictions, N_PER_OUTCOME if explainer.has_cam else 1)
    heatmaps = explain_images(
        explainer, predictions, labels, lambda path: _decode_or_none(read, path, preprocessing), rows, None, *FAST_DELETION
    )
    n_all = len(predictions.paths)
    plot = build_embedding_map(predictions, labels, vectors, read, preprocessing, [pca_projection], MAX_REPORT_POINTS, n_all)
    return Interpretation(filter_figure(artifact), heatmaps, plot)


def _fast_precision(artifact: Artifact) -> Precision:
    """bf16 if this machine's CPU has it and it is equivalent to f32, as the precision check at packaging found."""
    manifest = artifact.manifest
    is_usable = "bf16" in manifest.fidelity and manifest.is_equivalent("bf16") and "bf16" in supported_precisions("cpu")
    return "bf16" if is_usable else "f32"


def interpret_package(
    model: Model,
    model_summary: "ModelSummary",
    data: Path,
    n_images: int,
    channels: Sequence[str] = (),
    options: ReadOptions | None = None,
) -> Interpretation:
    """The full interpretation of a package on labeled images that it has not seen, on their test split if they have one.

    Args:
        model_summary: of the package's network.
        n_images: maximum; a random sample is drawn from more.
        channels: to show, as "stage3:17", or "17" for the last stage; by default the most discriminative.
        options: how to read the data.

    Raises:
        DatasetError, ImageError: as `evaluate_package`.
        ValueError: if a requested channel does not exist.
    """
    from graft.training.interpret.stage_views import build_stage_report

    manifest, requested = model.manifest, [parse_channel(text) for text in channels]
    found = held_out.load(model, data, options)
    dataset, samples = found.dataset, found.samples
    if found.n_seen:
        log(held_out.seen_note(len(found.samples), found.n_seen, found.includes_seen))
    n_all, samples = len(samples), tuple(samples[row] for row in sample_rows(len(samples), n_images))
    by_path = {sample.path: sample for sample in samples}
    outputs = predict_dataset(model.engine, manifest.preprocessing, dataset, samples, "predicting")
    probabilities = model.probabilities(outputs.logits).astype(np.float32)
    predictions = ImagePredictions(tuple(by_path), tuple(sample.labels for sample in samples), probabilities)

    def read(path: str) -> bytes:
        return dataset.read(by_path[path])

    def decode_path(path: str) -> DecodedImage:
        return decode(read(path), manifest.preprocessing)

    explainer = Explainer(model.artifact, model.engine.precision, available_cpus())
    rows = select_examples(predictions, N_PER_OUTCOME)
    method = _select_method(explainer, decode_path(predictions.paths[0]))
    heatmaps = explain_images(explainer, predictions, manifest.labels, decode_path, rows, method, *THOROUGH_DELETION)
    projections = [tsne_projection, pca_projection]
    plot = build_embedding_map(
        predictions, manifest.labels, outputs.vectors, read, manifest.preprocessing, projections, MAX_POINTS, n_all
    )
    stages = build_stage_report(
        model.artifact,
        predictions,
        outputs.vectors,
        lambda path: decode_path(path).pixels,
        _example_rows(predictions, rows),
        model_summary,
        requested,
    )
    return Interpretation(filter_figure(model.artifact), heatmaps, plot, stages)


def _select_method(explainer: Explainer, decoded: DecodedImage) -> Method:
    """CAM or Grad-CAM, which take one or two passes per map; occlusion, which takes 82, only as a fallback."""
    if explainer.has_cam:
        return "cam"
    try:
        return explainer.explain(decoded, method="gradcam").method
    except UnsupportedMethod:
        return "occlusion"


def parse_channel(text: str) -> tuple[str, int]:
    """Parses a channel such as "stage3:17" or "17". Raises ValueError if the syntax is wrong."""
    stage, _, number = text.rpartition(":")
    if not number.isdecimal():
        raise ValueError(f"--channels {text}: expected a number such as 17, or a stage and a number such as stage3:17.")
    return stage or LAST, int(number)


def _example_rows(predictions: ImagePredictions, rows: Sequence[int]) -> list[int]:
    """The first row, and the first misclassified row."""
    wrong = [row for row in rows if int(predictions.probabilities[row].argmax()) not in predictions.targets[row]]
    return list(dict.fromkeys([*rows[:1], *wrong[:1]]))


def filter_figure(artifact: Artifact) -> Figure | None:
    """The kernels of the first layer."""
    first = filters.first_filters(artifact.weights, artifact.manifest.preprocessing.crop)
    return Figure(first.name, data_uri(filters.to_png(first)), filters.describe(first)) if first else None


@step("drawing the embedding map")
def build_embedding_map(
    predictions: ImagePredictions,
    labels: Sequence[str],
    vectors: Vectors,
    read: Read,
    preprocessing: Preprocessing,
    projections: Sequence[Projection],
    max_points: int,
    n_all: int,
) -> EmbeddingMap | None:
    """Builds the embedding map; None if there are too few images.

    Args:
        projections: one figure each.
        max_points: a random sample is drawn from more images.
        n_all: size of the data set, from which these images may be a sample.
    """
    rows = sample_rows(len(predictions.paths), max_points)
    if len(rows) < embedding_map.MIN_IMAGES:
        return None
    components, explained = embedding_map.pca(vectors[rows])
    points = [_to_point(predictions, labels, row) for row in rows.tolist()]
    markers = embedding_plot.assign_markers(points, len(labels))
    figures = []
    for project in projections:
        title, coordinates, caption = project(components, explained)
        layout = embedding_map.normalize_layout(coordinates)
        figures.append(Figure(title, embedding_plot.scatter(title, layout, points, markers), caption))
    agreement = embedding_map.knn_label_agreement(components, [point.label for point in points])
    caption = f"{_map_caption(points, n_all)} For {percent(agreement)} of them, the nearest neighbor has the same label."
    n_columns, small = (
        embedding_plot.sheet_columns(len(rows)),
        _small_images([predictions.paths[row] for row in rows], read, preprocessing),
    )
    sheet = data_uri(contact_sheet.contact_sheet(small, n_columns, TILE_SIZE))
    legend = tuple(embedding_plot.legend(labels, points, markers))
    return EmbeddingMap(tuple(figures), legend, caption, sheet, n_columns, -(-len(rows) // n_columns), TILE_SIZE)


def pca_projection(components: Coordinates, shares: Coordinates) -> tuple[str, Coordinates, str]:
    """The first two principal components."""
    caption = f"The first two principal components explain {percent(float(shares[:2].sum()))} of the variance."
    return "PCA", components[:, :2], caption


def tsne_projection(components: Coordinates, _: Coordinates) -> tuple[str, Coordinates, str]:
    """t-SNE, which separates clusters better; importing scikit-learn takes a second."""
    return "t-SNE", embedding_map.tsne(components), "Preserves neighborhoods; distances between clusters have no meaning."


def _map_caption(points: Sequence[Point], n_all: int) -> str:
    n_wrong = sum(point.wrong for point in points)
    images = f"All {n_all:,} images" if len(points) == n_all else f"A random sample of {len(points):,} of {n_all:,} images"
    errors = f"rings mark the {n_wrong} misclassified" if n_wrong else "none is misclassified"
    return f"{images}; {errors}."


def _to_point(predictions: ImagePredictions, labels: Sequence[str], row: int) -> Point:
    target, predicted = predictions.targets[row], int(predictions.probabilities[row].argmax())
    true_labels = ", ".join(labels[label] for label in target) or "no label"
    wrong = bool(target) and predicted not in target
    text = f"{true_labels}, predicted as {labels[predicted]}" if wrong else true_labels
    return Point(target[0] if target else predicted, f"{text} ({predictions.paths[row]})", wrong)


def _small_images(paths: Sequence[str], read: Read, preprocessing: Preprocessing) -> list[Pixels]:
    """The preprocessed images at preview size; black for a file that has become unreadable."""
    size = {"crop": TILE_SIZE, "resize": max(TILE_SIZE, round(TILE_SIZE * preprocessing.resize / preprocessing.crop))}
    small = preprocessing.model_copy(update=size)

    def load(path: str) -> Pixels:
        decoded = _decode_or_none(read, path, small)
        return np.zeros((TILE_SIZE, TILE_SIZE, 3), np.uint8) if decoded is None else decoded.pixels

    return list(ordered_map(load, paths, available_cpus()))


def _decode_or_none(read: Read, path: str, preprocessing: Preprocessing) -> DecodedImage | None:
    """The preprocessed image; None if the file has become unreadable, which must not fail a run."""
    try:
        return decode(read(path), preprocessing)
    except (ImageError, DatasetError, OSError):
        return None
