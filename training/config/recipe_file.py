"""Reads the YAML file of a recipe, which may come from somewhere else: in bounded memory, and without aliases."""

from pathlib import Path

import yaml

from graft.training.runtime import os_errors

MAX_RECIPE_BYTES = 2**16  # a recipe with all options has 2 KB
MAX_DEPTH = 10  # of lists and mappings in each other; PyYAML's time grows with its square


class _Unsuitable(Exception):
    """The file is not parsed; the message says why."""


def read_yaml(path: Path) -> object:
    """The document in a YAML file; an empty mapping if it is empty. Raises ValueError if it cannot be read."""
    try:
        return _parse(_read(path)) or {}
    except OSError as error:
        reason = os_errors.describe(error)
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"{f'line {mark.line + 1}' if mark else 'it'} is not valid YAML"
    except _Unsuitable as error:
        reason = str(error)
    except ValueError:  # such as the date 2026-99-99
        reason = "it is not valid YAML"
    raise ValueError(f"{path} cannot be read as a recipe: {reason}.")


def _read(path: Path) -> str:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise _Unsuitable("it is not a file, but a named pipe or a device")
    with path.open("rb") as file:
        content = file.read(MAX_RECIPE_BYTES + 1)
    if len(content) > MAX_RECIPE_BYTES:
        raise _Unsuitable(f"it has more than {MAX_RECIPE_BYTES:,} bytes")
    return content.decode("utf-8-sig")


def _parse(text: str) -> object:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        # Aliases of aliases grow to any size: ten lines can stand for a gigabyte.
        if isinstance(event, yaml.AliasEvent):
            raise _Unsuitable(f"line {line} has the alias *{str(event.anchor)[:40]}; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Unsuitable(f"line {line} is nested deeper than {MAX_DEPTH} levels")
    return yaml.safe_load(text)
