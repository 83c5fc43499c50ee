"""Tells copies from similar pictures: two small gray pictures are aligned, then compared block by block. NumPy only.

A copy that was cropped, turned, framed or mirrored is the same picture after an affine map that is close to the identity, and a
watermark changes only some blocks of it. Two photos of one object differ in most blocks, or fit only after a larger move.
The map is found coarse to fine by Gauss-Newton steps of inverse compositional alignment (Baker & Matthews 2004), for many
pairs at once. A map is float32 (3, 3) and takes the coordinates of the first picture to those of the second, both in [-1, 1].
"""

import numpy as np
from numpy.typing import NDArray

from graft.training.data.near_duplicates import smooth, to_bytes

THUMBNAIL_SIDE = 16  # pixels: the coarsest level, which rejects most pairs
PICTURE_SIDE = 64  # pixels: the finest level
BATCH_SIZE = 64  # pairs to align at once: a few megabytes, which fit in the CPU cache
_COARSE_STEPS, _FINE_LEVELS = 10, ((32, 12), (64, 8))  # (side in pixels, Gauss-Newton steps)
_MAX_STEP = 0.2  # of an entry of the map
MAX_CHANGE = 0.5  # of an entry of the map from the identity; one that goes further starts again
INNER = 0.92  # of the half side: what lies outside is not compared, because a turn or a frame replaces it
FLAT_RANGE = 12.0  # gray levels: an outer row or column that varies less belongs to a frame
BLOCK_SIDE = 8  # pixels of the finest level
MIN_DETAIL = 4.0  # variance of a block's detail, in gray levels squared; less is noise
MIN_BLOCKS = 6  # blocks with detail, of 36; pictures with fewer, such as a bottle cap on a table, cannot be told apart
# Of the sharper picture of a pair, as `_sharpness` measures it. Photos have 0.5 or more, also after a blur. Enlarged pictures
# of 28 pixels have less than 0.46 in 99 % of the cases, and too little detail to tell copies from similar things.
MIN_SHARPNESS = 0.48
# Measured by benchmarks/near_copies.py. All are Pearson correlations: of the thumbnails, of the pictures, of the detail of the
# median block, and of the detail of the block at the first quartile. A move counts against a copy: the largest shift of the
# map, in half sides, and its anisotropy, the logarithm of the ratio of its scales along its two axes.
MIN_THUMBNAIL, MIN_PICTURE = 0.75, 0.8
MIN_MEDIAN, MIN_QUARTILE, SHIFT_WEIGHT, ANISOTROPY_WEIGHT = 0.65, 0.45, 3.0, 2.0
# A pair that agrees nearly everywhere may be moved further, for example by a crop from one side.
MIN_SURE_QUARTILE, SURE_SHIFT_WEIGHT, SURE_ANISOTROPY_WEIGHT = 0.86, 0.5, 0.5
_NARROW, _WIDE = (1, 2, 1), (1, 8, 28, 56, 70, 56, 28, 8, 1)  # binomial filters

Pictures = NDArray[np.float32]
Maps = NDArray[np.float32]
Bools = NDArray[np.bool_]


def to_thumbnail(gray: Pictures) -> NDArray[np.uint8]:
    """The thumbnail of a gray picture (H, H), uint8 (THUMBNAIL_SIDE, THUMBNAIL_SIDE); H is a multiple of THUMBNAIL_SIDE."""
    return to_bytes(_shrink(gray[None], THUMBNAIL_SIDE)[0])


def may_be_copies(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Bools:
    """Which of n pairs look like copies in small, bool (n,); rejects most pairs of different pictures at little cost.

    Args:
        one, other: gray thumbnails, uint8 (n, THUMBNAIL_SIDE, THUMBNAIL_SIDE).
    """
    a, b = one.astype(np.float32), other.astype(np.float32)
    likely: Bools = _align_thumbnails(a, b, _start(a, b))[1] >= MIN_THUMBNAIL
    return likely


def are_copies(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Bools:
    """Which of n pairs show the same picture, up to a crop, a small turn, a frame, a watermark, brightness and contrast.

    Args:
        one, other: gray pictures, uint8 (n, PICTURE_SIDE, PICTURE_SIDE).

    Returns:
        bool (n,).
    """
    if not len(one):
        return np.zeros(0, bool)
    a, b = one.astype(np.float32), other.astype(np.float32)
    maps, correlation = _align_thumbnails(_shrink(a, THUMBNAIL_SIDE), _shrink(b, THUMBNAIL_SIDE), _start(a, b))
    copies: Bools = (correlation >= MIN_THUMBNAIL) & (np.maximum(_sharpness(a), _sharpness(b)) >= MIN_SHARPNESS)
    if not copies.any():
        return copies
    a, b, maps = a[copies], b[copies], maps[copies]
    for side, n_steps in _FINE_LEVELS:
        maps = _align(_shrink(a, side), _shrink(b, side), maps, n_steps)
    copies[copies] = _agree(a, b, maps)
    return copies


def _align_thumbnails(one: Pictures, other: Pictures, start: Maps) -> tuple[Maps, NDArray[np.float32]]:
    """The maps of thumbnails, (n, 3, 3), and the correlation of the aligned thumbnails, (n,)."""
    maps = _align(one, other, start, _COARSE_STEPS)
    return maps, _correlate(one, *_warp(other, maps))


def _correlate(one: Pictures, warped: Pictures, inside: Pictures) -> NDArray[np.float32]:
    """The correlation of n pictures with aligned ones, as `_warp` returns them, (n,)."""
    product = _standardize(one, inside) * _standardize(warped, inside)
    correlation: NDArray[np.float32] = product.sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
    return correlation


def _start(one: Pictures, other: Pictures) -> Maps:
    """The maps that take what is inside of the frame of one picture to that of the other."""
    return _map_between(_content_boxes(one), _content_boxes(other))


def _content_boxes(pictures: Pictures) -> NDArray[np.float32]:
    """What is inside of a one-colored frame: left, right, top and bottom edge in [-1, 1], float32 (n, 4)."""
    edges = []
    for axis in (1, 2):  # a column varies along the rows, a row along the columns
        varies = np.ptp(pictures, axis=axis) > FLAT_RANGE
        n = varies.shape[1]
        any_varies = varies.any(axis=1)
        first = np.where(any_varies, varies.argmax(axis=1), 0)
        last = np.where(any_varies, n - varies[:, ::-1].argmax(axis=1), n)
        edges += [2 * first / n - 1, 2 * last / n - 1]
    return np.stack(edges, axis=1).astype(np.float32)


def _map_between(one: NDArray[np.float32], other: NDArray[np.float32]) -> Maps:
    """The maps that take one box of each pair to the other."""
    maps = np.tile(np.eye(3, dtype=np.float32), (len(one), 1, 1))
    for axis in (0, 1):
        low, high = 2 * axis, 2 * axis + 1
        scale = (other[:, high] - other[:, low]) / (one[:, high] - one[:, low])
        maps[:, axis, axis], maps[:, axis, 2] = scale, other[:, low] - scale * one[:, low]
    return _reset_extreme(maps)


def _reset_extreme(maps: Maps) -> Maps:
    """Replaces the maps that are no small displacement, as those of different pictures can be, by the identity."""
    identity = np.eye(3, dtype=np.float32)
    extreme = ~(np.abs(maps - identity).max(axis=(1, 2)) <= MAX_CHANGE)  # also if not a number
    maps[extreme] = identity
    return maps


def _align(one: Pictures, other: Pictures, maps: Maps, n_steps: int) -> Maps:
    """Improves the maps (n, 3, 3) of pictures (n, side, side) by Gauss-Newton steps."""
    one, other = smooth(one, _NARROW), smooth(other, _NARROW)
    n = len(one)
    jacobian = _jacobian(one)
    hessian = jacobian @ jacobian.transpose(0, 2, 1)
    damping = 1e-3 * np.trace(hessian, axis1=1, axis2=2) / 6 + 1e-6
    solve = np.linalg.inv(hessian + damping[:, None, None] * np.eye(6, dtype=np.float32)) @ jacobian
    for _ in range(n_steps):
        warped, inside = _warp(other, maps)
        # Clipped, so that a watermark or a frame does not outweigh the rest.
        error = np.clip(_standardize(warped, inside) - _standardize(one, inside), -1, 1) * inside
        change = np.clip((solve @ error.reshape(n, -1, 1))[:, :, 0], -_MAX_STEP, _MAX_STEP)
        step = np.tile(np.eye(3, dtype=np.float32), (n, 1, 1))
        step[:, :2] += change.reshape(n, 2, 3)
        maps = _reset_extreme(maps @ np.linalg.inv(step))
    return maps


def _jacobian(pictures: Pictures) -> NDArray[np.float32]:
    """The change of each standardized pixel with the six entries of a map, float32 (n, 6, side * side)."""
    n, side = pictures.shape[:2]
    spread = pictures.reshape(n, -1).std(axis=1)[:, None, None] + np.float32(1e-3)
    down, right = (gradient / spread for gradient in np.gradient(pictures, np.float32(2 / side), axis=(1, 2)))
    x, y = _coordinates(side)
    rows = [right * x, right * y, right, down * x, down * y, down]
    return np.stack(rows, axis=1).reshape(n, 6, -1).astype(np.float32)


def _coordinates(side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y of the pixel centers in [-1, 1], float32 (side, side) each."""
    centers = ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)
    x, y = np.meshgrid(centers, centers)
    return x, y


def _warp(pictures: Pictures, maps: Maps) -> tuple[Pictures, Pictures]:
    """Samples pictures (n, side, side) bilinearly where the maps say.

    Returns:
        The aligned pictures, and 1 at their pixels that are in the inner part of both pictures of the pair, else 0.
    """
    n, side = pictures.shape[:2]
    x, y = (coordinates.reshape(-1) for coordinates in _coordinates(side))
    mapped = maps[:, :2] @ np.stack([x, y, np.ones_like(x)])
    inside = np.maximum(np.abs(mapped).max(axis=1), np.maximum(np.abs(x), np.abs(y))) < INNER
    columns, rows = (np.clip(((mapped[:, axis] + 1) * side - 1) / 2, 0, np.float32(side - 1.001)) for axis in (0, 1))
    left, top = columns.astype(np.int32), rows.astype(np.int32)
    columns -= left
    rows -= top
    index = top * side + left + (np.arange(n, dtype=np.int32) * side * side)[:, None]
    flat = pictures.reshape(-1)
    upper, lower = flat[index], flat[index + side]
    upper += (flat[index + 1] - upper) * columns
    lower += (flat[index + side + 1] - lower) * columns
    upper += (lower - upper) * rows
    return upper.reshape(pictures.shape), inside.astype(np.float32).reshape(pictures.shape)


def _standardize(pictures: Pictures, weights: Pictures) -> Pictures:
    """Pictures (n, side, side) with mean 0 and variance 1 over the pixels of weight 1; the others are 0."""
    axes = (1, 2)
    total = weights.sum(axis=axes, keepdims=True) + np.float32(1e-6)
    centered: Pictures = (pictures - (pictures * weights).sum(axis=axes, keepdims=True) / total) * weights
    centered /= np.sqrt((centered * centered).sum(axis=axes, keepdims=True) / total) + np.float32(1e-3)
    return centered


def _agree(one: Pictures, other: Pictures, maps: Maps) -> Bools:
    """Whether the pictures of each pair are the same after the alignment, bool (n,)."""
    warped, inside = _warp(other, maps)
    median, quartile = _block_correlations(one, warped, inside)
    scales = np.linalg.svd(maps[:, :2, :2], compute_uv=False)
    anisotropy = np.log(scales[:, 0] / np.maximum(scales[:, 1], 1e-6))
    shift = np.abs(maps[:, :2, 2]).max(axis=1)
    penalty = SHIFT_WEIGHT * shift + ANISOTROPY_WEIGHT * anisotropy
    same = (median - penalty >= MIN_MEDIAN) & (quartile - penalty >= MIN_QUARTILE)
    sure = quartile - SURE_SHIFT_WEIGHT * shift - SURE_ANISOTROPY_WEIGHT * anisotropy >= MIN_SURE_QUARTILE
    agree: Bools = (same | sure) & (_correlate(one, warped, inside) >= MIN_PICTURE)
    return agree


def _block_correlations(one: Pictures, warped: Pictures, inside: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The correlation of the detail in the median block and in the one at the first quartile, (n,) each; -1 if too few."""
    detail = [_to_blocks(smooth(pictures, _NARROW) - smooth(pictures, _WIDE)) for pictures in (one, warped)]
    variances = [(blocks * blocks).mean(axis=2) for blocks in detail]
    correlation = (detail[0] * detail[1]).mean(axis=2) / np.sqrt(variances[0] * variances[1] + 1e-3)
    has_detail = (np.maximum(*variances) > MIN_DETAIL) & _to_blocks(inside).all(axis=2)
    n_blocks = has_detail.sum(axis=1)
    ordered = np.sort(np.where(has_detail, correlation, np.inf), axis=1)  # blocks without detail last
    median, quartile = (
        np.where(n_blocks >= MIN_BLOCKS, ordered[np.arange(len(one)), np.minimum(n_blocks // part, ordered.shape[1] - 1)], -1)
        for part in (2, 4)
    )
    return median, quartile


def _sharpness(pictures: Pictures) -> NDArray[np.float32]:
    """The power of the finest detail relative to that of the detail that is compared, (n,)."""
    narrow = smooth(pictures, _NARROW)
    power, fine_power = ((p * p).mean(axis=(1, 2)) for p in (narrow - smooth(pictures, _WIDE), pictures - narrow))
    sharpness: NDArray[np.float32] = fine_power / (power + np.float32(1e-3))
    return sharpness


def _to_blocks(pictures: Pictures) -> NDArray[np.float32]:
    """Cuts pictures (n, side, side) into blocks, (n, blocks, BLOCK_SIDE ** 2)."""
    n, n_across = len(pictures), pictures.shape[1] // BLOCK_SIDE
    cut = pictures.reshape(n, n_across, BLOCK_SIDE, n_across, BLOCK_SIDE)
    blocks: NDArray[np.float32] = cut.transpose(0, 1, 3, 2, 4).reshape(n, n_across**2, BLOCK_SIDE**2)
    return blocks


def _shrink(pictures: Pictures, side: int) -> Pictures:
    """Averages pictures (n, H, H) to (n, side, side); H is a multiple of side."""
    factor = pictures.shape[1] // side
    small: Pictures = pictures.reshape(len(pictures), side, factor, side, factor).mean(axis=(2, 4))
    return small
