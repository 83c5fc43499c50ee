"""Checks of what is in a package's data files: that they fit the manifest and each other, and that clients may get them.

Loading a model runs all of them, so that a bad package is refused at the start and never at a request. Imports only numpy.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError
from .imaging.header_parsers import read_jpeg
from .package_arrays import ContentError, read_weights_header

MAX_GOLDEN = 8  # golden images
MAX_NEIGHBORS = 5_000
MAX_VECTOR_VALUES = 4_000_000  # of all neighbors: 8 MB of a package, half a millisecond of every request
MAX_INDEX_BYTES = 2**24  # of the paths and labels of the neighbors
MAX_PATH = 4_096  # characters
MAX_THUMBNAIL_SIDE = 96  # pixels
MAX_THUMBNAIL_BYTES = 4_096  # so that 3,000 of them stay below 12 MB
MAX_LENGTH_ERROR = 0.01  # of a vector of length 1, rounded to float16


class Index(NamedTuple):
    """What a package says of its neighbors.

    Attributes:
        labels: the label indices of each image.
        paths: of each image.
    """

    labels: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]


def check_golden(n_images: int, logits: NDArray[np.float32]) -> None:
    """Checks the logits (N, C) of the golden images. Raises ContentError."""
    if n_images != len(logits) or not 1 <= n_images <= MAX_GOLDEN:
        raise ContentError(f"has {n_images:,} images and {len(logits):,} rows of logits; expected: as many, 1 to {MAX_GOLDEN}")
    if not np.isfinite(logits).all():
        raise ContentError("has logits that are not finite")


def parse_index(encoded: bytes) -> Index:
    """The labels and paths of the neighbors, from JSON. Raises ContentError."""
    if len(encoded) > MAX_INDEX_BYTES:
        raise ContentError(f"has an index of {len(encoded):,} bytes; the most is {MAX_INDEX_BYTES:,}")
    try:
        fields = json.loads(encoded)
    except (ValueError, RecursionError):
        raise ContentError("has an index that is not JSON") from None
    labels, paths = (fields.get(name) if isinstance(fields, dict) else None for name in ("labels", "paths"))
    if not isinstance(labels, list) or not isinstance(paths, list):
        raise ContentError("has an index without a list of labels and a list of paths")
    if not all(isinstance(row, list) and all(type(label) is int for label in row) for row in labels):
        raise ContentError("has labels that are not lists of whole numbers")
    if not all(isinstance(path, str) and len(path) <= MAX_PATH and _is_unicode(path) for path in paths):
        raise ContentError(f"has paths that are not text of at most {MAX_PATH:,} characters")
    return Index(tuple(map(tuple, labels)), tuple(paths))


def check_neighbors(vectors: NDArray[np.float32], index: Index, n_labels: int, width: int, k: int) -> None:
    """Checks the neighbors of a model with `n_labels` labels and feature vectors of length `width`.

    Args:
        vectors: (M, D).
        k: of the outlier score; the fewest neighbors.

    Raises:
        ContentError: if they do not belong to this model, or contradict each other.
    """
    n_vectors, found_width = vectors.shape
    if found_width != width or n_vectors < k:
        raise ContentError(f"has {n_vectors} vectors of width {found_width}; expected: at least {k} of width {width}")
    if n_vectors > MAX_NEIGHBORS or vectors.size > MAX_VECTOR_VALUES:
        raise ContentError(f"has {n_vectors:,} vectors; the most are {min(MAX_NEIGHBORS, MAX_VECTOR_VALUES // width):,}")
    if not len(index.labels) == len(index.paths) == n_vectors:
        counts = f"{n_vectors:,} vectors, {len(index.labels):,} labels and {len(index.paths):,} paths"
        raise ContentError(f"has {counts}; expected: as many of each")
    if not all(0 <= label < n_labels for row in index.labels for label in row):
        raise ContentError(f"has labels outside 0 to {n_labels - 1}, those of the manifest")
    lengths = np.linalg.norm(vectors, axis=1)
    if not (lengths <= 1 + MAX_LENGTH_ERROR).all():  # not >, so that NaN is found; shorter ones are of blank images
        raise ContentError("has vectors that are not of length 1")


def check_thumbnails(files: Sequence[bytes], n_expected: int) -> None:
    """Checks the thumbnails of `n_expected` neighbors: small JPEG files, or nothing. Raises ContentError."""
    if len(files) != n_expected:
        raise ContentError(f"has {len(files)} thumbnails; expected: {n_expected}")
    for row, file in enumerate(files):
        if file and (problem := _thumbnail_problem(file)):
            raise ContentError(f"has a thumbnail that {problem}: number {row}")


def check_weights(path: Path, head_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks a safetensors file: its header, and the shapes and values of the head.

    Args:
        head_shapes: by the names of the head's tensors.

    Raises:
        ContentError: if the header does not describe exactly the bytes of the file, or the head is another one's.
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        tensors, start = read_weights_header(file, n_bytes)
        for name, shape in head_shapes.items():
            if name not in tensors:
                raise ContentError(f"does not contain the head: {name} is missing")
            tensor = tensors[name]
            if tensor.dtype != "F32" or tensor.shape != shape:
                raise ContentError(f"has {name} of {tensor.dtype} and shape {tensor.shape}; expected: F32 and {shape}")
            file.seek(start + tensor.start)
            values = np.frombuffer(file.read(tensor.end - tensor.start), "<f4")
            if not np.isfinite(values).all():
                raise ContentError(f"has values in {name} that are not finite")
            if name == "head.offset" and not (values > 0).all():
                raise ContentError(f"has values in {name} that are not above 0")


def _thumbnail_problem(file: bytes) -> str:
    if len(file) > MAX_THUMBNAIL_BYTES:
        return f"has {len(file):,} bytes, more than {MAX_THUMBNAIL_BYTES:,}"
    try:
        header = read_jpeg(file) if file.startswith(b"\xff\xd8\xff") else None
    except (ImageError, struct.error, IndexError):
        header = None
    if header is None:
        return "is not a JPEG file"
    if not 1 <= min(header.width, header.height) <= max(header.width, header.height) <= MAX_THUMBNAIL_SIDE:
        return f"has {header.width}x{header.height} pixels, more than {MAX_THUMBNAIL_SIDE}x{MAX_THUMBNAIL_SIDE}"
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
