"""Near-duplicate detection: perceptual hashes find candidate pairs, thumbnail correlation verifies them. NumPy only.

The hash is dHash: 64 bits for the horizontal and 64 bits for the vertical brightness gradients. A gradient of at most two
gray levels counts as flat, so that noise in a uniform area, such as a clear sky, sets no bits. Therefore the hash of a mirror
image is not that of the image with its bits reversed, and is computed from the mirrored thumbnail.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 32  # pixels: side of the square thumbnail that is hashed and compared
MIN_GRADIENT = 2.0  # gray levels: larger gradients set a bit
# Measured: 99% of 7,000 resized, brightened or recompressed copies differ in fewer bits, distinct photos in 23 or more.
MAX_HAMMING = 8  # of 128 bits
# Random bit subsets: two hashes with Hamming distance 8 agree on at least one of them with probability 99.99%.
N_MASKS, MASK_BITS = 48, 24
MAX_NEIGHBOR_DISTANCE = 32  # a hash is compared with the next 32 hashes that agree on a subset
MIN_SET_BITS = 12  # of 128; measured: 99.9% of images of clothes, animals and objects have 15 or more
MAX_BUCKET = 64  # a hash with this many candidate pairs is not compared further
MAX_PENDING = 1_000_000  # candidate pairs collected before duplicates are removed
BLOCK_SIZE = 512  # pairs verified at once: a few megabytes, which fit in the CPU cache
BINOMIAL_5 = (1, 4, 6, 4, 1)  # filter weights
MIN_CORRELATION, MIN_DETAIL_CORRELATION = 0.98, 0.95  # Pearson correlations; see `is_same_image`

GrayArray = NDArray[np.float32]
Pairs = NDArray[np.int32]
T = TypeVar("T", bound=Hashable)


def _resize_weights(n_cells: int) -> GrayArray:
    """Return the weights that average THUMBNAIL_SIDE pixels to `n_cells` cells: (n_cells, THUMBNAIL_SIDE), rows sum to 1."""
    edges = np.linspace(0, THUMBNAIL_SIDE, n_cells + 1)[:, None]
    left, right = np.maximum(edges[:-1], np.arange(THUMBNAIL_SIDE)), np.minimum(edges[1:], np.arange(1, THUMBNAIL_SIDE + 1))
    weights: GrayArray = (np.maximum(right - left, 0) * n_cells / THUMBNAIL_SIDE).astype(np.float32)
    return weights


@cache
def _smoothing_matrix(side: int, weights: tuple[int, ...]) -> GrayArray:
    """Return the matrix that filters the columns of a picture, float32 (side, side); edge pixels are repeated."""
    matrix, reach = np.zeros((side, side), np.float32), len(weights) // 2
    for offset, weight in zip(range(-reach, reach + 1), weights, strict=True):
        matrix[np.arange(side), np.clip(np.arange(side) + offset, 0, side - 1)] += np.float32(weight / sum(weights))
    return matrix


_TO_8, _TO_9 = _resize_weights(8), _resize_weights(9)
_HASH_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd multipliers are bijective modulo 2**64
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_grayscale(pixels: NDArray[np.uint8]) -> GrayArray:
    """Convert RGB pixels, uint8 (..., 3), to luma, float32 (...)."""
    return pixels.astype(np.float32) @ _LUMA


def to_bytes(gray: GrayArray) -> NDArray[np.uint8]:
    """Round gray levels to uint8."""
    rounded: NDArray[np.uint8] = np.clip(gray + 0.5, 0, 255).astype(np.uint8)
    return rounded


def smooth(pictures: GrayArray, weights: tuple[int, ...]) -> GrayArray:
    """Filter pictures (n, side, side) with the same weights in both directions; edge pixels are repeated."""
    matrix = _smoothing_matrix(pictures.shape[1], weights)
    smoothed: GrayArray = np.matmul(np.matmul(matrix, pictures), matrix.T)
    return smoothed


def dhash(thumbnail: GrayArray) -> tuple[int, int]:
    """Return the horizontal and vertical dHash, 64 bits each, of a thumbnail (THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""
    horizontal = np.diff(_TO_8 @ thumbnail @ _TO_9.T, axis=1) > MIN_GRADIENT
    vertical = np.diff(_TO_9 @ thumbnail @ _TO_8.T, axis=0) > MIN_GRADIENT
    return tuple(int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in (horizontal, vertical))  # type: ignore[return-value]


def candidate_pairs_with_mirrors(hashes: NDArray[np.uint64], mirrored: NDArray[np.uint64]) -> Pairs:
    """Return the pairs of rows where an image looks like another, or like the mirror image of another: (P, 2).

    Args:
        hashes: the horizontal and vertical hash of each image, uint64 (N, 2).
        mirrored: the same of its mirror image.

    Returns:
        Each pair once. The first is a row; the second is a larger row, or N more than a larger row for its mirror image.
    """
    n = len(hashes)
    horizontal, vertical = np.concatenate([hashes, mirrored]).T
    pairs = candidate_pairs(horizontal, vertical)
    rows = np.sort(pairs % max(1, n), axis=1)
    rows[:, 1] += n * np.not_equal(*(pairs >= n).T)
    different = rows[:, 0] != rows[:, 1] % max(1, n)  # an image can look like its own mirror image
    unique: Pairs = np.unique(rows[different], axis=0)
    return unique


def candidate_pairs(horizontal: NDArray[np.uint64], vertical: NDArray[np.uint64]) -> Pairs:
    """Return the pairs of rows with a Hamming distance of at most MAX_HAMMING: (P, 2), each pair once, smaller row first.

    Locality-sensitive hashing instead of all pairs: for each of N_MASKS random bit subsets, rows are sorted by their masked
    hash, and each row is compared with the next MAX_NEIGHBOR_DISTANCE rows of the same key only. Hashes with fewer than
    MIN_SET_BITS set or unset bits match too many images and are skipped. A row with MAX_BUCKET pairs is not compared further.

    Args:
        horizontal, vertical: the two hashes of each image, uint64 (N,).
    """
    n = max(1, len(horizontal))  # a pair is encoded as one integer: first row * n + second row
    n_set = np.bitwise_count(horizontal) + np.bitwise_count(vertical)
    rows = np.flatnonzero((n_set >= MIN_SET_BITS) & (n_set <= 128 - MIN_SET_BITS))
    codes = np.zeros(0, np.int64)
    pending = [codes]
    for mask in _random_masks():
        key = ((horizontal[rows] & mask[0]) * _HASH_MULTIPLIERS[0]) ^ ((vertical[rows] & mask[1]) * _HASH_MULTIPLIERS[1])
        order = np.argsort(key)
        pending.append(_neighbor_pairs(key[order], rows[order], horizontal, vertical))
        if sum(map(len, pending)) > MAX_PENDING:
            codes = _merge(codes, pending)
            rows = rows[(np.bincount(codes // n, minlength=n) + np.bincount(codes % n, minlength=n))[rows] < MAX_BUCKET]
    codes = _merge(codes, pending)
    pairs = np.empty((len(codes), 2), np.int32)
    np.floor_divide(codes, n, out=pairs[:, 0], casting="same_kind")
    np.remainder(codes, n, out=pairs[:, 1], casting="same_kind")
    return pairs


def hamming_distances(
    horizontal: NDArray[np.uint64], vertical: NDArray[np.uint64], one: NDArray[np.integer], other: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Return the number of bits in which the hashes of pairs of rows differ, uint8 (P,); the rows are int (P,) each."""
    distances: NDArray[np.uint8] = np.bitwise_count(horizontal[one] ^ horizontal[other])
    distances += np.bitwise_count(vertical[one] ^ vertical[other])
    return distances


def _merge(codes: NDArray[np.int64], pending: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the unique codes, sorted. Clears `pending` early, because memory use peaks here."""
    merged = np.concatenate([codes, *pending])
    pending.clear()
    merged.sort()
    unique: NDArray[np.int64] = merged[np.append(True, merged[1:] != merged[:-1])[: len(merged)]]
    return unique


def _random_masks() -> NDArray[np.uint64]:
    """Return the random bit masks for the horizontal and vertical hashes: uint64 (N_MASKS, 2)."""
    rng = np.random.default_rng(0)
    bits = np.zeros((N_MASKS, 128), np.uint8)
    for row in bits:
        row[rng.choice(128, MASK_BITS, replace=False)] = 1
    return np.packbits(bits, axis=1).view(np.uint64)


def _neighbor_pairs(
    keys: NDArray[np.uint64], rows: NDArray[np.intp], horizontal: NDArray[np.uint64], vertical: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the codes of close pairs with equal keys, at most MAX_NEIGHBOR_DISTANCE positions apart; `keys` must be sorted."""
    codes, first = [np.zeros(0, np.int64)], np.arange(len(rows))
    for distance in range(1, MAX_NEIGHBOR_DISTANCE + 1):
        first = first[first + distance < len(rows)]
        first = first[keys[first] == keys[first + distance]]
        if not len(first):
            break
        a, b = rows[first], rows[first + distance]
        hamming = hamming_distances(horizontal, vertical, a, b)
        a, b = a[hamming <= MAX_HAMMING], b[hamming <= MAX_HAMMING]
        codes.append(np.minimum(a, b) * len(horizontal) + np.maximum(a, b))
    return np.concatenate(codes)


def verify_pairs(
    pairs: Pairs,
    pictures: Callable[[NDArray[np.intp]], Iterable[GrayArray]],
    are_same: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.bool_]],
    side: int = THUMBNAIL_SIDE,
) -> Pairs:
    """Return the pairs of the same picture, in their original order.

    Pairs that earlier pairs already connect are skipped without verification: for a thousand copies of one image, a few
    thousand pairs are enough instead of half a million.

    Args:
        pictures: returns the gray pictures of the given rows, float32 (side, side) each, in order. Called once, with unique
            rows.
        are_same: tells which of n pairs of pictures, uint8 (n, side, side), are the same: bool (n,).
    """
    if not len(pairs):
        return pairs
    required = np.zeros(pairs.max() + 1, bool)
    required[pairs] = True
    rows, index_of = np.flatnonzero(required), required.cumsum(dtype=np.int32) - 1
    # On disk: in the worst case every image is in a candidate pair, and a million thumbnails of 32 pixels are a gigabyte.
    with tempfile.TemporaryFile() as file:
        for picture in pictures(rows):
            file.write(to_bytes(picture).tobytes())
        file.flush()
        stored = np.memmap(file, np.uint8, "r", shape=(len(rows), side, side))
        components, verified = UnionFind(len(rows)), []
        for start in range(0, len(pairs), BLOCK_SIZE):
            block = pairs[start : start + BLOCK_SIZE]
            block = block[components.separate(*index_of[block].T)]
            block = block[are_same(*(stored[indices] for indices in index_of[block].T))]
            components.union(index_of[block].tolist())
            verified.append(block)
    return np.concatenate(verified)


class UnionFind:
    """Disjoint sets of n items (union-find): a forest of parent pointers."""

    def __init__(self, n: int) -> None:
        self._parents = np.arange(n)

    def separate(self, one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which pairs are in different sets, bool (n,)."""
        separate: NDArray[np.bool_] = self._find(one) != self._find(other)
        return separate

    def _find(self, items: NDArray[np.integer]) -> NDArray[np.intp]:
        roots: NDArray[np.intp] = self._parents[items]
        while (below_root := self._parents[roots] != roots).any():
            roots[below_root] = self._parents[roots[below_root]]
        self._parents[items] = roots  # path compression
        return roots

    def union(self, pairs: Iterable[Sequence[int]]) -> None:
        """Merge the sets of each pair."""
        for a, b in pairs:
            self._parents[self._find_one(b)] = self._find_one(a)

    def _find_one(self, item: int) -> int:
        while (parent := int(self._parents[item])) != item:
            self._parents[item] = self._parents[parent]  # path halving
            item = parent
        return item


def is_same_image(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of n thumbnail pairs, uint8 (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE), show the same image.

    The correlation ignores brightness and contrast. Measured: re-encoded photos at half the resolution correlate with >= 0.99
    (high-pass filtered: >= 0.95), the most similar of 1,500 images of clothes with 0.988 (high-pass filtered: 0.938). So the
    high-pass correlation separates copies from similar images.
    """
    a, b = one.astype(np.float32), other.astype(np.float32)
    same: NDArray[np.bool_] = _correlation(a, b) >= MIN_CORRELATION
    same[same] = _correlation(_high_pass(a[same]), _high_pass(b[same])) >= MIN_DETAIL_CORRELATION
    return same


def _high_pass(images: GrayArray) -> GrayArray:
    """High-pass filter images (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""
    detail: GrayArray = images - smooth(images, BINOMIAL_5)
    return detail


def _correlation(one: GrayArray, other: GrayArray) -> GrayArray:
    """Return the Pearson correlation of each of n image pairs (n, H, W); 0 if an image is constant."""
    a, b = (images - images.mean(axis=(1, 2), keepdims=True) for images in (one, other))
    norm = np.sqrt(_dot(a, a) * _dot(b, b))
    covariance = _dot(a, b)
    correlation: GrayArray = np.divide(covariance, norm, out=np.zeros_like(covariance), where=norm > 1e-3)
    return correlation


def _dot(one: GrayArray, other: GrayArray) -> GrayArray:
    product: GrayArray = np.einsum("nhw,nhw->n", one, other)
    return product


def connected_components(pairs: Iterable[tuple[T, T]]) -> list[list[T]]:
    """Return the connected components with two or more items, in order of first appearance."""
    parents: dict[T, T] = {}

    def find(item: T) -> T:
        while (parent := parents.setdefault(item, item)) != item:
            parents[item] = parents[parent]  # path halving
            item = parent
        return item

    for a, b in pairs:
        parents[find(b)] = find(a)
    components: dict[T, list[T]] = defaultdict(list)
    for item in parents:
        components[find(item)].append(item)
    return list(components.values())
