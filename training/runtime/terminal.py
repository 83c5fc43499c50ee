"""What an output stream is: a terminal, a notebook cell, or something else. rich is imported only for a terminal."""

import os
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether the stream is a terminal that can move its cursor; a terminal with TERM=dumb cannot."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    except ValueError:  # the stream is closed
        return False


def is_notebook() -> bool:
    """Whether this process runs the cells of a Jupyter notebook."""
    ipython = sys.modules.get("IPython")  # a notebook has imported it already
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def make_console(stream: IO[str]) -> "Console":
    """A rich console for a terminal. It prints text as it is: no markup, no emoji codes, no highlighted numbers."""
    from rich.console import Console

    color_system = None if os.environ.get("NO_COLOR") else "auto"
    return Console(
        file=stream,
        force_terminal=True,
        force_jupyter=False,
        color_system=color_system,  # type: ignore[arg-type]
        no_color=color_system is None,
        markup=False,
        emoji=False,
        highlight=False,
    )


def sanitize(text: str) -> str:
    """Escapes control characters and other unprintable ones, such as those in file names; keeps tabs and line breaks."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character in "\n\t" else _escape(character) for character in text)


def _escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 0x7F else f"\\x{ord(character):02x}"
