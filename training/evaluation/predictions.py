"""A network's outputs on labelled images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.features.feature_arrays import Vectors


@dataclass(frozen=True)
class Answered:
    """What a network said of N images that it did not learn from, and what is true of them.

    Attributes:
        logits: float32 (N, C).
        vectors: float32 (N, D), what the head saw; perhaps still on disk.
        targets: (N,), or (N, C) where an image may have several labels.
    """

    logits: NDArray[np.float32]
    vectors: Vectors
    targets: Targets

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2
