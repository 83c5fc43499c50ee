"""Nearest neighbors among the training images: out-of-distribution scores and similar images. No engine, no HTTP.

Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors".
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..package_arrays import ArraySpec, read_arrays, split_content
from ..package_contents import parse_index


class Neighbor(NamedTuple):
    """One training image, as the neighbor of a query image.

    Attributes:
        row: its index in `NeighborIndex` and `Thumbnails`.
        distance: cosine distance to the query image, in [0, 2].
    """

    row: int
    path: str
    labels: tuple[int, ...]
    distance: float


@dataclass(frozen=True)
class NeighborIndex:
    """The feature vectors, labels and paths of M training images.

    Attributes:
        vectors: float32 (M, D), L2-normalized.
        labels: the true labels of each image, each in [0, C).
        paths: of each image, relative to the data set's root.
    """

    vectors: NDArray[np.float32]
    labels: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]

    def distances(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosine distances, in [0, 2], of a vector (D,) to all M vectors."""
        # Not `@`, which starts BLAS threads. On a busy machine they compete with each other and with the network's threads.
        # Row by row in one thread, `vecdot` takes half the time of `einsum`.
        similarity: NDArray[np.float32] = np.vecdot(self.vectors, l2_normalize(vector))
        return 1 - similarity

    def outlier_score(self, vector: NDArray[np.float32], k: int) -> float:
        """The cosine distance of a vector (D,) to its k-th nearest neighbor, in [0, 2]; 1 <= k <= M."""
        return float(np.clip(np.partition(self.distances(vector), k - 1)[k - 1], 0, 2))

    def outlier_scores(self, vectors: NDArray[np.float32], k: int) -> NDArray[np.float64]:
        """The outlier scores of vectors (N, D): float64 (N,), identical to `outlier_score` of each."""
        return np.array([self.outlier_score(vector, k) for vector in vectors])

    def nearest(self, vector: NDArray[np.float32], k: int) -> list[Neighbor]:
        """The k nearest neighbors of a vector (D,), nearest first; all M if k > M."""
        distances = self.distances(vector)
        order = np.argsort(distances, kind="stable")[:k].tolist()
        return [Neighbor(row, self.paths[row], self.labels[row], float(np.clip(distances[row], 0, 2))) for row in order]

    def save(self, path: Path) -> None:
        """Writes an .npz file with float16 vectors. It contains only plain arrays, so that it can be read without pickle."""
        index = json.dumps({"labels": self.labels, "paths": self.paths}).encode()
        np.savez(path, vectors=self.vectors.astype(np.float16), index=np.frombuffer(index, np.uint8))

    @classmethod
    def load(cls, path: Path) -> "NeighborIndex":
        """Reads what `save` wrote. Raises ContentError if it is anything else."""
        arrays = read_arrays(path, {"vectors": ArraySpec("<f2", 2), "index": ArraySpec("|u1", 1)})
        index = parse_index(arrays["index"].tobytes())
        return cls(arrays["vectors"].astype(np.float32), index.labels, index.paths)


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of the training images in a `NeighborIndex`, in its order.

    Attributes:
        content: concatenated JPEG files.
        ends: int64 (M,), end offset of each file in the content; the previous offset if an image has no thumbnail.
    """

    content: bytes
    ends: NDArray[np.int64]

    @classmethod
    def from_jpegs(cls, jpegs: Iterable[bytes]) -> "Thumbnails":
        """Builds the thumbnails from one JPEG file per image; b"" if an image has none."""
        files = list(jpegs)
        return cls(b"".join(files), np.cumsum([len(file) for file in files], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes | None:
        """The JPEG file of one image; None if it has no thumbnail."""
        start = int(self.ends[row - 1]) if row else 0
        return self.content[start : int(self.ends[row])] or None

    def save(self, path: Path) -> None:
        """Writes an .npz file. It contains only plain arrays, so that it can be read without pickle."""
        np.savez(path, content=np.frombuffer(self.content, np.uint8), ends=self.ends)

    @classmethod
    def load(cls, path: Path) -> "Thumbnails":
        """Reads what `save` wrote. Raises ContentError if it is anything else."""
        arrays = read_arrays(path, {"content": ArraySpec("|u1", 1), "ends": ArraySpec("<i8", 1)})
        return cls.from_jpegs(split_content(arrays["content"], arrays["ends"]))


def l2_normalize(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scales vectors (..., D) to length 1. Zero vectors stay zero, at distance 1 from every vector."""
    norms = np.linalg.norm(vectors.astype(np.float32), axis=-1, keepdims=True)
    normalized: NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return normalized
