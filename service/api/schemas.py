"""Everything that crosses the wire, as pydantic models; and which status each error code has."""

from typing import Literal

from pydantic import BaseModel, Field

from ..artifact import Backbone, Calibration, Fidelity, Precision, Preprocessing, Score
from ..settings import Limit

# code: (status, title). 400 cannot be parsed, 413 make it smaller, 415 another kind, 422 cannot be used, 503 try again.
PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_json": (400, "The body is not JSON"),
    "bad_multipart": (400, "The body is not multipart form data"),
    "bad_request": (400, "The request cannot be parsed"),
    "unauthorized": (401, "A key is needed"),
    "not_found": (404, "There is nothing here"),
    "method_not_allowed": (405, "Another method is needed here"),
    "not_acceptable": (406, "No answer of the kind that is wanted"),
    "slow_headers": (408, "The request took too long to arrive"),
    "slow_upload": (408, "The upload took too long"),
    "body_too_large": (413, "The body is too large"),
    "image_too_large": (413, "The image has too many pixels"),
    "too_many_files": (413, "There are more images than may come at once"),
    "content_encoding": (415, "The body is compressed"),
    "unsupported_media_type": (415, "The body is of a kind that is not accepted"),
    "unsupported_format": (415, "The image is of a kind that is not accepted"),
    "bad_aspect": (422, "The image is too long and thin"),
    "bad_base64": (422, "The image is not base64"),
    "bad_deletion": (422, "deletion cannot be used"),
    "bad_k": (422, "k cannot be used"),
    "bad_label": (422, "label cannot be used"),
    "bad_method": (422, "method cannot be used"),
    "bad_threshold": (422, "threshold cannot be used"),
    "bad_thumbnails": (422, "thumbnails cannot be used"),
    "bad_top_k": (422, "top_k cannot be used"),
    "corrupt_image": (422, "The image is damaged"),
    "decode_limit": (422, "The image takes too much to decode"),
    "empty_image": (422, "The image is empty"),
    "missing_image": (422, "There is no image"),
    "too_many_scans": (422, "The image is made of too many passes"),
    "unknown_field": (422, "There is a field of an unknown name"),
    "unsupported_mode": (422, "The image's pixels are of a kind that cannot be used"),
    "urls_not_accepted": (422, "Images are not fetched from elsewhere"),
    "headers_too_large": (431, "The request's headers are too large"),
    "model_output_invalid": (500, "The model gave no usable answer"),
    "internal": (500, "Something broke"),
    "out_of_memory": (503, "There was not enough memory for the network"),
    "overloaded": (503, "Too much to do at once"),
    "not_ready": (503, "The service cannot answer yet, or any more"),
    "deadline": (504, "The answer took too long"),
}


class Prediction(BaseModel):
    label: str
    probability: float = Field(ge=0, le=1, description="calibrated on images the network did not learn from")


class ModelReference(BaseModel):
    name: str
    version: str
    sha256: str = Field(description="of the package's manifest, which in turn names the digest of every file")


class ImageFacts(BaseModel):
    width: int
    height: int
    format: str


class Answer(BaseModel):
    """What every answer about one image says."""

    model: ModelReference
    image: ImageFacts
    warnings: list[str]
    timing_ms: dict[str, float]
    request_id: str


class Classification(Answer):
    """The answer to one image."""

    predictions: list[Prediction] = Field(description="most probable first")
    prediction_set: list[str] = Field(
        description="holds the right label as often as /v1/model's calibration promises; where an image may have several"
        " labels, those it is given, perhaps none"
    )
    outlier_score: float = Field(ge=0, le=2, description="how unlike the training images it is: a cosine distance")
    abstain: bool = Field(description="true if nobody should rely on this answer")
    abstain_reason: Literal["outlier", "undecided"] | None = Field(
        description="outlier: unlike every training image; undecided: no label can be ruled out"
    )


class Embedding(Answer):
    """What the network sees in one image."""

    vector: list[float] = Field(description="what the head classifies by; compare two by their cosine")


class Neighbour(BaseModel):
    path: str = Field(description="of a training image, below the root of the data it was learned from")
    labels: list[str]
    distance: float = Field(ge=0, le=2, description="cosine distance")
    thumbnail: str | None = Field(
        None, description="a JPEG of at most 96 pixels a side as base64; null unless asked for, or if the package holds none"
    )


class Similar(Answer):
    """The training images that are most like one image."""

    neighbours: list[Neighbour] = Field(description="nearest first")


class Labels(BaseModel):
    labels: tuple[str, ...] = Field(description="in the order of the network's outputs")


class Limits(BaseModel):
    limits: list[Limit]


class Problem(BaseModel):
    """Every error, as RFC 9457 wants it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="stable; decide by this, never by the detail")
    request_id: str
    limit: Limit | None = None
    field: str | None = None


class BatchItem(BaseModel):
    """Of one image of several: its answer, or else what is wrong with it."""

    index: int = Field(description="of the image among those that were sent, from 0 on")
    answer: Classification | None = None
    error: Problem | None = None


class Batch(BaseModel):
    """An answer or an error for each image, in the order in which they were sent: one bad image spoils no other."""

    results: list[BatchItem]
    request_id: str


class ModelDescription(BaseModel):
    """What is served, exactly."""

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
    calibration: Calibration
    scores: dict[str, Score]
    fidelity: dict[Precision, Fidelity] = Field(description="by precision, what became of validation's answers in it")
    device: str
    precision: Precision = Field(description="what the network computes in here")
    drift: float = Field(description="how far this machine's golden answers are from those that were evaluated")


class Region(BaseModel):
    """A part of an image, in pixels of the upright image, from its upper left corner."""

    left: float
    top: float
    width: float = Field(gt=0)
    height: float = Field(gt=0)


class Deletion(BaseModel):
    """Whether a map explains anything: what becomes of the label once what the map calls important is covered."""

    score: float = Field(
        ge=0, le=1, description="the label's mean probability while the image is covered, the most salient cells first"
    )
    chance: float = Field(
        ge=0, le=1, description="the same for the map in other places; if it explains anything, it scores lower"
    )
    beaten: float = Field(ge=0, le=1, description="the share of 19 other places, chosen by a fixed seed, that the map beats")
    explains: bool = Field(description="whether it beats at least 90% of them; one that knows nothing does once in ten times")
    probabilities: list[float] = Field(description="of the label, from nothing covered to everything, in equal steps")


class Explained(Answer):
    """Which parts of one image speak for a label."""

    label: str
    probability: float = Field(ge=0, le=1, description="as /v1/classify tells it")
    method: Literal["cam", "gradcam", "occlusion"]
    map: list[list[float]] = Field(
        description="row by row from the top, over `region`. cam: what each position contributes to the label's logit (their"
        " mean is the logit but for a constant). gradcam: the same to first order. occlusion: how much the label's log-odds"
        " fall when that part is covered, in nats"
    )
    bias: float = Field(description="that constant of cam; else 0. A position speaks for the label where map + bias > 0")
    region: Region = Field(description="what the network saw of the image; with margins, it reaches beyond the image")
    deletion: Deletion | None = Field(None, description="null unless asked for")
