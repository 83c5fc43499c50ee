"""Tables of the deployment settings, the recipe, the image formats and the packages, from the code that defines them."""

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from generator.import_graph import HALVES, is_package, purpose, read_layers
from generator.markdown import code, prose, table
from graft.service.imaging.formats import FORMATS
from graft.service.settings import ENV_PREFIX, Settings
from graft.training.config.recipe import Recipe

# Defaults that no value in the code tells.
DEFAULT_TEXTS = {"package": "`runs/latest/package`; in a Bento, its own"}
TRAINING_SETTINGS = [
    ("GRAFT_CACHE", "`~/.cache/graft`", "folder for exported backbones and features; used by training, ignored by the service"),
]


def settings() -> str:
    """Every GRAFT_* variable with its default and its meaning."""
    rows = [
        (code(f"{ENV_PREFIX}{name.upper()}"), DEFAULT_TEXTS.get(name) or _default(field), _meaning(field))
        for name, field in Settings.model_fields.items()
    ]
    return table(("setting", "default", "meaning"), [*rows, *((code(name), *rest) for name, *rest in TRAINING_SETTINGS)])


def recipe_options() -> str:
    """Every field of the recipe by group: the name in a YAML file, the default and the meaning."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in Recipe.model_fields.items():
        extra = field.json_schema_extra
        group = str(extra.get("group", "other")) if isinstance(extra, dict) else "other"
        groups.setdefault(group, []).append((code(name), _default(field), _meaning(field)))
    return "\n\n".join(
        f"### {group.capitalize()} {{ #options-{group} }}\n\n{table(('option', 'default', 'meaning'), rows)}"
        for group, rows in groups.items()
    )


def formats() -> str:
    """The image formats with the suffixes of their files and where they are accepted."""
    rows = [
        (
            image_format.label,
            ", ".join(map(code, image_format.suffixes)),
            "always" if image_format.always_served else "if the training images include it",
        )
        for image_format in FORMATS
    ]
    return table(("format", "file suffixes", "accepted by a service"), rows)


def packages() -> str:
    """Every package and top-level module of both halves, from the top layer to the bottom."""
    return "\n\n".join(f"### {half}/ {{ #{half} }}\n\n{prose(purpose('', half))}\n\n{_packages_of(half)}" for half in HALVES)


def _packages_of(half: str) -> str:
    names = [name for layer in read_layers(half) for name in layer]
    rows = [(code(f"{name}/" if is_package(half, name) else f"{name}.py"), prose(purpose(half, name))) for name in names]
    return table(("package", "purpose"), rows)


def _meaning(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    text = prose(field.description or "")
    return f"{text} ({', '.join(map(code, choices))})" if choices else text


def _choices(annotation: Any) -> list[str]:
    """The values of a Literal, also inside a union."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [choice for part in get_args(annotation) if part is not NoneType for choice in _choices(part)]


def _default(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if field.default in (None, ()) and isinstance(extra, dict) and "unset" in extra:
        return prose(str(extra["unset"]))
    if field.default is None:
        return "not set" if {SecretStr, Path} & set(get_args(field.annotation)) else "derived from the data"
    if isinstance(field.default, bool):
        return code(str(field.default).lower())
    return code(f"{field.default:,}" if isinstance(field.default, int) else f"{field.default}")
