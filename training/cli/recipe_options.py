"""The options of `graft fit`, generated from the fields of `Recipe`, each in the group that its field names."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from graft.training.cli.base_parser import Parser

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def add_recipe_options(
    command: Parser, selected: bool, exclude: Collection[str] = (), only_reading_and: Collection[str] | None = None
) -> None:
    """Adds an option for each field.

    Args:
        selected: whether the command is used at all; importing the recipe is slow.
        exclude: names of fields.
        only_reading_and: names of the only fields besides those of `ReadOptions`; None for all fields.
    """
    command.add_argument(
        "--recipe", type=Path, metavar="FILE", help="YAML file with any of the options in the groups below (default: none)"
    )
    if not selected:
        return
    from graft.training.config.read_options import ReadOptions
    from graft.training.config.recipe import Recipe, option_flag

    included = Recipe.model_fields if only_reading_and is None else {*ReadOptions.model_fields, *only_reading_and}
    for name, field in Recipe.model_fields.items():
        if name not in exclude and name in included:
            group = command.groups[str(_extra(field, "group", "advanced"))]
            group.add_argument(option_flag(name), **_settings(name, field))


def _settings(name: str, field: "FieldInfo") -> dict[str, Any]:
    """The arguments of `add_argument`."""
    # What None means is in the field.
    default = _extra(field, "unset", "derived from the data") if field.default in (None, ()) else field.default
    default = str(default).lower() if isinstance(default, bool) else default
    settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    settings["help"] = f"{field.description} (default: {default})".replace("%", "%%")
    if field.annotation in (bool, bool | None):
        return settings | {"action": argparse.BooleanOptionalAction}
    return settings | {"metavar": _extra(field, "metavar", _metavar(name, field))}


def _metavar(name: str, field: "FieldInfo") -> str:
    types = {field.annotation, *get_args(field.annotation)}
    return "|".join(choices(field)) or ("N" if int in types else "X" if float in types else name.upper())


def choices(field: "FieldInfo") -> tuple[str, ...]:
    """The values of a field that is a Literal, or a Literal in a union with None; else none."""
    types = (field.annotation, *get_args(field.annotation))
    return next((tuple(map(str, get_args(kind))) for kind in types if get_origin(kind) is Literal), ())


def _extra(field: "FieldInfo", name: str, default: object) -> object:
    extra = field.json_schema_extra
    return extra.get(name, default) if isinstance(extra, dict) else default
