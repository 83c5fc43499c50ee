"""Near copies: what the image scan finds by hashes, and what only the backbone's vectors and an alignment find.

The nearest neighbors of an image are candidates; `graft.training.data.copy_alignment` tells copies from similar pictures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import ordered_map
from graft.training.audit.image_scan import ScanTable, distinct_rows, picture_reader, to_digests
from graft.training.data.copy_alignment import BATCH_SIZE, PICTURE_SIDE, are_copies, may_be_copies
from graft.training.data.dataset import Dataset
from graft.training.data.near_duplicates import Pairs, UnionFind, verify_pairs
from graft.training.data.vector_neighbors import nearest_pairs
from graft.training.features.extraction import Features, View
from graft.training.runtime.progress import step

# Pixels of the shorter side. Smaller pictures have too little detail: many clothes at 28 pixels, and drawings at 64 that share
# parts, agree as well as copies do. Only hashes are compared of them.
MIN_SIDE = 96

DigestPairs = Sequence[tuple[bytes, bytes]]


@step("looking for copies")
def find_near_copies(dataset: Dataset, table: ScanTable, features: Features) -> DigestPairs:
    """Pairs of digests of images that are copies of each other: re-encoded, resized, cropped, turned, framed, marked, mirrored.

    Pairs that others already connect may be missing: they are in one group anyway.

    Args:
        dataset: as it was scanned.
        table: the scan, whose near-duplicates are among the pairs.
        features: of the images to compare; others are passed over.
    """
    rows = _comparable_rows(dataset, table, features)
    candidates = nearest_pairs(features.select(dataset.samples[row] for row in rows))
    candidates = _drop_connected(candidates, dataset, rows, table.near_duplicates)
    likely = _drop_unlikely(candidates, table.thumbnails, rows)
    verified = verify_pairs(likely, picture_reader(dataset, rows, PICTURE_SIDE), _are_copies, PICTURE_SIDE)
    return (*table.near_duplicates, *to_digests(dataset, rows, verified))


def _comparable_rows(dataset: Dataset, table: ScanTable, features: Features) -> NDArray[np.intp]:
    rows = distinct_rows(dataset, table)
    rows = rows[np.minimum(table.records["width"], table.records["height"])[rows] >= MIN_SIDE]
    has_features = np.array([View(dataset.samples[row]).key in features.row_index for row in rows], bool)
    comparable: NDArray[np.intp] = rows[has_features]
    return comparable


def _drop_connected(pairs: Pairs, dataset: Dataset, rows: NDArray[np.intp], known: DigestPairs) -> Pairs:
    """Only the pairs of rows that the known pairs of digests do not connect."""
    if not known:
        return pairs
    digests = {digest for pair in known for digest in pair}
    index_of = {digest: index for index, row in enumerate(rows) if (digest := dataset.samples[row].digest) in digests}
    components = UnionFind(len(rows))
    components.union((index_of[a], index_of[b]) for a, b in known if a in index_of and b in index_of)
    return pairs[components.separate(*pairs.T)]


def _drop_unlikely(pairs: Pairs, thumbnails: NDArray[np.uint8], rows: NDArray[np.intp]) -> Pairs:
    """Only the pairs whose thumbnails look alike; if the second must be mirrored for that, len(rows) is added to it."""

    def check(start: int) -> Pairs:
        batch = pairs[start : start + BATCH_SIZE]
        one, other = (thumbnails[rows[indices]] for indices in batch.T)
        plain, mirrored = may_be_copies(one, other), may_be_copies(one, other[:, :, ::-1])
        return np.concatenate([batch[plain], batch[mirrored] + np.array([0, len(rows)], np.int32)])

    return np.concatenate([pairs[:0], *ordered_map(check, range(0, len(pairs), BATCH_SIZE), available_cpus())])


def _are_copies(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """`are_copies` on all cores."""
    slices = (slice(start, start + BATCH_SIZE) for start in range(0, len(one), BATCH_SIZE))
    parts = ordered_map(lambda batch: are_copies(one[batch], other[batch]), slices, available_cpus())
    return np.concatenate([np.zeros(0, bool), *parts])
