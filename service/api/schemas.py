"""The pydantic models of all responses, and the status and title of each error code. No behavior."""

from typing import Literal

from pydantic import BaseModel, Field

from ..fidelity import Fidelity, Precision
from ..manifest import Backbone, Calibration, LabelFrequencies, MetricName, Preprocessing, Score
from ..settings import Limit

# code: (status, title). 400 cannot be parsed, 413 too large, 415 unsupported type, 422 invalid value, 503 try again.
PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_json": (400, "Invalid JSON"),
    "bad_multipart": (400, "Invalid multipart form data"),
    "bad_request": (400, "Bad request"),
    "unauthorized": (401, "API key required"),
    "origin_not_allowed": (403, "Origin not allowed"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "not_acceptable": (406, "Not acceptable"),
    "slow_headers": (408, "Request headers timed out"),
    "slow_upload": (408, "Upload timed out"),
    "body_too_large": (413, "Request body too large"),
    "image_too_large": (413, "Image too large"),
    "too_many_files": (413, "Too many files"),
    "content_encoding": (415, "Unsupported content encoding"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "unsupported_format": (415, "Unsupported image format"),
    "wrong_host": (421, "Wrong host"),
    "bad_aspect": (422, "Unsupported aspect ratio"),
    "bad_base64": (422, "Invalid base64"),
    "bad_deletion": (422, "Invalid deletion"),
    "bad_k": (422, "Invalid k"),
    "bad_label": (422, "Invalid label"),
    "bad_max_error": (422, "Invalid max_error"),
    "bad_method": (422, "Invalid method"),
    "bad_threshold": (422, "Invalid threshold"),
    "bad_thumbnails": (422, "Invalid thumbnails"),
    "bad_top_k": (422, "Invalid top_k"),
    "corrupt_image": (422, "Corrupt image"),
    "decode_limit": (422, "Decoding limit exceeded"),
    "empty_image": (422, "Empty image"),
    "missing_image": (422, "Missing image"),
    "too_many_scans": (422, "Too many JPEG scans"),
    "unknown_field": (422, "Unknown field"),
    "unsupported_mode": (422, "Unsupported pixel format"),
    "urls_not_accepted": (422, "URLs not accepted"),
    "headers_too_large": (431, "Request headers too large"),
    "model_output_invalid": (500, "Invalid model output"),
    "internal": (500, "Internal server error"),
    "device_failed": (503, "Device failed"),
    "out_of_memory": (503, "Out of memory"),
    "overloaded": (503, "Service overloaded"),
    "not_ready": (503, "Service not ready"),
    "deadline": (504, "Deadline exceeded"),
}


class Prediction(BaseModel):
    label: str
    probability: float = Field(ge=0, le=1, description="calibrated on held-out images")


class ModelReference(BaseModel):
    name: str
    version: str
    sha256: str = Field(description="of the package's manifest, which contains the digest of every file")


class ImageFacts(BaseModel):
    width: int
    height: int
    format: str


class Answer(BaseModel):
    """The fields that all responses about one image share."""

    model: ModelReference
    image: ImageFacts
    warnings: list[str]
    timing_ms: dict[str, float]
    request_id: str


class Classification(Answer):
    """The predictions for one image."""

    predictions: list[Prediction] = Field(description="most probable first")
    prediction_set: list[str] = Field(
        description="conformal prediction set: contains the true label with the coverage in /v1/model's calibration;"
        " for a multi-label model, the labels above their thresholds, possibly none"
    )
    outlier_score: float = Field(ge=0, le=2, description="cosine distance to the training images")
    abstain: bool = Field(description="true if this prediction is not reliable")
    abstain_reason: Literal["outlier", "unsure"] | None = Field(
        description="outlier: far from all training images; unsure: predictions with such a probability are wrong too often"
    )


class Embedding(Answer):
    """The feature vector of one image."""

    vector: list[float] = Field(description="the input of the classification head; compare two by cosine similarity")


class Neighbor(BaseModel):
    path: str = Field(description="of a training image, relative to the root of the training data")
    labels: list[str]
    distance: float = Field(ge=0, le=2, description="cosine distance")
    thumbnail: str | None = Field(
        None, description="base64 JPEG, at most 96 pixels per side; null unless requested, or if the package contains none"
    )


class Similar(Answer):
    """The nearest training images of one image."""

    neighbors: list[Neighbor] = Field(description="nearest first")


class Labels(BaseModel):
    labels: tuple[str, ...] = Field(description="in the order of the network's outputs")


class Limits(BaseModel):
    limits: list[Limit]
    formats: tuple[str, ...] = Field(description="supported image formats")


class Problem(BaseModel):
    """An error response, as in RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="stable; use this in programs, not the detail")
    request_id: str
    limit: Limit | None = None
    field: str | None = None


class BatchItem(BaseModel):
    """The result or the error of one image in a batch."""

    index: int = Field(description="of the image in the request, from 0")
    answer: Classification | None = None
    error: Problem | None = None


class Batch(BaseModel):
    """A result or an error for each image, in request order. One invalid image does not affect the others."""

    results: list[BatchItem]
    request_id: str


class ModelDescription(BaseModel):
    """The served model."""

    name: str
    version: str
    sha256: str
    created: str
    labels: tuple[str, ...]
    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    multilabel: bool
    temperature: float
    metric: MetricName = Field(description="what models were judged by at training")
    label_frequencies: LabelFrequencies | None = Field(
        description="how frequent the labels are among the training images, and as the probabilities assume; null for a"
        " multi-label model"
    )
    calibration: Calibration
    scores: dict[str, Score]
    fidelity: dict[Precision, Fidelity] = Field(description="how each precision changes the predictions on validation images")
    device: str
    precision: Precision = Field(
        description="the precision of the network here; `fidelity` has what it changes. int8: the package's int8 model is"
        " served; `temperature`, `calibration` and `scores` are its own"
    )
    golden_difference: float = Field(description="largest difference between the golden predictions here and at training")


class Region(BaseModel):
    """A rectangle in pixels of the upright image, from its upper left corner."""

    left: float
    top: float
    width: float = Field(gt=0)
    height: float = Field(gt=0)


class Deletion(BaseModel):
    """The deletion metric of a map (Petsiuk et al. 2018): how the label's probability falls as salient cells are masked."""

    score: float = Field(
        ge=0,
        le=1,
        description="area under the deletion curve: the label's mean probability as cells are masked, most salient"
        " first; lower is better",
    )
    baseline: float = Field(ge=0, le=1, description="the mean score of 19 random transforms of the map")
    fraction_beaten: float = Field(
        ge=0, le=1, description="the fraction of the random transforms (fixed seed) that score higher"
    )
    explains: bool = Field(description="fraction_beaten is at least 0.9; a meaningless map reaches this with probability 0.1")
    probabilities: list[float] = Field(description="of the label, from no cell masked to all cells masked, in equal steps")


class Explained(Answer):
    """A heat map for one label."""

    label: str
    probability: float = Field(ge=0, le=1, description="as in /v1/classify")
    method: Literal["cam", "gradcam", "occlusion"]
    map: list[list[float]] = Field(
        description="rows from the top, over `region`. cam: the contribution of each position to the label's logit, to first"
        " order if the head is a kernel machine (their mean plus `bias` is the logit). gradcam: the same to first order."
        " occlusion: the drop in the label's log-odds when that part is masked, in nats"
    )
    bias: float = Field(
        description="for cam, the part of the logit that the map does not explain, which for a linear head is its bias; else 0."
        " A position supports the label if map + bias > 0"
    )
    region: Region = Field(
        description="the network's input region of the image; with letterboxing, it extends beyond the image"
    )
    deletion: Deletion | None = Field(None, description="null unless requested")
