"""Heat maps: which parts of an image support a label. No HTTP; torch is loaded only for Grad-CAM.

There are three methods. A class activation map (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization")
is exact for a linear head and costs one forward pass, but needs a network with global average pooling. For a head with a
kernel machine it uses the gradient of the head at the image. Occlusion (Zeiler & Fergus 2014,
"Visualizing and Understanding Convolutional Networks") masks one part after another and works for any network. Grad-CAM, in
`graft.service.explain.gradcam`, works for nearly any network and needs torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact
from ..fidelity import Precision
from ..imaging.preprocess import DecodedImage
from ..inference.engine import LOGITS, Floats, Pixels
from ..inference.head import Head, load_head
from ..inference.openvino import OpenVinoModel, openvino_core
from ..inference.postprocess import log_odds, to_probabilities
from ..manifest import Preprocessing
from .deletion import N_RANDOM_MAPS, N_STEPS, Deletion, deletion
from .grids import resample
from .occlusion import occlusion

if TYPE_CHECKING:
    from .gradcam import GradCam


Method = Literal["cam", "gradcam", "occlusion"]
Numbers = NDArray[np.float64]


class UnsupportedMethod(ValueError):
    """The network does not support the requested method. The message is safe to show to the client."""


class Cancelled(Exception):
    """The request was cancelled, so the explanation was stopped."""


class Region(NamedTuple):
    """A rectangle in pixels from the image's upper left corner; with letterboxing, it extends beyond the image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Explanation:
    """A heat map for one label in one image.

    Attributes:
        label: its name.
        probability: as in `classify`.
        map: float32 (h, w), over `region`. For "cam", the contribution of each position to the label's logit, exact for a
            linear head and to first order for one with a kernel machine: the mean over all positions plus `bias` is the
            logit. For "gradcam", its contribution to first order, in the last map with gradients. For "occlusion", the drop in
            the label's log-odds when that part is masked, in nats; below 0 where they rise.
        bias: for "cam", the part of the logit that the map does not explain, which for a linear head is its bias; else 0.
        region: the network's input region of the upright image.
        decoded: the network's input pixels and the image's metadata.
    """

    label: str
    probability: float
    method: Method
    map: Floats
    bias: float
    region: Region
    decoded: DecodedImage


class Explainer:
    """Explains a package's predictions on one core, so that predictions keep the others. Not thread-safe.

    It compiles its own copy of the model on first use, on the CPU even if a GPU serves the predictions.

    Args:
        artifact: a verified package.
        precision: the precision of the package's predictions.
        threads: number of compute threads.
    """

    def __init__(self, artifact: Artifact, precision: Precision = "f32", threads: int = 1) -> None:
        openvino_core()  # initialized here, in a thread that lives as long as the process, not in the explainer's thread
        self._artifact = artifact
        self._manifest = artifact.manifest
        self._precision = precision
        self._threads = threads

    @property
    def has_cam(self) -> bool:
        """Whether the network has exact class activation maps."""
        return bool(self._manifest.backbone.map_outputs)

    def explain(
        self,
        decoded: DecodedImage,
        label: int | None = None,
        method: Method | None = None,
        should_continue: Callable[[], bool] = lambda: True,
    ) -> Explanation:
        """Computes a heat map for a label in an image.

        Args:
            label: in [0, C); None for the most probable.
            method: None for "cam" if it is exact, else "occlusion".
            should_continue: called before every forward pass; False cancels the explanation.

        Raises:
            UnsupportedMethod: for "cam" if it is not exact, or for "gradcam" without torch or without a spatial map.
            Cancelled: as soon as `should_continue` returns False.
            FloatingPointError: if the network's output is not finite.
        """
        if method == "cam" and not self.has_cam:
            raise UnsupportedMethod("This network has no class activation maps; use occlusion.")
        method = method or ("cam" if self.has_cam else "occlusion")
        outputs = self._forward(decoded.pixels, should_continue)
        label_probabilities = self._probabilities(outputs)
        index = int(label_probabilities.argmax()) if label is None else label
        if method == "cam" or (method == "gradcam" and self._gradcam_equals_cam):
            heatmap = self._cam(outputs, index)
        else:
            heatmap = {"gradcam": self._gradcam, "occlusion": self._occlusion}[method](decoded.pixels, index, should_continue)
        bias = float(outputs[LOGITS][0, index]) - float(heatmap.mean()) if method == "cam" else 0.0
        visible = input_region(decoded.width, decoded.height, self._manifest.preprocessing)
        name, probability = self._manifest.labels[index], float(label_probabilities[index])
        return Explanation(name, probability, method, heatmap.astype(np.float32), bias, visible, decoded)

    def deletion(
        self,
        explanation: Explanation,
        should_continue: Callable[[], bool] = lambda: True,
        n_steps: int = N_STEPS,
        n_random_maps: int = N_RANDOM_MAPS,
    ) -> Deletion:
        """The deletion score of an explanation by this explainer; see `graft.service.explain.deletion`.

        Raises:
            Cancelled, FloatingPointError: as `explain` does.
        """
        label = self._manifest.labels.index(explanation.label)

        def probability(pixels: Pixels) -> float:
            return float(self._probabilities(self._forward(pixels, should_continue))[label])

        return deletion(probability, explanation.decoded.pixels, explanation.map, self._fill_color, n_steps, n_random_maps)

    @cached_property
    def _graph(self) -> OpenVinoModel:
        output_names = (LOGITS, *self._manifest.backbone.map_outputs)
        return OpenVinoModel(self._artifact.graph, 1, output_names, self._threads, self._precision)

    @cached_property
    def _head(self) -> Head:
        return load_head(self._artifact)

    def _forward(self, pixels: Pixels, should_continue: Callable[[], bool]) -> dict[str, Floats]:
        if not should_continue():
            raise Cancelled
        outputs = self._graph(pixels[None])
        if not np.isfinite(outputs[LOGITS]).all():
            raise FloatingPointError("The network's output for this image is not finite.")
        return outputs

    def _probabilities(self, outputs: dict[str, Floats]) -> Numbers:
        """The probability of every label in one image, (C,)."""
        first_row: Numbers = to_probabilities(outputs[LOGITS], self._manifest.temperature, self._manifest.multilabel)[0]
        return first_row

    def _cam(self, outputs: dict[str, Floats], label: int) -> Numbers:
        maps = [outputs[name][0] for name in self._manifest.backbone.map_outputs]
        pooled = np.concatenate([feature_map.mean(axis=(1, 2), dtype=np.float64) for feature_map in maps])
        return class_activation_map(maps, self._head.gradient(pooled, label))

    @property
    def _gradcam_equals_cam(self) -> bool:
        """Whether Grad-CAM equals the class activation map without its bias, so that neither gradients nor torch are needed."""
        return self.has_cam and self._manifest.backbone.head_input == "last"

    @cached_property
    def _gradcam_network(self) -> "GradCam":
        try:
            from .gradcam import GradCam
        except ModuleNotFoundError as error:
            raise UnsupportedMethod(
                f"Grad-CAM needs torch and timm, but {error.name} is not installed; use occlusion."
            ) from None
        return GradCam(self._artifact, self._threads)

    def _gradcam(self, pixels: Pixels, label: int, should_continue: Callable[[], bool]) -> Numbers:
        network = self._gradcam_network
        if not should_continue():
            raise Cancelled
        heatmap = network(pixels, label)
        if heatmap is None:
            raise UnsupportedMethod("The output of this network depends on no spatial feature map; use occlusion.")
        return heatmap

    def _occlusion(self, pixels: Pixels, label: int, should_continue: Callable[[], bool]) -> Numbers:
        manifest = self._manifest

        def score(masked: Pixels) -> float:
            logits = self._forward(masked, should_continue)[LOGITS].astype(np.float64)
            return float(log_odds(logits / manifest.temperature, np.array([label]), manifest.multilabel)[0])

        return occlusion(score, pixels, self._fill_color)

    @property
    def _fill_color(self) -> NDArray[np.uint8]:
        """The color that normalization turns into zeros: the least informative one."""
        return np.round(255 * np.array(self._manifest.preprocessing.mean)).astype(np.uint8)


def class_activation_map(maps: Sequence[Floats], weights: Numbers) -> Numbers:
    """The contribution of each position of the last map to a logit, (h, w).

    Args:
        maps: each (D, h, w); finer maps are averaged to the grid of the last one, which keeps their means.
        weights: (sum of all D,), one per channel of the pooled maps: the head's gradient.
    """
    cam, start = np.zeros(maps[-1].shape[1:]), 0
    for feature_map in maps:
        contribution = np.einsum("d,dhw->hw", weights[start : (start := start + len(feature_map))], feature_map)
        cam += resample(contribution, len(cam), len(cam[0]))
    return cam


def input_region(width: int, height: int, preprocessing: Preprocessing) -> Region:
    """The region of an upright image that the network receives, exact to one pixel of the network's input."""
    crop = preprocessing.crop
    if preprocessing.fit == "squash":
        return Region(0, 0, width, height)
    if preprocessing.fit == "letterbox":
        scale = crop / max(width, height)
        left, top = ((crop - round(side * scale)) // 2 for side in (width, height))
        return Region(-left / scale, -top / scale, crop / scale, crop / scale)
    side = min(width, height) * crop / preprocessing.resize
    return Region((width - side) / 2, (height - side) / 2, side, side)
