"""Finds bursts that nobody declared: runs of photos of one thing, such as a product from several sides, or frames of a video.

Photos of a burst have consecutive numbers or times in their names, and look more alike than other images of their label. Both
must hold: names alone are numbered in most data sets, and vectors alone are similar within many labels. NumPy only.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.neighbors import l2_normalize
from graft.training.data.split_names import split_from_name

MAX_NUMBER_GAP = 10  # between the numbers of two files of a burst; some may have been removed, or be in another split
MAX_TIME_GAP_S = 60
REACH = 3  # a photo belongs to a burst if it is like one of the three before it: one bad shot does not end a burst
MIN_BURST = 3  # photos; pairs may be one thing in two styles or from two sources
MAX_CHUNK = 2_000  # files of a label whose similarities are in memory at once; a burst may be cut where a chunk ends
FAR = 20  # files apart: more than most bursts are long
N_NULL_PAIRS = 1_000  # of files of a label that are far apart
NULL_Z = 2.0  # robust standard deviations by which photos of a burst are more alike than those pairs
N_PERMUTATIONS = 10  # of the order of the files of each label
MIN_SEQUENCE = 4  # numbered files of a label that are enough to look for bursts among them
MIN_COVERAGE = 0.3  # share of the numbered images that are in bursts
MIN_RATIO = 1.8  # that share, relative to that with the files in random order
MIN_COHESION = 0.8  # share of the images in bursts whose nearest neighbor of their label is in the same burst

_TIME = re.compile(r"(?<!\d)((?:19|20)\d{6})[-_T ]?(\d{6})(?!\d)")
_NUMBER = re.compile(r"\d+(?=\D*$)")

Floats = NDArray[np.float32]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Bursts:
    """The bursts of a data set.

    Attributes:
        rows: of the images of each burst, MIN_BURST or more.
        coverage: the share of the numbered images that are in bursts.
        cohesion: the share of the images in bursts whose nearest neighbor of their label is in the same burst.
        ratio: the coverage relative to that with the files in random order.
    """

    rows: tuple[tuple[int, ...], ...]
    coverage: float
    cohesion: float
    ratio: float

    def describe(self) -> str:
        """What was found, such as "214 bursts of 3 to 20 photos"."""
        sizes = [len(rows) for rows in self.rows]
        span = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])
        return f"{len(sizes):,} burst{'s' * (len(sizes) > 1)} of {span} photos"


def find_bursts(paths: Sequence[str], labels: Sequence[Hashable], vectors: Callable[[Ints], Floats]) -> Bursts | None:
    """The bursts of a data set, or None if its numbers and times say nothing about what its images show.

    Args:
        paths: of N images, with forward slashes.
        labels: of the images.
        vectors: loads the feature vectors of some rows, float32 (n, D).
    """
    sequences = _sequences(paths, labels)
    n_numbered = sum(len(sequence.rows) for sequence in sequences)
    if not n_numbered:
        return None
    random = np.random.default_rng(0)
    bursts: list[tuple[int, ...]] = []
    n_cohesive = n_by_chance = 0.0
    for sequence in sequences:
        similarity = _similarity(vectors(sequence.rows))
        threshold = _threshold(similarity, random)
        found = _segment(similarity, sequence.breaks, threshold)
        bursts += [tuple(sequence.rows[burst].tolist()) for burst in found]
        n_cohesive += _count_cohesive(similarity, found)
        for _ in range(N_PERMUTATIONS):
            order = random.permutation(len(similarity))
            shuffled = _segment(similarity[np.ix_(order, order)], sequence.breaks, threshold)
            n_by_chance += sum(map(len, shuffled)) / N_PERMUTATIONS
    n_in_bursts = sum(map(len, bursts))
    if not bursts:
        return None
    result = Bursts(tuple(bursts), n_in_bursts / n_numbered, n_cohesive / n_in_bursts, n_in_bursts / max(n_by_chance, 1.0))
    return result if _is_evidence(result) else None


def _is_evidence(bursts: Bursts) -> bool:
    return bursts.coverage >= MIN_COVERAGE and bursts.cohesion >= MIN_COHESION and bursts.ratio >= MIN_RATIO


@dataclass(frozen=True)
class _Sequence:
    """The numbered files of one label, in order; `breaks[i]` says that file i does not continue file i - 1."""

    rows: Ints
    breaks: NDArray[np.bool_]


def _sequences(paths: Sequence[str], labels: Sequence[Hashable]) -> list[_Sequence]:
    positions: dict[Hashable, list[tuple[str, int, int, int]]] = defaultdict(list)
    for row, (path, label) in enumerate(zip(paths, labels, strict=True)):
        if position := _position(path):
            positions[label].append((*position, row))
    sequences = []
    for files in positions.values():
        files.sort()
        if len(files) >= MIN_SEQUENCE:
            starts = [one[0] != other[0] or other[1] - one[1] > other[2] for one, other in pairwise(files)]
            rows, breaks = np.array([file[3] for file in files]), np.array([True, *starts])
            n_chunks = -(-len(rows) // MAX_CHUNK)
            chunks = zip(np.array_split(rows, n_chunks), np.array_split(breaks, n_chunks), strict=True)
            sequences += [_Sequence(*chunk) for chunk in chunks]
    return sequences


def _position(path: str) -> tuple[str, int, int] | None:
    """The series of a file, its number or time in seconds in the series, and the largest gap; None if it has neither.

    The series is the path without the number, and without the folders that are splits: a burst can be in several.
    """
    whole = PurePosixPath(path)
    stem = whole.stem
    folder = "/".join(part for part in whole.parts[:-1] if not split_from_name(part)) + "/"
    if time := _TIME.search(stem):
        try:
            moment = datetime.strptime("".join(time.groups()), "%Y%m%d%H%M%S")
        except ValueError:
            pass
        else:
            return folder + stem[: time.start()], int((moment - datetime(1900, 1, 1)).total_seconds()), MAX_TIME_GAP_S
    if number := _NUMBER.search(stem):
        return folder + stem[: number.start()] + "#" + stem[number.end() :], int(number.group()), MAX_NUMBER_GAP
    return None


def _similarity(vectors: Floats) -> Floats:
    """The cosine similarity of all pairs, (n, n)."""
    unit = l2_normalize(vectors)
    similarity: Floats = unit @ unit.T
    return similarity


def _threshold(similarity: Floats, random: np.random.Generator) -> float:
    """The similarity that few pairs of files exceed that are far apart in the sequence; of all pairs, if it is short.

    By the median and the median absolute deviation, because some of the pairs are of one burst.
    """
    one, other = random.integers(0, len(similarity), (2, N_NULL_PAIRS))
    distance = np.abs(one - other)
    far = similarity[one, other][distance > (FAR if len(similarity) > 2 * FAR else 0)]
    median = np.median(far)
    return float(median + NULL_Z * 1.4826 * np.median(np.abs(far - median)))


def _segment(similarity: Floats, breaks: NDArray[np.bool_], threshold: float) -> list[Ints]:
    """Cuts a sequence where a file starts a new run, or is not like those before it; returns segments of MIN_BURST or more."""
    runs = np.cumsum(breaks)
    starts = []
    for index in range(len(similarity)):
        before = np.arange(max(0, index - REACH), index)
        linked = (runs[before] == runs[index]) & (similarity[index, before] >= threshold)
        if not linked.any():
            starts.append(index)
    segments = np.split(np.arange(len(similarity)), starts[1:])
    return [segment for segment in segments if len(segment) >= MIN_BURST]


def _count_cohesive(similarity: Floats, segments: Sequence[Ints]) -> int:
    """The number of images in segments whose nearest neighbor is in the same segment."""
    others = similarity.copy()
    np.fill_diagonal(others, -np.inf)
    nearest = others.argmax(axis=1)
    return sum(int(np.isin(nearest[segment], segment).sum()) for segment in segments)
