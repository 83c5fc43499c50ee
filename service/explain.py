"""Why an answer is what it is: which parts of an image speak for a label. No HTTP, no torch.

Two ways to find out. A class activation map (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization")
is exact and costs one pass, but only a network whose vectors are means over a map has one. Occlusion (Zeiler & Fergus
2014, "Visualizing and Understanding Convolutional Networks") covers one part after the other, and suits any network.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.artifact import Preprocessing
from service.engine import LOGITS, Floats, Graph, Pixels, core, graph_of
from service.model import Model
from service.preprocess import Decoded

CELLS = 8  # of an occlusion map, along each side
PATCH = 2  # cells along each side of what is covered at once: 81 passes
SHOWN = 448  # pixels of an overlay's side
COVERED = 0.6  # how much of the picture an overlay's strongest colour hides
FADED = 0.7  # how grey the picture below is made, so that a yellow flower is not taken for heat

# Ten steps of matplotlib's "inferno" (CC0): even to the eye, and in grey too. It begins where alpha is 0.
COLOURS = np.frombuffer(
    bytes.fromhex("000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"), np.uint8
).reshape(10, 3)

Method = Literal["cam", "occlusion"]
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
            all positions plus `bias` is the logit. By "occlusion" how much the log-odds of the label fall when that
            part is covered, in nats; below 0 where they rise.
        bias: of the label's logit; 0 for an occlusion map.
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
    """Explains a model's answers, on one core so that answering keeps the others; from one thread only.

    It has a graph of its own, which is compiled when it is first needed, on the CPU even where a GPU answers.
    """

    def __init__(self, model: Model) -> None:
        core()  # here, in a thread that lives as long as the process, and not in the one that will explain
        self._model = model

    @property
    def exact(self) -> bool:
        """Whether the model's answers have class activation maps."""
        return bool(self._model.manifest.backbone.maps)

    def explain(
        self,
        encoded: bytes,
        label: int | None = None,
        method: Method | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Explanation:
        """What speaks for a label in an image file. Raises ImageError, and what `explain_decoded` raises."""
        return self.explain_decoded(self._model.decode(encoded), label, method, wanted)

    def explain_decoded(
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
            Unexplainable: if "cam" is asked for where it would not be exact.
            Unwanted: as soon as `wanted` says no.
            FloatingPointError: if the network's answer is not finite.
        """
        if method == "cam" and not self.exact:
            raise Unexplainable("This network has no class activation maps; occlusion explains it.")
        method = method or ("cam" if self.exact else "occlusion")
        said = self._said(decoded.pixels, wanted)
        chances = self._model.probabilities(said[LOGITS])[0]
        chosen = int(chances.argmax()) if label is None else label
        found, bias = self._cam(said, chosen) if method == "cam" else (self._occlusion(decoded.pixels, chosen, wanted), 0.0)
        manifest = self._model.manifest
        seen = region(decoded.width, decoded.height, manifest.preprocessing)
        name, chance = manifest.labels[chosen], float(chances[chosen])
        return Explanation(name, chance, method, found.astype(np.float32), bias, seen, decoded)

    @cached_property
    def _graph(self) -> Graph:
        maps, precision = self._model.manifest.backbone.maps, self._model.engine.precision
        path = graph_of(self._model.artifact, precision)
        return Graph(path, lanes=1, wanted=(LOGITS, *maps), threads=1, precision=precision)

    def _said(self, pixels: Pixels, wanted: Callable[[], bool]) -> dict[str, Floats]:
        if not wanted():
            raise Unwanted
        said = self._graph(pixels[None])
        if not np.isfinite(said[LOGITS]).all():
            raise FloatingPointError("The network's answer to this image is not a number.")
        return said

    def _cam(self, said: dict[str, Floats], label: int) -> tuple[Numbers, float]:
        weight, bias = self._model.head
        maps = [said[name][0] for name in self._model.manifest.backbone.maps]
        return activation(maps, weight[label]), float(bias[label])

    def _occlusion(self, pixels: Pixels, label: int, wanted: Callable[[], bool]) -> Numbers:
        manifest = self._model.manifest

        def score(shown: Pixels) -> float:
            logits = self._said(shown, wanted)[LOGITS][0].astype(np.float64)
            return log_odds(logits / manifest.temperature, label, manifest.multilabel)

        # What normalisation turns into zeros: no colour says less.
        cover = np.round(255 * np.array(manifest.preprocessing.mean)).astype(np.uint8)
        return occlusion(score, pixels, cover)


def activation(maps: Sequence[Floats], weights: Numbers) -> Numbers:
    """What each position of the last map contributes to a logit, (h, w): its mean plus the bias is the logit.

    Args:
        maps: each (D, its h, its w); finer ones are brought to the last one's grid, with their means kept.
        weights: (sum of all D,), of the maps' means.
    """
    total, begin = np.zeros(maps[-1].shape[1:]), 0
    for one in maps:
        contribution = np.einsum("d,dhw->hw", weights[begin : (begin := begin + len(one))], one)
        down, across = _shares(len(total), len(contribution)), _shares(len(total[0]), len(contribution[0]))
        total += np.einsum("ih,hw,jw->ij", down, contribution, across)
    return total


def _shares(n_into: int, n_from: int) -> Numbers:
    """How much of each of `n_into` equal parts of a line is each of `n_from`: (n_into, n_from), each row summing to 1."""
    into, of = np.arange(n_into + 1) / n_into, np.arange(n_from + 1) / n_from
    common = np.minimum.outer(into[1:], of[1:]) - np.maximum.outer(into[:-1], of[:-1])
    shares: Numbers = n_into * np.clip(common, 0, None)
    return shares


def occlusion(score: Callable[[Pixels], float], pixels: Pixels, cover: NDArray[np.uint8]) -> Numbers:
    """How much a score falls when a part of the pixels (S, S, 3) is covered with a colour (3,): for each of 8x8 cells.

    A cell's number is the mean over the patches that lie on it. Patches reach over the edge, so that every cell lies
    under equally many: a cell at the edge would otherwise answer for its neighbours.
    """
    edges = np.linspace(0, len(pixels), CELLS + 1).round().astype(int)
    whole, falls = score(pixels), np.zeros((CELLS, CELLS))
    for row, column in np.ndindex(CELLS + PATCH - 1, CELLS + PATCH - 1):
        down, across = (slice(max(0, end - PATCH), min(CELLS, end)) for end in (row + 1, column + 1))
        covered = pixels.copy()
        covered[edges[down.start] : edges[down.stop], edges[across.start] : edges[across.stop]] = cover
        falls[down, across] += whole - score(covered)
    found: Numbers = falls / PATCH**2
    return found


def log_odds(scaled: Numbers, label: int, multilabel: bool) -> float:
    """The logarithm of p / (1 - p) of a label's probability p, from logits (C,) that the temperature has divided."""
    rivals = 0.0 if multilabel else float(np.logaddexp.reduce(np.delete(scaled, label)))
    return float(scaled[label]) - rivals


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


def overlay(explanation: Explanation) -> bytes:
    """A PNG of what the network saw, 448 pixels wide and high; what speaks for the label glows."""
    square = (SHOWN, SHOWN)
    picture = Image.fromarray(explanation.decoded.pixels).resize(square, Image.Resampling.LANCZOS)
    faded = np.asarray(Image.blend(picture, picture.convert("L").convert("RGB"), FADED))
    smooth = Image.fromarray(strength(explanation)).resize(square, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)
    steps = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(heat, steps, channel) for channel in COLOURS.T], axis=-1)
    hidden = COVERED * heat[..., None]
    file = io.BytesIO()
    Image.fromarray(np.round(faded * (1 - hidden) + colours * hidden).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def strength(explanation: Explanation) -> Floats:
    """How strongly each position speaks for the label, float32 (h, w) in [0, 1]; 0 where it does not.

    A position of a class activation map speaks for the label if the logit would be above 0 were the whole image like it.
    """
    speaking = np.maximum(explanation.map + explanation.bias, 0)
    most = float(speaking.max())
    found: Floats = (speaking / most if most > 0 else speaking).astype(np.float32)
    return found
