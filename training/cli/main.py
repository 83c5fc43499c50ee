"""Entry point of the `graft` command. Handlers import heavy modules lazily, so that `--help` is fast."""

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from graft.training.cli import completion, standard_streams
from graft.training.cli.commands import HANDLERS
from graft.training.cli.exit_codes import EXIT_BUG, EXIT_CLOSED_PIPE, error_message, exit_code
from graft.training.cli.parser import build_parser, parse
from graft.training.runtime import progress
from graft.training.runtime.signals import allow_graceful_stop


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code. Leaves verbosity, logging and signal handlers as they were."""
    if completion.is_requested():
        completion.complete(build_parser(completion.typed_words(), HANDLERS))
    try:
        with standard_streams.flushed():
            return _run(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:  # in `graft ... | head`, the reader has seen enough
        standard_streams.discard()
        return EXIT_CLOSED_PIPE
    except OSError as error:  # from the flush
        standard_streams.discard()
        return _report(error)


def _run(argv: list[str]) -> int:
    if not argv:
        build_parser(argv, HANDLERS).print_help()
        return 0
    arguments = parse(argv, HANDLERS)
    with progress.verbosity(arguments.verbosity), _exit_on_sigterm(), allow_graceful_stop():
        return _run_command(arguments)


def _run_command(arguments: argparse.Namespace) -> int:
    try:
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except KeyboardInterrupt:
        progress.log("interrupted")
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and standard_streams.has_closed_pipe():
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """Prints an error, with its traceback if it is a bug; returns the exit code."""
    code = exit_code(error)
    if code == EXIT_BUG or progress.is_verbose():
        progress.close_bars()
        progress.log(f"error: {''.join(traceback.format_exception(error)).rstrip()}")
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
