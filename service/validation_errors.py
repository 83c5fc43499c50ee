"""Why a value of a pydantic model is invalid, in the words of this project instead of pydantic's. Imports pydantic only."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

MAX_COMPARED = 100  # characters of a value that are compared with the choices; the comparison takes quadratic time
REWORDED = "invalid_value"  # the type of an error whose message is final
# By pydantic's type of error; the names in braces are from its context.
REASONS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "has too many digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_sub_type": "must be text",
    "string_unicode": "must be valid UTF-8",
    "string_too_short": "must have {min_length} characters or more",
    "string_too_long": "must have {max_length} characters or fewer",
    "string_pattern_mismatch": "must match the regular expression {pattern}",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must have {min_length} values or more, not {actual_length}",
    "too_long": "must have {max_length} values or fewer, not {actual_length}",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "model_attributes_type": "must be a mapping of names to values",
    "none_required": "must be empty",
    "missing": "is missing",
    "extra_forbidden": "does not exist",
    "invalid_key": "must have a name that is text",
}


class Problem(NamedTuple):
    """One invalid field of a model.

    Attributes:
        name: of the field; "" if several fields contradict each other.
    """

    name: str
    value: Any
    reason: str


def reason(problem: ErrorDetails) -> str:
    """Why one value is invalid, such as `must be greater than 0`."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == REWORDED:
        return problem["msg"]
    if "error" in context:  # ours: raised by a validator
        return str(context["error"])
    if kind == "literal_error":
        return _one_of(_choices(problem), problem["input"])
    if kind == "string_too_short" and context.get("min_length") == 1:
        return "must not be empty"
    words = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
    return REASONS.get(kind, "is not valid").format_map(words)


def problems(error: ValidationError) -> list[Problem]:
    """The invalid fields, each once."""
    by_name: dict[str, list[ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        by_name.setdefault(str(problem["loc"][0]) if problem["loc"] else "", []).append(problem)
    return [Problem(name, found[0]["input"], _joint_reason(found)) for name, found in by_name.items()]


def reworded(error: ValidationError) -> ValidationError:
    """The same error with our messages, for a validator that wraps a model's own."""
    lines = [
        InitErrorDetails(type=PydanticCustomError(REWORDED, reason(problem)), loc=problem["loc"], input=problem["input"])
        for problem in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, lines)


def _joint_reason(found: list[ErrorDetails]) -> str:
    """The reason of a field; one that may be any of several types has an error for each."""
    if all(problem["type"] == "literal_error" for problem in found):
        return _one_of([choice for problem in found for choice in _choices(problem)], found[0]["input"])
    return reason(found[0])


def _choices(problem: Mapping[str, Any]) -> list[str]:
    """The values of a Literal, from a text such as `'auto', 'cpu' or 'cuda'`."""
    return [choice.strip("'") for choice in str(problem["ctx"]["expected"]).replace(" or ", ", ").split(", ")]


def _one_of(choices: list[str], value: object) -> str:
    nearest = get_close_matches(value[:MAX_COMPARED].lower(), choices, 1) if isinstance(value, str) else []
    listed = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    return f"must be {listed}{f' (did you mean {nearest[0]}?)' if nearest else ''}"
