"""Graceful stop: the first signal requests a stop, the second exits; handlers are restored."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.training.runtime.signals import STOP_SIGNALS, StopFlag, allow_graceful_stop, graceful_stop

ROOT = Path(__file__).parents[3]
MESSAGE = "stopping after this batch; interrupt again to exit at once\n"


def exit_code(work: Callable[[StopFlag], object]) -> object:
    """Return the exit code of work inside the graceful-stop context; None if there is none."""
    try:
        with allow_graceful_stop(), graceful_stop() as stop:
            work(stop)
    except SystemExit as error:
        return error.code
    return None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_requests_a_stop_with_its_exit_code(number: int, code: int, capsys):
    observed: list[int] = []

    def work(stop: StopFlag) -> None:
        observed.append(stop.signal)
        os.kill(os.getpid(), number)
        observed.append(stop.signal)

    assert exit_code(work) == code
    assert observed == [0, number]
    assert capsys.readouterr().err == MESSAGE


def test_no_signal_has_no_exit_code(capsys):
    assert exit_code(lambda stop: None) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)]
)
def test_second_signal_exits_at_once(first: str, second: str, code: int):
    program = (
        "import os, signal\n"
        "from graft.training.runtime.signals import allow_graceful_stop, graceful_stop\n"
        "with allow_graceful_stop(), graceful_stop():\n"
        f"    os.kill(os.getpid(), signal.{first})\n"
        f"    os.kill(os.getpid(), signal.{second})\n"
        "    print('never reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", MESSAGE)


def test_handlers_are_restored_after_an_error():
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]

    def work(_: StopFlag) -> None:
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != handlers
        raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        exit_code(work)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers


def test_unrelated_system_exit_is_propagated():
    assert exit_code(lambda stop: sys.exit(7)) == 7


def test_system_exit_after_a_signal_has_the_signals_code():
    def work(_: StopFlag) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(0)  # as Lightning does

    assert exit_code(work) == 143


def test_signal_in_a_child_process_prints_nothing(capfd):
    def work(stop: StopFlag) -> None:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if stop.signal == signal.SIGINT else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert stop.signal == 0

    assert exit_code(work) is None
    assert capfd.readouterr().err == ""


def test_handlers_are_unchanged_in_other_threads():
    handlers, observed = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=exit_code, args=[lambda stop: observed.append(signal.getsignal(signal.SIGINT))])
    thread.start()
    thread.join()
    assert observed == [handlers]


def test_without_permission_no_handler_is_taken():
    handlers = [signal.getsignal(number) for number in STOP_SIGNALS]
    with graceful_stop() as stop:
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == handlers
        assert stop.signal == 0


def interrupt_as_lightning_does() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(1)


def test_without_permission_the_exit_of_lightning_becomes_keyboard_interrupt():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), graceful_stop():
        interrupt_as_lightning_does()
    assert signal.getsignal(signal.SIGINT) == handler
