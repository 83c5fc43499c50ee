"""Entry point of the `graft` command. Handlers import heavy modules lazily, so that `--help` is fast."""

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from graft.training.cli import completion
from graft.training.cli.commands import HANDLERS
from graft.training.cli.exit_codes import error_message, exit_code
from graft.training.cli.parser import build_parser
from graft.training.runtime import progress
from graft.training.runtime.signals import allow_graceful_stop


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code. Leaves verbosity, logging and signal handlers as they were."""
    if completion.is_requested():
        completion.complete(build_parser(completion.typed_words(), HANDLERS))
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(argv, HANDLERS)
    if not argv:
        parser.print_help()
        return 0
    arguments = parser.parse_args(argv)
    with progress.verbosity(arguments.verbosity), _exit_on_sigterm(), allow_graceful_stop():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except KeyboardInterrupt:
        progress.log("interrupted")
        return 128 + signal.SIGINT
    except Exception as error:
        code = exit_code(error)
        if code == 0:
            raise
        if progress.is_verbose():
            progress.log(traceback.format_exc().rstrip())
        progress.log(f"error: {error_message(error)}")
        return code


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into SystemExit, so that a run folder is unlocked and the terminal is restored."""
    previous = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _on_sigterm(_: int, __: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
