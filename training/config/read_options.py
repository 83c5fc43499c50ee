"""Options for reading a data set: which folders or columns hold the labels and splits. `Recipe` extends them."""

import re
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from graft.service.validation_errors import reworded

DATA: JsonDict = {"group": "data"}
LEVELS = ("split", "fold", "label", "*")  # what one level of folders can be; * is passed over


class ReadOptions(BaseModel):
    """How to read a data set. A value of None is found out from the data, and printed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layout: str | None = Field(
        None,
        description="what each level of folders is, from the top: label, split/label, fold/label, label/split, */label, ...",
        json_schema_extra=DATA | {"unset": "found out from the folder names", "metavar": "LEVELS"},
    )
    fold: int | None = Field(
        None,
        ge=0,
        description="the fold to test on, if the data come in folds",
        json_schema_extra=DATA | {"unset": "the last one"},
    )
    path_column: str | None = Field(
        None,
        min_length=1,
        description="table column with the image files; for Parquet, with the images",
        json_schema_extra=DATA | {"unset": "found out from its name and values"},
    )
    label_column: tuple[str, ...] = Field(
        (),
        description="table column with the labels, or several columns of 0 and 1, separated by commas",
        json_schema_extra=DATA | {"unset": "found out from the names and values", "metavar": "A,B"},
    )
    split_column: str | None = Field(
        None,
        min_length=1,
        description="table column with the split of each row",
        json_schema_extra=DATA | {"unset": "found out from its name"},
    )
    suffix: str = Field(
        "",
        pattern=r"^(\.?[A-Za-z0-9_.]+)?$",
        description="text to add to each path of a table, such as .jpg",
        json_schema_extra=DATA | {"unset": "none"},
    )
    label_regex: str | None = Field(
        None,
        min_length=1,
        description="read labels from file names: a regex on the path, whose first group is the label",
        json_schema_extra=DATA | {"unset": "labels are folder names", "metavar": "REGEX"},
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        description="keep images that share this value in one split: a table column, a regex on the path, none, or auto for"
        " bursts of photos, which have consecutive names and look alike",
        json_schema_extra=DATA | {"unset": "auto, if every label has enough bursts for the splits"},
    )
    allow_near_leaks: bool = Field(
        False,
        description="go on if an image in one given split is a near copy of one in another: cropped, resized, mirrored, ...",
        json_schema_extra=DATA,
    )
    follow_links: bool = Field(False, description="follow symbolic links that point outside the folder", json_schema_extra=DATA)

    @property
    def declared_group(self) -> str | None:
        """The column or expression of `group_by`; None if that is not given, none or auto."""
        return None if self.group_by in ("none", "auto") else self.group_by

    @model_validator(mode="wrap")
    @classmethod
    def _reword_errors(cls, options: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(options)
        except ValidationError as error:
            raise reworded(error) from None

    @field_validator("layout")
    @classmethod
    def _validate_layout(cls, layout: str | None) -> str | None:
        levels = ["label"] if layout is None else layout.split("/")
        if set(levels) - set(LEVELS) or any(levels.count(level) > 1 for level in levels if level != "*"):
            raise ValueError(f"{layout!r} is not made of the levels split, fold, label and *, such as split/label")
        return layout

    @field_validator("label_column", mode="before")
    @classmethod
    def _split_columns(cls, names: Any) -> Any:
        return tuple(filter(None, (name.strip() for name in names.split(",")))) if isinstance(names, str) else names

    @field_validator("label_regex")
    @classmethod
    def _validate_regex(cls, pattern: str | None) -> str | None:
        try:
            has_group = pattern is None or re.compile(pattern).groups > 0
        except re.error as error:
            raise ValueError(f"{pattern} is not a valid regular expression: {error}") from None
        if not has_group:
            raise ValueError(f"{pattern} has no group: put parentheses around the label")
        return pattern
