"""A network's outputs on labeled images. Data only, no metrics."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.features.feature_arrays import Vectors


@dataclass(frozen=True)
class Predictions:
    """Outputs for N images that the network was not trained on, with their targets.

    Attributes:
        logits: float32 (N, C).
        vectors: float32 (N, D), the head's input; may be memory-mapped.
        targets: (N,), or (N, C) for multi-label data.
    """

    logits: NDArray[np.float32]
    vectors: Vectors
    targets: Targets

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2
