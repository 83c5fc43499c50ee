"""What the records of a package are made of: their base class, and the types of their texts and numbers."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from .visible_text import control_problem, text_problem


def _check_text(text: str) -> str:
    if problem := text_problem(text):
        raise ValueError(problem)
    return text


def _check_note(text: str) -> str:
    if problem := control_problem(text):
        raise ValueError(problem)
    return text


Text = Annotated[str, AfterValidator(_check_text)]
Note = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_check_note)]  # may be empty, or long
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """A record of a package: it cannot be changed, has no other fields, and its numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
