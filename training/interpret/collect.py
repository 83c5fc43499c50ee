"""What a network sees, gathered for a page: the table of contents of that. A report's part imports no torch."""

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


LAST = "last"  # as `graft.training.interpret.feature_maps` calls the last map
TILE = 56  # pixels of an image beside the map
OF_A_REPORT, MOST_POINTS = 300, 1000  # images on a map: a report must stay small, and a page quick to draw
OF_EACH = 3  # images that were answered rightly, and as many wrongly, that get a heat map
QUICKLY, CLOSELY = (2, 9), (4, 19)  # steps and moves of deletion scores: 12 passes each in a report, 62 in an inspection

Read = Callable[[str], bytes]
Way = Callable[[Places, Places], tuple[str, Places, str]]  # principal components and their shares -> title, places, words


@dataclass(frozen=True)
class Drawing:
    """One picture with what is to be said about it; SVG, or a data URI."""

    title: str
    picture: str
    sentence: str


@dataclass(frozen=True)
class Map:
    """The data set's features in two dimensions.

    Attributes:
        legend: of each label: its mark as SVG, its name, how many points it has.
        sheet: a data URI of the points' pictures, `columns` in a row, each of `tile` pixels.
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
    """All of it; what could not be had is None."""

    filters: Drawing | None
    heats: Heats | None
    map: Map | None
    insides: "Insides | None" = None


def of_run(artifact: Artifact, answers: Answers, vectors: Vectors, read: Read) -> Seen:
    """The best of it, for a report: of a network that has just been packaged, and its test images.

    Args:
        answers: to the test images.
        vectors: of them, (N, D).
        read: the encoded bytes of a file.
    """
    labels, preprocessing = artifact.manifest.labels, artifact.manifest.preprocessing
    explainer = Explainer(artifact, _quick(artifact), cores())
    # A map by occlusion takes 82 passes, not one.
    rows = telling(answers, OF_EACH if explainer.exact else 1)
    shown = heats(explainer, answers, labels, lambda path: _readable(read, path, preprocessing), rows, None, *QUICKLY)
    n_all = len(answers.paths)
    return Seen(
        kernels(artifact), shown, mapped(answers, labels, vectors, read, preprocessing, [by_components], OF_A_REPORT, n_all)
    )


def _quick(artifact: Artifact) -> Precision:
    """The faster of f32 and bf16 that changes no answer, as packaging found."""
    seen = artifact.manifest.fidelity.get("bf16")
    return "bf16" if seen and seen.faithful else "f32"


def of_package(model: Model, anatomy: "Anatomy", data: Path, n_images: int, chosen: Sequence[str] = ()) -> Seen:
    """All of it, of a package on labelled images; where they come in parts, on the held-out one.

    Args:
        anatomy: of the package's network.
        n_images: that are looked at, at most; of more, so many are drawn by lot.
        chosen: channels to show, as "stage3:17", or "17" for one of the last map; those that tell most unless given.

    Raises:
        DatasetError, ImageError: as `appraise.package` does.
        ValueError: if a chosen channel does not exist.
    """
    from graft.training.interpret.stage_views import insides

    manifest, channels = model.manifest, [channel(text) for text in chosen]
    dataset, samples = held_out.held_out(model, data)
    n_all, samples = len(samples), tuple(samples[row] for row in sampled(len(samples), n_images))
    by_path = {sample.path: sample for sample in samples}
    said = answered(model.engine, manifest.preprocessing, dataset, samples, "looking")
    chances = model.probabilities(said.logits).astype(np.float32)
    answers = Answers(tuple(by_path), tuple(sample.labels for sample in samples), chances)

    def read(path: str) -> bytes:
        return dataset.read(by_path[path])

    def decoded(path: str) -> Decoded:
        return decode(read(path), manifest.preprocessing)

    explainer = Explainer(model.artifact, model.engine.precision, cores())
    rows = telling(answers, OF_EACH)
    method = _method(explainer, decoded(answers.paths[0]))
    shown = heats(explainer, answers, manifest.labels, decoded, rows, method, *CLOSELY)
    ways = [by_groups, by_components]
    drawn = mapped(answers, manifest.labels, said.vectors, read, manifest.preprocessing, ways, MOST_POINTS, n_all)
    two = _two(answers, rows)
    inner = insides(model.artifact, answers, said.vectors, lambda path: decoded(path).pixels, two, anatomy, channels)
    return Seen(kernels(model.artifact), shown, drawn, inner)


def _method(explainer: Explainer, decoded: Decoded) -> Method:
    """The best way to explain a network that takes a pass or two for a map; occlusion, which takes 82, only where it must."""
    if explainer.exact:
        return "cam"
    try:
        return explainer.explain(decoded, method="gradcam").method
    except Unexplainable:
        return "occlusion"


def channel(text: str) -> tuple[str, int]:
    """A channel by the name that a person gives it. Raises ValueError if it is no such name."""
    stage, _, number = text.rpartition(":")
    if not number.isdecimal():
        raise ValueError(f"--channels {text}: a channel is a number, as 17, or a stage's and a number, as stage3:17.")
    return stage or LAST, int(number)


def _two(answers: Answers, rows: Sequence[int]) -> list[int]:
    """Of some rows the first, and the first that was answered wrongly."""
    wrong = [row for row in rows if int(answers.probabilities[row].argmax()) not in answers.truth[row]]
    return list(dict.fromkeys([*rows[:1], *wrong[:1]]))


def kernels(artifact: Artifact) -> Drawing | None:
    """The first layer's kernels."""
    found = filters.first_filters(artifact.weights, artifact.manifest.preprocessing.crop)
    return Drawing(found.name, data_uri(filters.picture(found)), filters.sentence(found)) if found else None


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
    """The map of images that were answered; None of so few that nothing can lie together.

    Args:
        ways: to draw it.
        most: images on it; of more, so many are drawn by lot.
        n_all: how many images there are, of which these may be some.
    """
    rows = sampled(len(answers.paths), most)
    if len(rows) < embedding_map.FEWEST:
        return None
    along, shares = embedding_map.components(vectors[rows])
    points = [_point(answers, labels, row) for row in rows.tolist()]
    looks = embedding_plot.marks(points, len(labels))
    drawings = []
    for way in ways:
        title, places, sentence = way(along, shares)
        drawings.append(Drawing(title, embedding_plot.scatter(title, embedding_map.squared(places), points, looks), sentence))
    near = embedding_map.agreement(along, [point.label for point in points])
    said = f"{_counted(points, n_all)} For {percent(near)} of them, the one that is most alike has the same label."
    n_columns, small = embedding_plot.columns(len(rows)), _small([answers.paths[row] for row in rows], read, preprocessing)
    sheet = data_uri(contact_sheet.contact_sheet(small, n_columns, TILE))
    legend = tuple(embedding_plot.legend(labels, points, looks))
    return Map(tuple(drawings), legend, said, sheet, n_columns, -(-len(rows) // n_columns), TILE)


def by_components(along: Places, shares: Places) -> tuple[str, Places, str]:
    """The map at once."""
    told = f"The two directions in which they differ most, {percent(float(shares[:2].sum()))} of all that differs."
    return "PCA", along[:, :2], told


def by_groups(along: Places, _: Places) -> tuple[str, Places, str]:
    """The map that shows groups best; importing what makes it takes a second."""
    return "t-SNE", embedding_map.tsne(along), "Neighbours stay neighbours; how far groups are from each other means nothing."


def _counted(points: Sequence[Point], n_all: int) -> str:
    n_wrong = sum(point.wrong for point in points)
    many = f"All {n_all:,} images" if len(points) == n_all else f"{len(points):,} of the {n_all:,} images, drawn by lot"
    ringed = f"the {n_wrong} that it got wrong have a ring" if n_wrong else "it got none of them wrong"
    return f"{many}; {ringed}."


def _point(answers: Answers, labels: Sequence[str], row: int) -> Point:
    own, said = answers.truth[row], int(answers.probabilities[row].argmax())
    truth = ", ".join(labels[label] for label in own) or "no label"
    wrong = bool(own) and said not in own
    told = f"{truth}, taken for {labels[said]}" if wrong else truth
    return Point(own[0] if own else said, f"{told} ({answers.paths[row]})", wrong)


def _small(paths: Sequence[str], read: Read, preprocessing: Preprocessing) -> list[Pixels]:
    """What the network sees of each image, made small; black where a file vanished meanwhile."""
    side = {"crop": TILE, "resize": max(TILE, round(TILE * preprocessing.resize / preprocessing.crop))}
    small = preprocessing.model_copy(update=side)

    def one(path: str) -> Pixels:
        seen = _readable(read, path, small)
        return np.zeros((TILE, TILE, 3), np.uint8) if seen is None else seen.pixels

    return list(each(one, paths, cores()))


def _readable(read: Read, path: str, preprocessing: Preprocessing) -> Decoded | None:
    """What the network sees of a file; None if it vanished meanwhile, or changed for the worse, which must not end a run."""
    try:
        return decode(read(path), preprocessing)
    except (ImageError, DatasetError, OSError):
        return None
