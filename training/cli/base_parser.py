"""The argument parser of Graft's commands: option groups, examples at the end of the help, errors in one line."""

import argparse
import sys
from typing import Any

from graft.training.cli import usage_errors
from graft.training.runtime import progress

EXIT_USAGE = 2  # exit code
GROUPS = ("data", "model", "training", "augmentation", "output", "advanced")  # of options, in the order of the help
MAX_HELP_COLUMNS = 100


class Parser(argparse.ArgumentParser):
    """A parser whose help has the groups of GROUPS; an empty group is not shown.

    Attributes:
        groups: the option groups by name.
    """

    def __init__(self, **settings: Any) -> None:
        # No abbreviations: one that works today is ambiguous as soon as another option starts with the same letters.
        super().__init__(formatter_class=_HelpFormatter, add_help=False, allow_abbrev=False, **settings)
        self.add_argument("-h", "--help", action="help", help="show this help and exit")
        self.groups = {name: self.add_argument_group(name) for name in GROUPS}

    def error(self, message: str) -> Any:
        """Prints the error in one line and exits."""
        text = usage_errors.reword(message, self)
        progress.log(f"error: {text}{'' if text.endswith(('.', '?', ')')) else '.'}\nSee: {self.prog} --help")
        raise SystemExit(EXIT_USAGE)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Writes a message. argparse ignores errors, but a closed pipe has an exit code of its own."""
        (file or sys.stderr).write(message)

    def add_verbosity(self, default: str) -> None:
        """Adds --quiet and --verbose.

        Args:
            default: "normal", or argparse.SUPPRESS for a command, so that it keeps what was set before its name.
        """
        group = self.add_mutually_exclusive_group()
        levels = {
            "quiet": "print only results, warnings and errors: no progress, no status lines",
            "verbose": "print the messages of libraries too, and the full traceback of an error",
        }
        for level, help_text in levels.items():
            options: dict[str, Any] = {"dest": "verbosity", "action": "store_const", "const": level, "default": default}
            group.add_argument(f"-{level[0]}", f"--{level}", help=f"{help_text} (default: no)", **options)

    def set_usage(self) -> None:
        """Sets a usage line with the positional arguments only: `graft fit` has more than fifty options."""
        positionals = [action for action in self._actions if not action.option_strings]
        shape = {"?": "[{0}]", "+": "{0} [{0} ...]"}
        words = [shape.get(str(action.nargs), "{0}").format(_name(action)) for action in positionals]
        self.usage = " ".join(["%(prog)s", *words, "[options]"])


class Version(argparse.Action):
    """Prints the version and exits."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, help="print the version", **{k: v for k, v in settings.items() if k != "nargs"})

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(version("graft-vision"))
        raise SystemExit(0)


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps at the width of the terminal, up to 100 columns; keeps the lines of the examples."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=26, **settings)
        self._width = min(self._width, MAX_HELP_COLUMNS)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def _name(action: argparse.Action) -> str:
    return str(action.metavar or action.dest.upper())
