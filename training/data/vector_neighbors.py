"""Pairs of images with similar feature vectors: each image with its nearest neighbors by cosine similarity. NumPy only.

Exact for up to MAX_EXACT images. Above that, an image is compared only with those that share one of its two buckets, so that
the time grows with the number of images, not with its square. Copies have nearly the same vector, so they share a bucket.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.neighbors import l2_normalize

N_NEIGHBORS = 3  # of each image; measured: a copy is among the first three in 97 % to 100 % of the cases
MAX_EXACT = 20_000
BUCKET_SIZE = 2_500  # images per bucket, on average
BUCKETS_PER_IMAGE = 2
ROWS, COLUMNS = 1024, 4096  # of one matrix product: 16 MB

Floats = NDArray[np.float32]


class Vectors(Protocol):
    """Float32 (N, D), which may be loaded only when indexed."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Floats: ...


def nearest_pairs(vectors: Vectors) -> NDArray[np.int32]:
    """Each image with its N_NEIGHBORS nearest neighbors: (P, 2), each pair once, the smaller row first."""
    n = len(vectors)
    codes = [_codes(rows, neighbors, n) for rows, neighbors in _searches(vectors)]
    unique = np.unique(np.concatenate(codes)) if codes else np.zeros(0, np.int64)
    return np.stack([unique // max(1, n), unique % max(1, n)], axis=1).astype(np.int32)


def _codes(rows: NDArray[np.intp], neighbors: NDArray[np.intp], n: int) -> NDArray[np.int64]:
    """Pairs as integers: smaller row * n + larger row."""
    first, second = np.repeat(rows, neighbors.shape[1]), neighbors.reshape(-1)
    return np.minimum(first, second) * n + np.maximum(first, second)


def _searches(vectors: Vectors) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yields rows (n,) and their nearest neighbors (n, K)."""
    buckets = [np.arange(len(vectors))] if len(vectors) <= MAX_EXACT else _buckets(vectors)
    for bucket in buckets:
        if len(bucket) > 1:
            for start in range(0, len(bucket), ROWS):
                yield bucket[start : start + ROWS], _nearest(vectors, bucket, start)


def _nearest(vectors: Vectors, bucket: NDArray[np.intp], start: int) -> NDArray[np.intp]:
    """The nearest neighbors in a bucket of its images from `start` on, at most ROWS: int (n, K)."""
    queries = l2_normalize(vectors[bucket[start : start + ROWS]])
    n, n_neighbors = len(queries), min(N_NEIGHBORS, len(bucket) - 1)
    similarities, neighbors = np.full((n, 0), 0, np.float32), np.zeros((n, 0), np.intp)
    for first in range(0, len(bucket), COLUMNS):
        block = bucket[first : first + COLUMNS]
        products = queries @ l2_normalize(vectors[block]).T
        itself = np.arange(n) + start - first
        inside = (itself >= 0) & (itself < len(block))
        products[np.flatnonzero(inside), itself[inside]] = -np.inf
        best = _largest(products, min(N_NEIGHBORS, len(block)))
        similarities = np.concatenate([similarities, np.take_along_axis(products, best, axis=1)], axis=1)
        neighbors = np.concatenate([neighbors, block[best]], axis=1)
        kept = _largest(similarities, min(N_NEIGHBORS, similarities.shape[1]))
        similarities = np.take_along_axis(similarities, kept, axis=1)
        neighbors = np.take_along_axis(neighbors, kept, axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :n_neighbors]
    return np.take_along_axis(neighbors, order, axis=1)


def _largest(values: Floats, n: int) -> NDArray[np.intp]:
    """The columns of the n largest values of each row, in any order."""
    return np.argpartition(values, values.shape[1] - n, axis=1)[:, values.shape[1] - n :]


def _buckets(vectors: Vectors) -> list[NDArray[np.intp]]:
    """Rows that are near the same randomly drawn image; each row is in BUCKETS_PER_IMAGE buckets of at most MAX_EXACT rows."""
    n = len(vectors)
    centers = np.sort(np.random.default_rng(0).choice(n, -(-n // BUCKET_SIZE), replace=False))
    center_vectors = l2_normalize(vectors[centers])
    bucket_of = np.empty((n, BUCKETS_PER_IMAGE), np.int32)
    similarity = np.empty((n, BUCKETS_PER_IMAGE), np.float32)
    for start in range(0, n, ROWS):
        products = l2_normalize(vectors[np.arange(start, min(start + ROWS, n))]) @ center_vectors.T
        best = _largest(products, BUCKETS_PER_IMAGE)
        bucket_of[start : start + ROWS], similarity[start : start + ROWS] = best, np.take_along_axis(products, best, axis=1)
    # In a bucket by similarity to its center, which copies share: where a large bucket is cut, few copies are separated.
    order = np.lexsort((similarity.reshape(-1), bucket_of.reshape(-1)))
    rows, sizes = order // BUCKETS_PER_IMAGE, np.bincount(bucket_of.reshape(-1), minlength=len(centers))
    buckets = np.split(rows, np.cumsum(sizes)[:-1])
    return [bucket[start : start + MAX_EXACT] for bucket in buckets for start in range(0, len(bucket), MAX_EXACT)]
