"""The options of each route, and how they are parsed from a query string, a form, or JSON. No HTTP."""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import ProblemError
from ..validation_errors import problems

MAX_SHOWN = 100  # characters of a caller's text in a message
MAX_NUMBER_LENGTH = 100  # characters
MAX_NEIGHBORS = 1_000  # training images in one response
_INT = re.compile(r"[0-9]+")
_FLOAT = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def _strict_int(value: object) -> object:
    """An int from digits or a JSON number; 5.0 counts as an integer, and true does not, although Python's bool is an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not _INT.fullmatch(text := _number_text(value)):
        raise ValueError("must be a non-negative integer")
    return int(text)


def _strict_float(value: object) -> object:
    if not _FLOAT.fullmatch(text := _number_text(value)):
        raise ValueError("must be a number")
    return float(text)


def _number_text(value: object) -> str:
    """A number or text as text; "" if it is of another type, or longer than any number needs to be."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = value if isinstance(value, str) else str(value) if is_number else ""
    return text if len(text) <= MAX_NUMBER_LENGTH else ""


def _strict_bool(value: object) -> object:
    if not (isinstance(value, bool) or value in ("true", "false")):
        raise ValueError("must be true or false")
    return value in (True, "true")


StrictInt = Annotated[int, BeforeValidator(_strict_int)]
# The bounds come before the validator: after it, those of an optional number would not be in the API's document.
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_strict_float)]
StrictBool = Annotated[bool, BeforeValidator(_strict_bool)]


class Options(BaseModel):
    """The base of all options; no options by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassifyOptions(Options):
    top_k: StrictInt = Field(5, ge=1, description="number of most probable labels to return; all labels if there are fewer")
    threshold: Share = Field(0.0, description="return only labels with at least this probability")
    max_error: Share | None = Field(
        None,
        description="abstain unless predictions this sure are wrong at most this often; default: the model's, in /v1/model's"
        " calibration; 1: only outliers abstain",
    )


class SimilarOptions(Options):
    k: StrictInt = Field(
        5, ge=1, description=f"number of training images to return, at most {MAX_NEIGHBORS:,}; all images if there are fewer"
    )
    thumbnails: StrictBool = Field(False, description="whether to return their thumbnails, if the package contains any")


class ExplainOptions(Options):
    label: str | None = Field(
        None,
        description="the label to explain, one of /v1/labels; default: the most probable label",
        json_schema_extra={"format": "label"},
    )
    method: Literal["cam", "gradcam", "occlusion"] | None = Field(
        None,
        description="cam: class activation map, the contribution of each position to the logit, exact for a linear head;"
        " gradcam: its first-order approximation, for nearly any network, requires torch; occlusion: the drop in log-odds when"
        " a part is masked; default: cam if the network supports it, else occlusion",
    )
    deletion: StrictBool = Field(
        False, description="whether a JSON response includes the deletion score of the map; it takes 142 forward passes"
    )


OptionsT = TypeVar("OptionsT", bound=Options)


def parse_options(model: type[OptionsT], *sources: dict[str, Any]) -> OptionsT:
    """The options of a request, merged from several sources; later sources override earlier ones.

    Raises:
        ProblemError: with the name of an unknown or invalid option, even if another source overrides it.
    """
    for given in sources:
        _validate(model, given)
    return _validate(model, {name: value for given in sources for name, value in given.items()})


def _validate(model: type[OptionsT], values: dict[str, Any]) -> OptionsT:
    fields = model.model_fields
    for name in values:
        if name not in fields:
            hint = f"the options are: {', '.join(fields)}" if fields else "this route has no options"
            shown = name[:MAX_SHOWN]
            raise ProblemError("unknown_field", f"There is no option {shown!r}; {hint}.", field=shown)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = problems(error)[0]
        raise ProblemError(f"bad_{first.name}", f"{first.name}: {first.reason}.", field=first.name) from None
