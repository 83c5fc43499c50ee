"""The head of a package: the last, linear layer of its network, from the weights file. No torch."""

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact, ArtifactError
from ..manifest import WEIGHTS
from ..package_arrays import checking
from ..package_contents import check_weights


def check_head(artifact: Artifact) -> None:
    """Checks the weights file and the shape of its head. Raises ArtifactError if it does not fit the manifest."""
    with checking(artifact, WEIGHTS):
        check_weights(artifact.weights, len(artifact.manifest.labels), artifact.manifest.backbone.head_width)


def load_head(artifact: Artifact) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (C, D) and bias (C,) of a package's head. Read from the weights, since their names in the graph may vary.

    Raises:
        ArtifactError: if the weights do not contain the head.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(artifact.weights, framework="numpy") as tensors:
            weight, bias = (tensors.get_tensor(f"head.{name}").astype(np.float64) for name in ("weight", "bias"))
    except SafetensorError as error:
        raise ArtifactError(f"{artifact.path / WEIGHTS} does not contain the head: {error}.") from None
    return weight, bias
