"""Entry point of the `graft` command. Handlers import heavy modules lazily, so that `--help` is fast."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from graft.training.cli.commands import ACTIONS
from graft.training.cli.exit_codes import _code, _text
from graft.training.cli.parser import parser


def _terminated(_: int, __: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(argv, ACTIONS).parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        code = _code(error)
        if code == 0 or arguments.debug:
            raise
        print(f"error: {_text(error)}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
