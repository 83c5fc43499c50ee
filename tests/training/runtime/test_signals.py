"""The first signal asks and the second leaves; nobody's handlers are kept."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.training.runtime.signals import ASKING, Stop, patience

ROOT = Path(__file__).parents[3]
SAID = "stopping after this batch; once more leaves at once\n"


def ending(work: Callable[[Stop], object]) -> object:
    """The exit code that patient work ends with; None if it just ends."""
    try:
        with patience() as stop:
            work(stop)
    except SystemExit as ended:
        return ended.code
    return None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_asks_and_ends_with_its_own_code_once_the_work_is_done(number: int, code: int, capsys):
    seen: list[int] = []

    def work(stop: Stop) -> None:
        seen.append(stop.signal)
        os.kill(os.getpid(), number)
        seen.append(stop.signal)

    assert ending(work) == code
    assert seen == [0, number]
    assert capsys.readouterr().err == SAID


def test_work_that_nobody_stops_just_ends(capsys):
    assert ending(lambda stop: None) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 130), ("SIGINT", "SIGTERM", 143)]
)
def test_second_signal_leaves_at_once(first: str, second: str, code: int):
    program = (
        "import os, signal\n"
        "from graft.training.runtime.signals import patience\n"
        "with patience():\n"
        f"    os.kill(os.getpid(), signal.{first})\n"
        f"    os.kill(os.getpid(), signal.{second})\n"
        "    print('never reached')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", SAID)


def test_handlers_are_given_back_whatever_happens():
    before = [signal.getsignal(number) for number in ASKING]

    def work(_: Stop) -> None:
        assert [signal.getsignal(number) for number in ASKING] != before
        raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        ending(work)
    assert [signal.getsignal(number) for number in ASKING] == before


def test_ending_that_nobody_asked_for_is_passed_on():
    assert ending(lambda stop: sys.exit(7)) == 7


def test_another_librarys_own_way_of_ending_gets_the_signals_code():
    def work(_: Stop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(0)  # as Lightning does

    assert ending(work) == 143


def test_loader_process_that_gets_the_terminals_signal_too_says_nothing(capfd):
    def work(stop: Stop) -> None:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if stop.signal == signal.SIGINT else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert stop.signal == 0

    assert ending(work) is None
    assert capfd.readouterr().err == ""


def test_in_another_thread_it_stays_out_of_the_way():
    before, found = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=ending, args=[lambda stop: found.append(signal.getsignal(signal.SIGINT))])
    thread.start()
    thread.join()
    assert found == [before]
