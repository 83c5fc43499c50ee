"""A network's outputs on labeled images. Data only, no metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.clusters import Clusters, cluster_ids
from graft.training.features.feature_arrays import Vectors


@dataclass(frozen=True)
class Predictions:
    """Outputs for N images that the network was not trained on, with their targets.

    Attributes:
        logits: float32 (N, C).
        vectors: float32 (N, D), the head's input; may be memory-mapped.
        targets: (N,), or (N, C) for multi-label data.
        clusters: int64 (N,), which images belong together, as `clusters.cluster_ids` numbers them.
    """

    logits: NDArray[np.float32]
    vectors: Vectors
    targets: Targets
    clusters: Clusters

    @classmethod
    def of(cls, logits: NDArray[np.float32], vectors: Vectors, dataset: Dataset, samples: Sequence[Sample]) -> "Predictions":
        """Pairs the outputs for samples, in the same order, with their targets and clusters."""
        return cls(logits, vectors, dataset.targets(samples), cluster_ids(samples))

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2
