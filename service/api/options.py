"""The options of each route, and how they are parsed from a query string, a form, or JSON. No HTTP."""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import ProblemError
from ..validation_errors import problems


def _strict_int(value: object) -> object:
    """An int from digits or a JSON number; 5.0 counts as an integer, and true does not, although Python's bool is an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,4000}", str(value)):
        raise ValueError("must be a non-negative integer")
    return int(str(value))


def _strict_float(value: object) -> object:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", str(value), re.ASCII):
        raise ValueError("must be a number")
    return float(str(value))


def _strict_bool(value: object) -> object:
    if not (isinstance(value, bool) or value in ("true", "false")):
        raise ValueError("must be true or false")
    return value in (True, "true")


StrictInt = Annotated[int, BeforeValidator(_strict_int)]
StrictFloat = Annotated[float, BeforeValidator(_strict_float)]
StrictBool = Annotated[bool, BeforeValidator(_strict_bool)]


class Options(BaseModel):
    """The base of all options; no options by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassifyOptions(Options):
    top_k: StrictInt = Field(5, ge=1, description="number of most probable labels to return; all labels if there are fewer")
    threshold: StrictFloat = Field(0.0, ge=0, le=1, description="return only labels with at least this probability")


class SimilarOptions(Options):
    k: StrictInt = Field(5, ge=1, description="number of training images to return; all images if there are fewer")
    thumbnails: StrictBool = Field(False, description="whether to return their thumbnails, if the package contains any")


class ExplainOptions(Options):
    label: str | None = Field(
        None,
        description="the label to explain, one of /v1/labels; default: the most probable label",
        json_schema_extra={"format": "label"},
    )
    method: Literal["cam", "gradcam", "occlusion"] | None = Field(
        None,
        description="cam: class activation map, the exact contribution of each position to the logit; gradcam: its first-order"
        " approximation, for nearly any network, requires torch; occlusion: the drop in log-odds when a part is masked;"
        " default: cam if the network supports it, else occlusion",
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
            raise ProblemError("unknown_field", f"There is no option {name!r}; {hint}.", field=name)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = problems(error)[0]
        raise ProblemError(f"bad_{first.name}", f"{first.name}: {first.reason}.", field=first.name) from None
