"""Near-duplicate detection: perceptual hashes find candidate pairs, thumbnail correlation verifies them. NumPy only.

The hash is dHash: 64 bits for the horizontal and 64 bits for the vertical brightness gradients. A gradient of at most two
gray levels counts as flat, so that noise in a uniform area, such as a clear sky, sets no bits.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels: side of the square thumbnail that is hashed and compared
SLOPE = 2.0  # gray levels: larger gradients set a bit
# Measured: 99% of 7,000 resized, brightened or recompressed copies differ in fewer bits, distinct photos in 23 or more.
FAR = 8  # of 128 bits
# Random bit subsets: two hashes with Hamming distance 8 agree on at least one of them with probability 99.99%.
MASKS, MASK_BITS = 48, 24
WITHIN = 32  # a hash is compared with the next 32 hashes that agree on a subset
TELLING = 12  # of 128; measured: 99.9% of images of clothes, animals and objects have 15 or more
CROWD = 64  # a hash with this many candidate pairs is not compared further
MOST_PENDING = 1_000_000  # candidate pairs collected before duplicates are removed
BLOCK = 512  # pairs verified at once: a few megabytes, which fit in the CPU cache
LIKE, LIKE_IN_DETAIL = 0.98, 0.95  # Pearson correlations; see `_is_same_image`

Grey = NDArray[np.float32]
Pairs = NDArray[np.int32]
T = TypeVar("T", bound=Hashable)


def _shares(n_cells: int) -> Grey:
    """Return the weights that average THUMBNAIL_SIDE pixels to `n_cells` cells: (n_cells, THUMBNAIL_SIDE), rows sum to 1."""
    edges = np.linspace(0, SIDE, n_cells + 1)[:, None]
    left, right = np.maximum(edges[:-1], np.arange(SIDE)), np.minimum(edges[1:], np.arange(1, SIDE + 1))
    weights: Grey = (np.maximum(right - left, 0) * n_cells / SIDE).astype(np.float32)
    return weights


def _smoothing() -> Grey:
    """Return the matrix of a 5-tap binomial filter with edge padding: (THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""
    matrix = np.zeros((SIDE, SIDE), np.float32)
    for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        matrix[np.arange(SIDE), np.clip(np.arange(SIDE) + offset, 0, SIDE - 1)] += np.float32(weight / 16)
    return matrix


_EIGHT, _NINE, _SMOOTH = _shares(8), _shares(9), _smoothing()
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd multipliers are bijective modulo 2**64
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grey_of(pixels: NDArray[np.uint8]) -> Grey:
    """Convert RGB pixels, uint8 (..., 3), to luma, float32 (...)."""
    return pixels.astype(np.float32) @ _LUMA


def hash_of(grey: Grey) -> tuple[int, int]:
    """Return the horizontal and vertical dHash, 64 bits each, of a thumbnail (THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""
    horizontal = np.diff(_EIGHT @ grey @ _NINE.T, axis=1) > SLOPE
    vertical = np.diff(_NINE @ grey @ _EIGHT.T, axis=0) > SLOPE
    return tuple(int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in (horizontal, vertical))  # type: ignore[return-value]


def candidates(across: NDArray[np.uint64], down: NDArray[np.uint64]) -> Pairs:
    """Return the pairs of rows with a Hamming distance of at most MAX_HAMMING: (P, 2), each pair once, smaller row first.

    Locality-sensitive hashing instead of all pairs: for each of N_MASKS random bit subsets, rows are sorted by their masked
    hash, and each row is compared with the next MAX_NEIGHBOR_DISTANCE rows of the same key only. Hashes with fewer than
    MIN_SET_BITS set or unset bits match too many images and are skipped. A row with MAX_BUCKET pairs is not compared further.

    Args:
        horizontal, vertical: the two hashes of each image, uint64 (N,).
    """
    n = max(1, len(across))  # a pair is encoded as one integer: first row * n + second row
    n_set = np.bitwise_count(across) + np.bitwise_count(down)
    rows = np.flatnonzero((n_set >= TELLING) & (n_set <= 128 - TELLING))
    codes = np.zeros(0, np.int64)
    pending = [codes]
    for mask in _masks():
        key = ((across[rows] & mask[0]) * _MIX[0]) ^ ((down[rows] & mask[1]) * _MIX[1])
        order = np.argsort(key)
        pending.append(_neighbours(key[order], rows[order], across, down))
        if sum(map(len, pending)) > MOST_PENDING:
            codes = _merged(codes, pending)
            rows = rows[(np.bincount(codes // n, minlength=n) + np.bincount(codes % n, minlength=n))[rows] < CROWD]
    codes = _merged(codes, pending)
    pairs = np.empty((len(codes), 2), np.int32)
    np.floor_divide(codes, n, out=pairs[:, 0], casting="same_kind")
    np.remainder(codes, n, out=pairs[:, 1], casting="same_kind")
    return pairs


def _merged(codes: NDArray[np.int64], pending: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the unique codes, sorted. Clears `pending` early, because memory use peaks here."""
    merged = np.concatenate([codes, *pending])
    pending.clear()
    merged.sort()
    unique: NDArray[np.int64] = merged[np.append(True, merged[1:] != merged[:-1])[: len(merged)]]
    return unique


def _masks() -> NDArray[np.uint64]:
    """Return the random bit masks for the horizontal and vertical hashes: uint64 (N_MASKS, 2)."""
    rng = np.random.default_rng(0)
    bits = np.zeros((MASKS, 128), np.uint8)
    for row in bits:
        row[rng.choice(128, MASK_BITS, replace=False)] = 1
    return np.packbits(bits, axis=1).view(np.uint64)


def _neighbours(
    keys: NDArray[np.uint64], rows: NDArray[np.intp], across: NDArray[np.uint64], down: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the codes of close pairs with equal keys, at most MAX_NEIGHBOR_DISTANCE positions apart; `keys` must be sorted."""
    codes, first = [np.zeros(0, np.int64)], np.arange(len(rows))
    for distance in range(1, WITHIN + 1):
        first = first[first + distance < len(rows)]
        first = first[keys[first] == keys[first + distance]]
        if not len(first):
            break
        a, b = rows[first], rows[first + distance]
        hamming = np.bitwise_count(across[a] ^ across[b]) + np.bitwise_count(down[a] ^ down[b])
        a, b = a[hamming <= FAR], b[hamming <= FAR]
        codes.append(np.minimum(a, b) * len(across) + np.maximum(a, b))
    return np.concatenate(codes)


def judged(pairs: Pairs, thumbnails: Callable[[NDArray[np.intp]], Iterable[Grey]]) -> Pairs:
    """Return the pairs with matching thumbnails, in their original order.

    Pairs that earlier pairs already connect are skipped without verification: for a thousand copies of one image, a few
    thousand pairs are enough instead of half a million.

    Args:
        thumbnails: returns the thumbnails of the given rows, float32 (THUMBNAIL_SIDE, THUMBNAIL_SIDE) each, in order. Called
            once, with unique rows.
    """
    if not len(pairs):
        return pairs
    required = np.zeros(pairs.max() + 1, bool)
    required[pairs] = True
    rows, index_of = np.flatnonzero(required), required.cumsum(dtype=np.int32) - 1
    # On disk: in the worst case every image is in a candidate pair, and a million thumbnails are a gigabyte.
    with tempfile.TemporaryFile() as file:
        for thumbnail in thumbnails(rows):
            file.write(np.clip(thumbnail + 0.5, 0, 255).astype(np.uint8).tobytes())
        file.flush()
        stored = np.memmap(file, np.uint8, "r", shape=(len(rows), SIDE, SIDE))
        components, verified = Kin(len(rows)), []
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            block = block[components.apart(*index_of[block].T)]
            block = block[_same(*(stored[indices] for indices in index_of[block].T))]
            components.join(index_of[block].tolist())
            verified.append(block)
    return np.concatenate(verified)


class Kin:
    """Disjoint sets of n items (union-find): a forest of parent pointers."""

    def __init__(self, n: int) -> None:
        self._above = np.arange(n)

    def apart(self, one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which pairs are in different sets, bool (n,)."""
        separate: NDArray[np.bool_] = self._tops(one) != self._tops(other)
        return separate

    def _tops(self, items: NDArray[np.integer]) -> NDArray[np.intp]:
        roots: NDArray[np.intp] = self._above[items]
        while (below_root := self._above[roots] != roots).any():
            roots[below_root] = self._above[roots[below_root]]
        self._above[items] = roots  # path compression
        return roots

    def join(self, pairs: Iterable[Sequence[int]]) -> None:
        """Merge the sets of each pair."""
        for a, b in pairs:
            self._above[self._top(b)] = self._top(a)

    def _top(self, item: int) -> int:
        while (parent := int(self._above[item])) != item:
            self._above[item] = self._above[parent]  # path halving
            item = parent
        return item


def _same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of n thumbnail pairs, uint8 (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE), show the same image.

    The correlation ignores brightness and contrast. Measured: re-encoded photos at half the resolution correlate with >= 0.99
    (high-pass filtered: >= 0.95), the most similar of 1,500 images of clothes with 0.988 (high-pass filtered: 0.938). So the
    high-pass correlation separates copies from similar images.
    """
    a, b = one.astype(np.float32), other.astype(np.float32)
    same: NDArray[np.bool_] = _correlation(a, b) >= LIKE
    same[same] = _correlation(_detail(a[same]), _detail(b[same])) >= LIKE_IN_DETAIL
    return same


def _detail(pictures: Grey) -> Grey:
    """High-pass filter images (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""
    detail: Grey = pictures - np.matmul(np.matmul(_SMOOTH, pictures), _SMOOTH.T)
    return detail


def _correlation(one: Grey, other: Grey) -> Grey:
    """Return the Pearson correlation of each of n image pairs (n, H, W); 0 if an image is constant."""
    a, b = (images - images.mean(axis=(1, 2), keepdims=True) for images in (one, other))
    norm = np.sqrt(_product(a, a) * _product(b, b))
    covariance = _product(a, b)
    correlation: Grey = np.divide(covariance, norm, out=np.zeros_like(covariance), where=norm > 1e-3)
    return correlation


def _product(one: Grey, other: Grey) -> Grey:
    product: Grey = np.einsum("nhw,nhw->n", one, other)
    return product


def clusters(pairs: Iterable[tuple[T, T]]) -> list[list[T]]:
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
