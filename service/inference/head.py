"""The head of a package: a linear layer, optionally with an RBF kernel machine beside it. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact, ArtifactError
from ..manifest import HEAD
from ..package_arrays import checking
from ..package_contents import check_weights

Array = NDArray[Any]  # float32 or float64, all arrays of a head alike


@dataclass(frozen=True)
class Kernel:
    """An RBF kernel machine: `logits = exp(-|axes - centers|^2) @ coefficients.T`, for D inputs, A axes and M centers.

    The axes are a projection of the inputs' square roots, which show differences between small values of a feature.

    Attributes:
        offset: (D,), above 0, of `signed_roots`.
        projection: (A, D); divided by the kernel's width.
        shift: (A,).
        centers: (M, A), the training images on these axes.
        coefficients: (C, M).
    """

    offset: Array
    projection: Array
    shift: Array
    centers: Array
    coefficients: Array

    def axes(self, inputs: Array) -> Array:
        """The inputs (N, D) on the axes, (N, A)."""
        projected: Array = signed_roots(inputs, self.offset) @ self.projection.T + self.shift
        return projected

    def __call__(self, inputs: Array) -> Array:
        """Logits (N, C) of inputs (N, D)."""
        return similarities(self.axes(inputs), self.centers) @ self.coefficients.T

    def gradient(self, inputs: Array, label: int) -> Array:
        """The gradient (D,) of a logit with respect to one image's inputs (D,)."""
        [axes] = self.axes(inputs[None])
        [near] = similarities(axes[None], self.centers)
        # Of exp(-|a - c|^2): -2 (a - c) exp(-|a - c|^2).
        by_axis = 2 * (self.coefficients[label] * near) @ (self.centers - axes)
        gradient: Array = (by_axis @ self.projection) / (2 * np.sqrt(np.abs(inputs) + self.offset))
        return gradient


@dataclass(frozen=True)
class Head:
    """A head: `logits = inputs @ weight.T + bias`, plus the logits of a kernel machine if there is one.

    Attributes:
        weight: (C, D), for raw features: a standardization is folded in.
        bias: (C,).
    """

    weight: Array
    bias: Array
    kernel: Kernel | None = None

    def __call__(self, inputs: Array) -> Array:
        """Logits (N, C) of inputs (N, D)."""
        linear: Array = inputs @ self.weight.T + self.bias
        return linear if self.kernel is None else linear + self.kernel(inputs)

    def gradient(self, inputs: Array, label: int) -> Array:
        """The gradient (D,) of a logit with respect to one image's inputs (D,): the weights, for a linear head."""
        weights: Array = self.weight[label]
        return weights if self.kernel is None else weights + self.kernel.gradient(inputs, label)

    def select_labels(self, labels: list[int]) -> "Head":
        """The head of these labels, in this order."""
        kernel = self.kernel and replace(self.kernel, coefficients=self.kernel.coefficients[labels])
        return Head(self.weight[labels], self.bias[labels], kernel)

    def to_tensors(self) -> dict[str, Array]:
        """The arrays by their names in a weights file, which are those of `graft.service.networks.kernel_head` too."""
        tensors = {"head.weight": self.weight, "head.bias": self.bias}
        return tensors | ({f"head.{name}": array for name, array in vars(self.kernel).items()} if self.kernel else {})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Array]) -> "Head":
        """The inverse of `to_tensors`; ignores other tensors. Raises KeyError if one is missing."""
        has_kernel = "head.centers" in tensors
        kernel = Kernel(**{name: tensors[f"head.{name}"] for name in Kernel.__dataclass_fields__}) if has_kernel else None
        return cls(tensors["head.weight"], tensors["head.bias"], kernel)


def signed_roots(inputs: Array, offset: Array) -> Array:
    """sign(x) (sqrt(|x| + offset) - sqrt(offset)) of inputs (N, D); an offset (D,) above 0 makes the slope at 0 finite."""
    roots: Array = np.sign(inputs) * (np.sqrt(np.abs(inputs) + offset) - np.sqrt(offset))
    return roots


def similarities(axes: Array, centers: Array) -> Array:
    """The RBF kernel exp(-|a - c|^2) of N points (N, A) and M centers (M, A): (N, M)."""
    squared = (axes * axes).sum(axis=1)[:, None] + (centers * centers).sum(axis=1) - 2 * axes @ centers.T
    near: Array = np.exp(-np.maximum(squared, 0))
    return near


def check_head(artifact: Artifact) -> None:
    """Checks the weights file and the shapes of its head. Raises ArtifactError if it does not fit the manifest."""
    with checking(artifact, HEAD):
        check_weights(artifact.head, artifact.manifest.backbone.head_shapes(len(artifact.manifest.labels)))


def load_head(artifact: Artifact) -> Head:
    """A package's head, float64. Read from the weights, since their names in the graph may vary.

    Raises:
        ArtifactError: if the weights do not contain the head.
    """
    from safetensors import SafetensorError, safe_open

    names = artifact.manifest.backbone.head_shapes(len(artifact.manifest.labels))
    try:
        with safe_open(artifact.head, framework="numpy") as tensors:
            return Head.from_tensors({name: tensors.get_tensor(name).astype(np.float64) for name in names})
    except SafetensorError as error:
        raise ArtifactError(f"{artifact.location(HEAD)} does not contain the head: {error}.") from None
