"""Which images show the same: two hashes narrow the pairs down, thumbnails decide. Plain numpy.

A hash says where the picture gets brighter, from left to right (`across`) and from top to bottom (`down`), in 64 bits
each (dHash). A slope of at most two grey levels counts as none, so that the noise of a clear sky says nothing.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels of the square thumbnail that hashes are made of and pairs are judged by
SLOPE = 2.0  # grey levels
FAR = 8  # bits of 128: of 7,000 copies made smaller, brighter or poorer, 99 % differ in fewer; unlike photos, in 23 and more
MASKS, MASK_BITS = 48, 24  # random subsets of the bits: two hashes 8 bits apart agree on one with 99.99 %
WITHIN = 32  # a hash is compared with the next 32 that agree on a subset
TELLING = 12  # slopes of 128; seen: 99.9 % of pictures of clothes, animals and things have 15 and more
CROWD = 64  # a hash that has met so many like it is compared no further
MOST_PENDING = 1_000_000  # pairs found but not yet told apart
BLOCK = 512  # pairs judged at once: a few megabytes, which stay in a processor's cache
LIKE, LIKE_IN_DETAIL = 0.98, 0.95  # correlations; see `_same`

Grey = NDArray[np.float32]
Pairs = NDArray[np.int32]
T = TypeVar("T", bound=Hashable)


def _shares(n_cells: int) -> Grey:
    """How much each of SIDE pixels counts for each of `n_cells` equal cells: (n_cells, SIDE), rows summing to 1."""
    edges = np.linspace(0, SIDE, n_cells + 1)[:, None]
    left, right = np.maximum(edges[:-1], np.arange(SIDE)), np.minimum(edges[1:], np.arange(1, SIDE + 1))
    shares: Grey = (np.maximum(right - left, 0) * n_cells / SIDE).astype(np.float32)
    return shares


def _smoothing() -> Grey:
    """Binomial smoothing of a row of SIDE pixels as a matrix; the outermost pixels continue beyond the edge."""
    matrix = np.zeros((SIDE, SIDE), np.float32)
    for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        matrix[np.arange(SIDE), np.clip(np.arange(SIDE) + offset, 0, SIDE - 1)] += np.float32(weight / 16)
    return matrix


_EIGHT, _NINE, _SMOOTH = _shares(8), _shares(9), _smoothing()
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)  # odd: different bits stay different
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grey_of(pixels: NDArray[np.uint8]) -> Grey:
    """The brightness of RGB pixels (..., 3), float32."""
    return pixels.astype(np.float32) @ _LUMA


def hash_of(grey: Grey) -> tuple[int, int]:
    """`across` and `down` of a thumbnail (SIDE, SIDE), 64 bits each."""
    across = np.diff(_EIGHT @ grey @ _NINE.T, axis=1) > SLOPE
    down = np.diff(_NINE @ grey @ _EIGHT.T, axis=0) > SLOPE
    return tuple(int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in (across, down))  # type: ignore[return-value]


def candidates(across: NDArray[np.uint64], down: NDArray[np.uint64]) -> Pairs:
    """Rows whose hashes differ in at most FAR of their 128 bits, (P, 2), each pair once, the smaller row first.

    Never compares all with all: hashes that agree on one of MASKS random subsets of the bits become neighbours by
    sorting, and each is compared with the next WITHIN of those only. A hash of fewer than TELLING slopes is like too
    many others to tell anything, and one that has met CROWD others is compared no further.
    """
    n = max(1, len(across))  # a pair is one number: first row * n + second row
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
    """All codes once and sorted; `pending` is emptied as soon as it is not needed, for this is where the memory peaks."""
    every = np.concatenate([codes, *pending])
    pending.clear()
    every.sort()
    once: NDArray[np.int64] = every[np.append(True, every[1:] != every[:-1])[: len(every)]]
    return once


def _masks() -> NDArray[np.uint64]:
    """(MASKS, 2): which bits of `across` and of `down` a subset holds."""
    random = np.random.default_rng(0)
    bits = np.zeros((MASKS, 128), np.uint8)
    for row in bits:
        row[random.choice(128, MASK_BITS, replace=False)] = 1
    return np.packbits(bits, axis=1).view(np.uint64)


def _neighbours(
    keys: NDArray[np.uint64], rows: NDArray[np.intp], across: NDArray[np.uint64], down: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Codes of pairs of rows with one key that are close, and at most WITHIN places apart; the keys are sorted."""
    found, first = [np.zeros(0, np.int64)], np.arange(len(rows))
    for distance in range(1, WITHIN + 1):
        first = first[first + distance < len(rows)]
        first = first[keys[first] == keys[first + distance]]
        if not len(first):
            break
        one, other = rows[first], rows[first + distance]
        apart = np.bitwise_count(across[one] ^ across[other]) + np.bitwise_count(down[one] ^ down[other])
        one, other = one[apart <= FAR], other[apart <= FAR]
        found.append(np.minimum(one, other) * len(across) + np.maximum(one, other))
    return np.concatenate(found)


def judged(pairs: Pairs, thumbnails: Callable[[NDArray[np.intp]], Iterable[Grey]]) -> Pairs:
    """The pairs whose thumbnails really show the same, in their order.

    A pair that earlier ones connect already, directly or through others, is left out unjudged: of a thousand copies of one
    picture a few thousand pairs tell all that half a million would.

    Args:
        thumbnails: gives those of some rows, float32 (SIDE, SIDE) each, in order; asked once, for each row once.
    """
    if not len(pairs):
        return pairs
    wanted = np.zeros(pairs.max() + 1, bool)
    wanted[pairs] = True
    rows, place = np.flatnonzero(wanted), wanted.cumsum(dtype=np.int32) - 1
    # On disk: in the worst case every image looks a little like another, and a million thumbnails are a gigabyte.
    with tempfile.TemporaryFile() as file:
        for thumbnail in thumbnails(rows):
            file.write(np.clip(thumbnail + 0.5, 0, 255).astype(np.uint8).tobytes())
        file.flush()
        stored = np.memmap(file, np.uint8, "r", shape=(len(rows), SIDE, SIDE))
        kin, found = Kin(len(rows)), []
        for start in range(0, len(pairs), BLOCK):
            block = pairs[start : start + BLOCK]
            block = block[kin.apart(*place[block].T)]
            block = block[_same(*(stored[each] for each in place[block].T))]
            kin.join(place[block].tolist())
            found.append(block)
    return np.concatenate(found)


class Kin:
    """Which of n items hang together, as pairs of them come in: a forest in which every item points at one above it."""

    def __init__(self, n: int) -> None:
        self._above = np.arange(n)

    def apart(self, one: NDArray[np.integer], other: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of the pairs do not hang together yet, (n,)."""
        apart: NDArray[np.bool_] = self._tops(one) != self._tops(other)
        return apart

    def _tops(self, items: NDArray[np.integer]) -> NDArray[np.intp]:
        tops: NDArray[np.intp] = self._above[items]
        while (higher := self._above[tops] != tops).any():
            tops[higher] = self._above[tops[higher]]
        self._above[items] = tops  # the next who asks has it near
        return tops

    def join(self, pairs: Iterable[Sequence[int]]) -> None:
        """Lets pairs hang together."""
        for one, other in pairs:
            self._above[self._top(other)] = self._top(one)

    def _top(self, item: int) -> int:
        while (higher := int(self._above[item])) != item:
            self._above[item] = self._above[higher]
            item = higher
        return item


def _same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each of n pairs of thumbnails, uint8 (n, SIDE, SIDE), shows the same; brightness and contrast do not count.

    Seen: re-encoded and halved photos correlate with 0.99 and more (0.95 in detail, smoothing taken away), the two most
    alike of 1,500 pictures of clothes with 0.988 (0.938 in detail). So it is detail that tells kin from copies.
    """
    a, b = one.astype(np.float32), other.astype(np.float32)
    alike: NDArray[np.bool_] = _correlation(a, b) >= LIKE
    alike[alike] = _correlation(_detail(a[alike]), _detail(b[alike])) >= LIKE_IN_DETAIL
    return alike


def _detail(pictures: Grey) -> Grey:
    """What smoothing takes away from pictures (n, SIDE, SIDE)."""
    detail: Grey = pictures - np.matmul(np.matmul(_SMOOTH, pictures), _SMOOTH.T)
    return detail


def _correlation(one: Grey, other: Grey) -> Grey:
    """Of each of n pairs of pictures (n, H, W); 0 where one has a single brightness."""
    a, b = (each - each.mean(axis=(1, 2), keepdims=True) for each in (one, other))
    spread = np.sqrt(_product(a, a) * _product(b, b))
    product = _product(a, b)
    correlation: Grey = np.divide(product, spread, out=np.zeros_like(product), where=spread > 1e-3)
    return correlation


def _product(one: Grey, other: Grey) -> Grey:
    product: Grey = np.einsum("nhw,nhw->n", one, other)
    return product


def clusters(pairs: Iterable[tuple[T, T]]) -> list[list[T]]:
    """What hangs together, directly or through others: groups of two and more, in order of first appearance."""
    above: dict[T, T] = {}

    def top(item: T) -> T:
        while (higher := above.setdefault(item, item)) != item:
            above[item] = above[higher]  # halves the way for the next who asks
            item = higher
        return item

    for one, other in pairs:
        above[top(other)] = top(one)
    groups: dict[T, list[T]] = defaultdict(list)
    for item in above:
        groups[top(item)].append(item)
    return list(groups.values())
