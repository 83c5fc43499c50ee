"""Classifies images with a package in the caller's own process: the Python API. No HTTP, no queues, no sandbox.

The answers are the response models of the HTTP API, from the same code.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeGuard, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from . import answers
from .api.options import ClassifyOptions, Options, SimilarOptions
from .api.schemas import Answer, Classification, Embedding, Explained, ModelDescription, Similar
from .errors import ImageError
from .explain.explainer import Explainer, Explanation, Method
from .explain.overlay import blend, normalize
from .imaging.preprocess import DecodedImage, preprocess
from .inference import bulk
from .inference.model import InferenceResult, Model
from .validation_errors import problems

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
AnswerT = TypeVar("AnswerT", bound=Answer)
OptionsT = TypeVar("OptionsT", bound=Options)


class Classifier:
    """A loaded package that classifies, embeds and explains images. Load one with `graft.load`. Thread-safe.

    An image is a path, the bytes of an image file, a PIL image, or a uint8 array (H, W), (H, W, 3) or (H, W, 4). Several
    images, or an array (N, H, W, 3), give a list of answers, computed in batches on all cores.

    Every method raises ImageError for an image that cannot be used, and OSError for a file that cannot be read. Images are
    decoded in this process: for untrusted files use `bentoml serve`, which decodes them in a sandbox.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._explainer_lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the network's outputs."""
        return self._model.manifest.labels

    @cached_property
    def description(self) -> ModelDescription:
        """The name, version, backbone, scores and calibration of the model, and how it runs on this machine."""
        return answers.describe(self._model)

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, top_k: int = 5, threshold: float = 0.0, max_error: float | None = None
    ) -> Classification: ...
    @overload
    def predict(
        self, images: Iterable[ImageInput], *, top_k: int = 5, threshold: float = 0.0, max_error: float | None = None
    ) -> list[Classification]: ...
    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        top_k: int = 5,
        threshold: float = 0.0,
        max_error: float | None = None,
    ) -> Classification | list[Classification]:
        """Classifies images.

        Args:
            images: one image, or several.
            top_k: number of most probable labels to return.
            threshold: return only labels with at least this probability.
            max_error: abstain unless predictions this sure are wrong at most this often, in [0, 1]; None for the model's own.

        Returns:
            The answer of `POST /v1/classify`: `predictions`, most probable first; `prediction_set`; `outlier_score`;
            `abstain` and `abstain_reason`.
        """
        options = _options(ClassifyOptions, top_k=top_k, threshold=threshold, max_error=max_error)
        return self._answer(images, lambda result: answers.classify(self._model, result, options, _new_id()))

    def stream(
        self, images: Iterable[ImageInput], *, top_k: int = 5, threshold: float = 0.0, max_error: float | None = None
    ) -> Iterator[Classification | ImageError]:
        """Classifies any number of images. Yields the answer or the error of each image, in order, as soon as it is known.

        Only a few images are in memory at a time.
        """
        options = _options(ClassifyOptions, top_k=top_k, threshold=threshold, max_error=max_error)
        for result in bulk.infer(self._model.engine, images, self._decode):
            if isinstance(result, ImageError):
                yield result
            else:
                yield answers.classify(self._model, _check_finite(result), options, _new_id())

    @overload
    def embed(self, images: ImageInput) -> Embedding: ...  # type: ignore[overload-overlap]
    @overload
    def embed(self, images: Iterable[ImageInput]) -> list[Embedding]: ...
    def embed(self, images: ImageInput | Iterable[ImageInput]) -> Embedding | list[Embedding]:
        """The feature vectors of images: the inputs of the classification head. Compare two by cosine similarity."""
        return self._answer(images, lambda result: answers.embed(self._model, result, _new_id()))

    @overload
    def similar(self, images: ImageInput, *, k: int = 5, thumbnails: bool = False) -> Similar: ...  # type: ignore[overload-overlap]
    @overload
    def similar(self, images: Iterable[ImageInput], *, k: int = 5, thumbnails: bool = False) -> list[Similar]: ...
    def similar(
        self, images: ImageInput | Iterable[ImageInput], *, k: int = 5, thumbnails: bool = False
    ) -> Similar | list[Similar]:
        """The `k` nearest training images of images, nearest first.

        Args:
            thumbnails: whether to return their thumbnails as base64 JPEG, if the package contains any.
        """
        options = _options(SimilarOptions, k=k, thumbnails=thumbnails)
        return self._answer(images, lambda result: answers.similar(self._model, result, options, _new_id()))

    def explain(
        self, image: ImageInput, *, label: str | None = None, method: Method | None = None, deletion: bool = False
    ) -> Explained:
        """A heat map: which parts of an image support a label.

        Args:
            label: one of `labels`; None for the most probable one.
            method: "cam", "gradcam" or "occlusion"; None for "cam" if the network has exact maps, else "occlusion".
            deletion: whether to compute the deletion score of the map; it takes 142 forward passes.

        Raises:
            UnsupportedMethod: if the network does not support the method.
            ValueError: if there is no such label.
        """
        start = time.perf_counter()
        explanation = self._explain(image, label, method)
        with self._explainer_lock:
            score = self._explainer.deletion(explanation) if deletion else None
        timing_ms = {"explain": round(1e3 * (time.perf_counter() - start), 3)}
        return answers.explain(self._model, explanation, score, timing_ms, _new_id())

    def heatmap(
        self, image: ImageInput, *, label: str | None = None, method: Method | None = None, side: int = 448
    ) -> Image.Image:
        """The heat map of `explain` over the network's input, as a square picture of `side` pixels.

        Raises:
            UnsupportedMethod, ValueError: as `explain` does.
        """
        explanation = self._explain(image, label, method)
        return Image.fromarray(blend(explanation.decoded.pixels, normalize(explanation), side))

    def _explain(self, image: ImageInput, label: str | None, method: Method | None) -> Explanation:
        if label is not None and label not in self.labels:
            raise ValueError(f"There is no label {label!r}. The labels are {', '.join(self.labels)}.")
        decoded = self._decode_named(image)
        with self._explainer_lock:
            return self._explainer.explain(decoded, None if label is None else self.labels.index(label), method)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self._model.artifact, self._model.engine.precision)

    def _answer(
        self, images: ImageInput | Iterable[ImageInput], build: Callable[[InferenceResult], AnswerT]
    ) -> AnswerT | list[AnswerT]:
        if _is_single(images):
            return build(_check_finite(self._infer(images)))
        listed = list(cast("Iterable[ImageInput]", images))
        results = enumerate(bulk.infer(self._model.engine, listed, self._decode))
        return [build(_check_finite(_require(result, _name(listed[index]) or f"images[{index}]"))) for index, result in results]

    def _infer(self, image: ImageInput) -> InferenceResult:
        """One image in the calling thread, which is faster than a batch of one."""
        start = time.perf_counter()
        decoded = self._decode_named(image)
        decoded_at = time.perf_counter()
        outputs = self._model.engine(decoded.pixels[None])
        return InferenceResult(decoded, outputs, bulk.timing_ms(start, decoded_at, time.perf_counter()))

    def _decode(self, image: ImageInput) -> DecodedImage:
        """The pixels of one image."""
        if isinstance(image, bytes | bytearray | memoryview):
            return self._model.decode(bytes(image))
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if isinstance(image, Image.Image):
            return preprocess(image, self._model.manifest.preprocessing)
        if not isinstance(image, str | os.PathLike):
            raise TypeError(f"An image is a path, bytes, a PIL image or a uint8 array; this is {type(image).__name__}.")
        return self._model.decode(Path(image).read_bytes())

    def _decode_named(self, image: ImageInput) -> DecodedImage:
        """The pixels of one image. An error names its file."""
        try:
            return self._decode(image)
        except ImageError as error:
            raise _named(error, _name(image)) from None


def _is_single(images: ImageInput | Iterable[ImageInput]) -> TypeGuard[ImageInput]:
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, _SINGLE) or not isinstance(images, Iterable)


_SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    """A PIL image of an array. Raises ImageError if its type or shape is not that of an image."""
    if pixels.dtype != np.uint8:
        raise ImageError("unsupported_mode", f"The array is {pixels.dtype}; expected uint8 with values from 0 to 255.")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise ImageError(
            "unsupported_mode", f"The array has the shape {pixels.shape}; expected (H, W), (H, W, 3) or (H, W, 4)."
        )
    if pixels.size == 0:
        raise ImageError("empty_image", "The image has no pixels.")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _require(result: InferenceResult | ImageError, name: str) -> InferenceResult:
    if isinstance(result, ImageError):
        raise _named(result, name)
    return result


def _name(image: ImageInput) -> str:
    """The path of an image; "" if it has none."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else ""


def _named(error: ImageError, name: str) -> ImageError:
    return ImageError(error.code, f"{name}: {error}", error.limit) if name else error


def _check_finite(result: InferenceResult) -> InferenceResult:
    if not (np.isfinite(result.outputs.logits).all() and np.isfinite(result.outputs.vectors).all()):
        raise FloatingPointError("The network's output for this image is not finite.")
    return result


def _options(model: type[OptionsT], **values: object) -> OptionsT:
    """The validated options. Raises ValueError with the name of an invalid one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(f"{name}={value!r}: {reason}" for name, value, reason in problems(error))) from None


def _new_id() -> str:
    return uuid.uuid4().hex
