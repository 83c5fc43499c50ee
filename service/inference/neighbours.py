"""Training images that an answer can be compared with: how unlike all of them is this one, and which are like it?

Numpy only.

Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors".
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Near(NamedTuple):
    """One training image, as seen from another image.

    Attributes:
        row: of it among the neighbours, and among their thumbnails.
        distance: the cosine distance, in [0, 2].
    """

    row: int
    path: str
    labels: tuple[int, ...]
    distance: float


@dataclass(frozen=True)
class Neighbours:
    """What the network saw in images that it learned from.

    Attributes:
        vectors: float32 (M, D), of length 1.
        labels: of each, those that are true of it, each in [0, C).
        paths: of each, below the root of the data set.
    """

    vectors: NDArray[np.float32]
    labels: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]

    def distances(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """The cosine distance, in [0, 2], of a vector (D,) to each of the M."""
        # Not `@`: that starts BLAS's threads, which on a busy machine wait for each other and for the network's.
        likeness: NDArray[np.float32] = np.einsum("md,d->m", self.vectors, unit(vector))
        return 1 - likeness

    def outlier_score(self, vector: NDArray[np.float32], k: int) -> float:
        """The cosine distance of a vector (D,) to the k-th nearest, in [0, 2]; 1 <= k <= M."""
        return float(np.clip(np.partition(self.distances(vector), k - 1)[k - 1], 0, 2))

    def outlier_scores(self, vectors: NDArray[np.float32], k: int) -> NDArray[np.float64]:
        """The score of each of many vectors (N, D): float64 (N,), the very numbers that `outlier_score` gives."""
        return np.array([self.outlier_score(vector, k) for vector in vectors])

    def nearest(self, vector: NDArray[np.float32], k: int) -> list[Near]:
        """The k most like a vector (D,), nearest first; all of them if k > M."""
        distances = self.distances(vector)
        order = np.argsort(distances, kind="stable")[:k].tolist()
        return [Near(row, self.paths[row], self.labels[row], float(np.clip(distances[row], 0, 2))) for row in order]

    def save(self, path: Path) -> None:
        """Writes the .npz, vectors as float16; plain arrays only, so that it can be read without pickle."""
        index = json.dumps({"labels": self.labels, "paths": self.paths}).encode()
        np.savez(path, vectors=self.vectors.astype(np.float16), index=np.frombuffer(index, np.uint8))

    @classmethod
    def load(cls, path: Path) -> "Neighbours":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            vectors, index = arrays["vectors"].astype(np.float32), json.loads(arrays["index"].tobytes())
        return cls(vectors, tuple(tuple(labels) for labels in index["labels"]), tuple(index["paths"]))


@dataclass(frozen=True)
class Thumbnails:
    """The neighbours as small pictures, in their order.

    Attributes:
        content: JPEG files, one behind the other.
        ends: int64 (M,), where in the content each of them ends; of a neighbour without a picture, where the one before did.
    """

    content: bytes
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, pictures: Iterable[bytes]) -> "Thumbnails":
        """One JPEG for each neighbour; b"" for one without a picture."""
        kept = list(pictures)
        return cls(b"".join(kept), np.cumsum([len(picture) for picture in kept], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes | None:
        """The JPEG of one neighbour, None if it has no picture."""
        begin = int(self.ends[row - 1]) if row else 0
        return self.content[begin : int(self.ends[row])] or None

    def save(self, path: Path) -> None:
        """Writes the .npz; plain arrays only, so that it can be read without pickle."""
        np.savez(path, content=np.frombuffer(self.content, np.uint8), ends=self.ends)

    @classmethod
    def load(cls, path: Path) -> "Thumbnails":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["content"].tobytes(), arrays["ends"])


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Vectors (..., D) at length 1; those of length 0 stay what they are, at distance 1 from everything."""
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled
