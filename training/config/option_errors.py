"""The error of an invalid option, which knows its name, so that each caller can write it the way the option was given."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from graft.service.validation_errors import problems


class InvalidOption(NamedTuple):
    """One invalid option.

    Attributes:
        file: the recipe file that sets it; None for a flag or an argument.
    """

    name: str
    value: object
    reason: str
    file: Path | None = None

    def to_text(self) -> str:
        """One line: `epochs=0: must be greater than 0.`, or of a file `recipe.yaml: epochs: 0: must be greater than 0.`"""
        start = f"{self.file}: {self.name}: {_to_yaml(self.value)}" if self.file else f"{self.name}={self.value!r}"
        return f"{start}: {self.reason}."


class OptionError(ValueError):
    """Options are invalid. The message has a line for each, in the words of the Python API."""

    def __init__(self, options: Sequence[InvalidOption]) -> None:
        super().__init__("\n".join(option.to_text() for option in options))
        self.options = tuple(options)


def from_validation(error: ValidationError, fields: Sequence[str], file: Path | None, overrides: Sequence[str]) -> OptionError:
    """The error for a model of options.

    Args:
        fields: the options that exist.
        file: the file that the options come from, if any,
        overrides: and those that do not come from it.
    """
    invalid = []
    for name, value, reason in problems(error):
        source = None if name in overrides else file
        invalid.append(InvalidOption(name, value, reason if name in fields else _suggest(name, fields), source))
    return OptionError(invalid)


def _suggest(name: str, fields: Sequence[str]) -> str:
    """Why an option that does not exist is refused, with the nearest one that does."""
    wanted = name.replace("-", "_").lower()
    nearest = [field for field in fields if field.startswith(f"{wanted}_")] or get_close_matches(wanted, fields, 1)
    return f"there is no such option{f' (did you mean {nearest[0]}?)' if nearest else ''}"


def _to_yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
