"""Why an answer is what it is: which parts of an image speak for a label. No HTTP, no torch.

Three ways to find out. A class activation map (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization")
is exact and costs one pass, but only a network whose vectors are means over a map has one. Occlusion (Zeiler & Fergus
2014, "Visualizing and Understanding Convolutional Networks") covers one part after the other, and suits any network.
Grad-CAM, in `graft.service.explain.gradcam`, suits nearly any, and is the only one that needs torch, which is loaded when it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact, Precision, Preprocessing
from ..imaging.preprocess import Decoded
from ..inference.engine import LOGITS, Floats, Pixels
from ..inference.loader import graph_of
from ..inference.model import head_of
from ..inference.openvino import Graph, core
from ..inference.postprocess import log_odds, probabilities
from .deletion import MOVES, STEPS, Deletion, deletion
from .grids import regridded
from .occlusion import occlusion

if TYPE_CHECKING:
    from .gradcam import GradCam


Method = Literal["cam", "gradcam", "occlusion"]
Numbers = NDArray[np.float64]


class Unexplainable(ValueError):
    """This network cannot be explained in the way that was asked for; the text is fit to show to whoever asked."""


class Unwanted(Exception):
    """Nobody waits for the answer any more, so it was given up."""


class Region(NamedTuple):
    """A part of an image, in pixels from its upper left corner; a letterbox's reaches beyond the image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Explanation:
    """What speaks for one label in one image.

    Attributes:
        label: its name.
        probability: as `classify` tells it.
        map: float32 (h, w), over `region`. By "cam" what each position contributes to the label's logit: the mean over
            all positions plus `bias` is the logit. By "gradcam" what it contributes to first order, as far as the last map
            tells. By "occlusion" how much the log-odds of the label fall when that part is covered, in nats; below 0 where
            they rise.
        bias: of the label's logit; 0 for the other maps.
        region: what the network saw of the upright image.
        decoded: the pixels that it saw, and facts about the image.
    """

    label: str
    probability: float
    method: Method
    map: Floats
    bias: float
    region: Region
    decoded: Decoded


class Explainer:
    """Explains a package's answers, on one core so that answering keeps the others; from one thread only.

    It has a graph of its own, which is compiled when it is first needed, on the CPU even where a GPU answers.

    Args:
        artifact: a package, verified.
        precision: what the package's answers are computed in.
        threads: that compute.
    """

    def __init__(self, artifact: Artifact, precision: Precision = "f32", threads: int = 1) -> None:
        core()  # here, in a thread that lives as long as the process, and not in the one that will explain
        self._artifact = artifact
        self._manifest = artifact.manifest
        self._precision = precision
        self._threads = threads

    @property
    def exact(self) -> bool:
        """Whether the package's answers have class activation maps."""
        return bool(self._manifest.backbone.maps)

    def explain(
        self,
        decoded: Decoded,
        label: int | None = None,
        method: Method | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Explanation:
        """What speaks for a label in an image.

        Args:
            label: in [0, C); None for the most probable.
            method: None for "cam" where it is exact, else "occlusion".
            wanted: asked before every pass.

        Raises:
            Unexplainable: if "cam" is asked for where it would not be exact, or "gradcam" where there is no torch or no map.
            Unwanted: as soon as `wanted` says no.
            FloatingPointError: if the network's answer is not finite.
        """
        if method == "cam" and not self.exact:
            raise Unexplainable("This network has no class activation maps; occlusion explains it.")
        method = method or ("cam" if self.exact else "occlusion")
        said = self._said(decoded.pixels, wanted)
        chances = self._chances(said)
        chosen = int(chances.argmax()) if label is None else label
        bias = float(self._head[1][chosen]) if method == "cam" else 0.0
        if method == "cam" or (method == "gradcam" and self._pooled_once):
            found = self._cam(said, chosen)
        else:
            found = {"gradcam": self._gradcam, "occlusion": self._occlusion}[method](decoded.pixels, chosen, wanted)
        seen = region(decoded.width, decoded.height, self._manifest.preprocessing)
        name, chance = self._manifest.labels[chosen], float(chances[chosen])
        return Explanation(name, chance, method, found.astype(np.float32), bias, seen, decoded)

    def deletion(
        self,
        explanation: Explanation,
        wanted: Callable[[], bool] = lambda: True,
        steps: int = STEPS,
        moves: int = MOVES,
    ) -> Deletion:
        """Whether an explanation of this package's explains anything, as `graft.service.explain.deletion` says.

        Raises:
            Unwanted, FloatingPointError: as `explain` does.
        """
        label = self._manifest.labels.index(explanation.label)

        def probability(shown: Pixels) -> float:
            return float(self._chances(self._said(shown, wanted))[label])

        return deletion(probability, explanation.decoded.pixels, explanation.map, self._cover, steps, moves)

    @cached_property
    def _graph(self) -> Graph:
        wanted = (LOGITS, *self._manifest.backbone.maps)
        return Graph(graph_of(self._artifact, self._precision), 1, wanted, self._threads, self._precision)

    @cached_property
    def _head(self) -> tuple[Numbers, Numbers]:
        return head_of(self._artifact)

    def _said(self, pixels: Pixels, wanted: Callable[[], bool]) -> dict[str, Floats]:
        if not wanted():
            raise Unwanted
        said = self._graph(pixels[None])
        if not np.isfinite(said[LOGITS]).all():
            raise FloatingPointError("The network's answer to this image is not a number.")
        return said

    def _chances(self, said: dict[str, Floats]) -> Numbers:
        """Every label's probability in one image, (C,)."""
        chances: Numbers = probabilities(said[LOGITS], self._manifest.temperature, self._manifest.multilabel)[0]
        return chances

    def _cam(self, said: dict[str, Floats], label: int) -> Numbers:
        maps = [said[name][0] for name in self._manifest.backbone.maps]
        return activation(maps, self._head[0][label])

    @property
    def _pooled_once(self) -> bool:
        """Whether Grad-CAM is the class activation map but for its bias, so that there is no need of gradients, or of torch."""
        return self.exact and self._manifest.backbone.sees == "last"

    @cached_property
    def _with_gradients(self) -> "GradCam":
        try:
            from .gradcam import GradCam
        except ModuleNotFoundError as error:
            raise Unexplainable(
                f"Grad-CAM needs torch and timm, and there is no {error.name} here; occlusion explains this network without."
            ) from None
        return GradCam(self._artifact, self._threads)

    def _gradcam(self, pixels: Pixels, label: int, wanted: Callable[[], bool]) -> Numbers:
        network = self._with_gradients
        if not wanted():
            raise Unwanted
        found = network(pixels, label)
        if found is None:
            raise Unexplainable("This network has no map whose positions its answer depends on; occlusion explains it.")
        return found

    def _occlusion(self, pixels: Pixels, label: int, wanted: Callable[[], bool]) -> Numbers:
        manifest = self._manifest

        def score(shown: Pixels) -> float:
            logits = self._said(shown, wanted)[LOGITS].astype(np.float64)
            return float(log_odds(logits / manifest.temperature, np.array([label]), manifest.multilabel)[0])

        return occlusion(score, pixels, self._cover)

    @property
    def _cover(self) -> NDArray[np.uint8]:
        """What normalisation turns into zeros: no colour says less."""
        return np.round(255 * np.array(self._manifest.preprocessing.mean)).astype(np.uint8)


def activation(maps: Sequence[Floats], weights: Numbers) -> Numbers:
    """What each position of the last map contributes to a logit, (h, w): its mean plus the bias is the logit.

    Args:
        maps: each (D, its h, its w); finer ones are brought to the last one's grid, with their means kept.
        weights: (sum of all D,), of the maps' means.
    """
    total, begin = np.zeros(maps[-1].shape[1:]), 0
    for one in maps:
        contribution = np.einsum("d,dhw->hw", weights[begin : (begin := begin + len(one))], one)
        total += regridded(contribution, len(total), len(total[0]))
    return total


def region(width: int, height: int, preprocessing: Preprocessing) -> Region:
    """What the network sees of an upright image of so many pixels, to within a pixel of the network's own."""
    crop = preprocessing.crop
    if preprocessing.fit == "squash":
        return Region(0, 0, width, height)
    if preprocessing.fit == "letterbox":
        scale = crop / max(width, height)
        left, top = ((crop - round(side * scale)) // 2 for side in (width, height))
        return Region(-left / scale, -top / scale, crop / scale, crop / scale)
    side = min(width, height) * crop / preprocessing.resize
    return Region((width - side) / 2, (height - side) / 2, side, side)
