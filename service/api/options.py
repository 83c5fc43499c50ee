"""What a caller may choose for one request: the options of each route, and how they are read from text."""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import Refused


def _whole(value: object) -> object:
    """Digits, or an integer, which in JSON 5.0 is too; true is none, although Python's bool is an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,4000}", str(value)):
        raise ValueError("must be a whole number")
    return int(str(value))


def _number(value: object) -> object:
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", str(value), re.ASCII):
        raise ValueError("must be a number")
    return float(str(value))


def _truth(value: object) -> object:
    if not (isinstance(value, bool) or value in ("true", "false")):
        raise ValueError("must be true or false")
    return value in (True, "true")


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]


class Options(BaseModel):
    """No options at all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassifyOptions(Options):
    top_k: Whole = Field(5, ge=1, description="how many of the most probable labels to tell; all of them if there are fewer")
    threshold: Number = Field(0.0, ge=0, le=1, description="tell only labels that are at least this probable")


class SimilarOptions(Options):
    k: Whole = Field(5, ge=1, description="how many training images to tell; all of them if there are fewer")
    thumbnails: Truth = Field(False, description="whether to send their pictures, where the package holds any")


class ExplainOptions(Options):
    label: str | None = Field(
        None,
        description="one of /v1/labels, to be explained; the most probable one unless given",
        json_schema_extra={"format": "label"},
    )
    method: Literal["cam", "gradcam", "occlusion"] | None = Field(
        None,
        description="cam: what each part adds to the logit; gradcam: the same to first order, for nearly any network, where"
        " there is torch; occlusion: what covering it takes away; the better one of cam and occlusion unless given",
    )
    deletion: Truth = Field(
        False, description="whether an answer in JSON says if the map explains anything; it takes 142 passes of the network"
    )


Kind = TypeVar("Kind", bound=Options)


def parsed(kind: type[Kind], *givens: dict[str, Any]) -> Kind:
    """The options of a request; what is given later counts more.

    Raises:
        Refused: with the name of an option that is unknown or cannot be used, even if it does not count.
    """
    for given in givens:
        _parsed(kind, given)
    return _parsed(kind, {name: value for given in givens for name, value in given.items()})


def _parsed(kind: type[Kind], given: dict[str, Any]) -> Kind:
    known = kind.model_fields
    for name in given:
        if name not in known:
            there = f"there are: {', '.join(known)}" if known else "there are none here"
            raise Refused("unknown_field", f"There is no option {name!r}; {there}.", field=name)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name, why = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
        raise Refused(f"bad_{name}", f"{name}: {why}.", field=name) from None
