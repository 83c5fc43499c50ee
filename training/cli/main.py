"""Entry point of the `graft` command. Handlers import heavy modules lazily, so that `--help` is fast."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from graft.training.cli.commands import HANDLERS
from graft.training.cli.exit_codes import error_message, exit_code
from graft.training.cli.parser import build_parser


def _on_sigterm(_: int, __: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser(argv, HANDLERS).parse_args(argv)
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        code = exit_code(error)
        if code == 0 or arguments.debug:
            raise
        print(f"error: {error_message(error)}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
