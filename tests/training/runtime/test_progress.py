"""Progress output on a terminal, in a notebook and elsewhere."""

import io
import logging
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from pseudo_terminal import TerminalRun, run_in_terminal

from graft.training.runtime import progress
from graft.training.runtime.progress import Progress, format_duration, format_progress, format_rate, log, verbosity

ROOT = Path(__file__).parents[3]
COLOR = re.compile(r"\x1b\[[0-9;]*m")
ONE_BAR = """
with Progress("reading", 500, "images") as bar:
    for _ in range(10):
        bar.advance(25)
        time.sleep(0.03)
"""


def in_terminal(program: str, **settings: object) -> TerminalRun:
    """Runs a program that imports the names of this module, in a terminal."""
    imports = (
        "import logging, os, sys, threading, time\n"
        "from graft.training.runtime.progress import Progress, close_bars, log, verbosity\n"
    )
    return run_in_terminal([sys.executable, "-c", imports + program], PYTHONPATH=str(ROOT), **settings)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_duration_format(seconds: float, expected: str):
    assert format_duration(seconds) == expected


def test_line_has_count_rate_and_remaining_time():
    assert format_progress("reading", 1200, 5000, "images", 4.0) == "reading 1,200/5,000 images, 300/s, 13 s left"


def test_line_without_a_total_has_no_remaining_time():
    assert format_progress("listing", 1200, 0, "files", 4.0) == "listing 1,200 files, 300/s"


def test_finished_task_has_no_remaining_time():
    assert format_progress("reading", 30, 30, "images", 2.0) == "reading 30/30 images, 15/s, 0 s left"


def test_task_that_has_just_begun_has_no_rate():
    assert format_progress("reading", 0, 10, "images", 2.0) == "reading 0/10 images"


@pytest.mark.parametrize(
    ("per_second", "expected"),
    [(1234, "1,234/s"), (9.96, "10/s"), (2.44, "2.4/s"), (0.5, "30/min"), (0.02, "1.2/min"), (0, "0/s")],
)
def test_rate_is_never_rounded_to_zero(per_second: float, expected: str):
    assert format_rate(per_second) == expected


def test_items_are_unchanged_and_in_order():
    with Progress("reading", 3, "images") as bar:
        assert list(bar.track("abc")) == ["a", "b", "c"]


def test_short_task_prints_nothing_without_a_terminal(capsys):
    with Progress("reading", 1000, "images") as bar:
        for _ in bar.track(range(1000)):
            pass
    assert capsys.readouterr() == ("", "")


def test_terminal_shows_a_bar_with_rate_and_time_left_and_erases_it():
    run = in_terminal(f"{ONE_BAR}\nprint('done')")
    assert re.search(r"reading ━.* \d+/500 images +\d+/s +\d+ s left", run.text)
    assert COLOR.search(run.output)
    assert run.screen == ["done"]


def test_terminal_shows_no_bar_without_a_total():
    run = in_terminal(ONE_BAR.replace("500", "0"))
    assert re.search(r"reading +\d+ images +\d+/s", run.text)
    assert "━" not in run.text


def test_cursor_stays_visible_so_that_a_killed_process_leaves_a_usable_terminal():
    run = in_terminal("with Progress('reading', 5, 'images') as bar:\n    time.sleep(0.3)\n    os._exit(9)")
    assert run.returncode == 9
    assert run.output.rindex("\x1b[?25h") > run.output.rindex("\x1b[?25l")


def test_two_bars_share_the_screen_and_lines_appear_above_them():
    program = """
with Progress("outer", 10, "steps") as outer, Progress("inner", 10, "images") as inner:
    for number in range(10):
        outer.advance(1)
        inner.advance(1)
        time.sleep(0.05)
        if number == 5:
            log("a status line")
            print("a result")
            print("a warning of a library", file=sys.stderr)
            time.sleep(0.3)
            os.write(2, b"<now>")
"""
    run = in_terminal(program)
    during = TerminalRun(0, run.output.partition("<now>")[0], "").screen
    assert during[:3] == ["a status line", "a result", "a warning of a library"]
    assert ["outer" in line for line in during[3:]] == [True, False]
    assert ["inner" in line for line in during[3:]] == [False, True]
    assert not any("━" in line for line in run.screen)


def test_bars_of_several_threads_share_the_screen():
    program = """
def work(name):
    with Progress(name, 10, "images") as bar:
        for _ in range(10):
            bar.advance(1)
            time.sleep(0.03)
threads = [threading.Thread(target=work, args=[name]) for name in ("first", "second", "third")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("done")
"""
    run = in_terminal(program)
    assert run.returncode == 0
    assert all(name in run.text for name in ("first", "second", "third"))
    assert run.screen == ["done"]


def test_piped_results_stay_in_the_pipe():
    run = in_terminal(ONE_BAR.replace("bar.advance", "print('result'); bar.advance"), pipe_stdout=True)
    assert run.stdout == "result\n" * 10
    assert "result" not in run.output


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
def test_bar_fits_the_width(columns: int):
    run = in_terminal(ONE_BAR.replace("reading", "trial 13/20, epoch 12/100"), columns=columns)
    assert max(len(line) for line in run.text.splitlines()) <= columns
    assert "trial" in run.text


def test_no_color_means_no_colors():
    run = in_terminal(f"{ONE_BAR}\nlog('warning: careful')", NO_COLOR="1")
    assert "━" in run.text
    assert not COLOR.search(run.output)


def test_dumb_terminal_gets_plain_lines():
    run = in_terminal(f"{ONE_BAR}\nlog('warning: careful')", TERM="dumb")
    assert run.output == "warning: careful\r\n"


def test_warnings_and_errors_are_colored_and_other_lines_are_not():
    run = in_terminal("log('warning: careful'); log('error: broken'); log('a line with 12 numbers')")
    assert run.text == "warning: careful\nerror: broken\na line with 12 numbers\n"
    assert [bool(COLOR.search(line)) for line in run.output.splitlines()] == [True, True, False]


def test_long_line_is_not_broken_so_that_it_can_be_copied():
    run = in_terminal("log('graft fit ' + 'x' * 100)", columns=40)
    assert run.text == f"graft fit {'x' * 100}\n"


def test_names_are_never_markup_and_never_control_the_terminal():
    name = r"'[bold]a[/] :cat: \x1b[31mred\x07 \u202e\udcff.png'"
    program = f"log({name})\nwith Progress({name}, 5, 'images') as bar:\n    time.sleep(0.3)"
    run = in_terminal(program, columns=120)
    assert run.screen[0] == r"[bold]a[/] :cat: \x1b[31mred\x07 \u202e\udcff.png"
    assert run.text.count(r"[bold]a[/] :cat: \x1b[31mred\x07") >= 2
    assert "\x1b[31m" not in run.output


def test_names_are_escaped_without_a_terminal(capsys):
    log("a\x1b[31m\udcff.png\tb")
    assert capsys.readouterr().err == "a\\x1b[31m\\udcff.png\tb\n"


def test_forked_process_prints_without_the_bars_of_its_parent():
    program = """
with Progress("reading", 5, "images") as bar:
    time.sleep(0.2)
    child = os.fork()
    if child == 0:
        log("from the child")
        print("its result")
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    run = in_terminal(program)
    assert run.returncode == 0
    assert "from the child" in run.text
    assert "its result" in run.text


def test_bars_left_by_an_exception_are_erased():
    program = """
with verbosity("normal"):
    Progress("reading", 5, "images").__enter__()
    time.sleep(0.2)
print("done")
"""
    run = in_terminal(program)
    assert "reading" in run.text
    assert run.screen == ["done"]


def test_quiet_prints_warnings_and_errors_only():
    run = in_terminal(f"with verbosity('quiet'):\n    log('reading')\n    log('warning: w')\n    log('error: e')\n{ONE_BAR}")
    assert run.text.startswith("warning: w\nerror: e\n")
    program = f"with verbosity('quiet'):\n{ONE_BAR.replace(chr(10), chr(10) + '    ')}\n    pass"
    assert in_terminal(program).output == ""


def test_verbosity_is_restored(capsys):
    with verbosity("quiet"):
        log("hidden")
        with pytest.raises(ValueError, match="x"), verbosity("verbose"):
            raise ValueError("x")
        log("hidden")
    log("shown")
    assert capsys.readouterr().err == "shown\n"


def test_verbose_prints_messages_of_libraries(capsys):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with verbosity("verbose"):
        logging.getLogger("some.library").info("loading %s", "weights")
        logging.getLogger("some.library").debug("a detail")
    logging.getLogger("some.library").info("hidden")
    assert capsys.readouterr().err == "some.library: loading weights\n"
    assert (root.level, list(root.handlers)) == before


@pytest.fixture
def notebook(monkeypatch) -> list[tuple[str, str]]:
    """A notebook without ipywidgets: the calls that reach its page, as (action, text)."""
    calls: list[tuple[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            calls.append(("update", content["text/plain"]))

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        calls.append(("display", content["text/plain"]))
        return Handle()

    shell = types.SimpleNamespace(kernel=object(), execution_count=7)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    return calls


def test_notebook_updates_one_output_in_place(notebook, monkeypatch, capsys):
    monkeypatch.setattr("time.monotonic", iter(range(10_000)).__next__)
    for description in ("reading", "features"):
        with Progress(description, 100, "images") as bar:
            bar.advance(25)
            bar.advance(25)
    assert [action for action, _ in notebook] == ["display", *["update"] * 5]
    assert notebook[0][1] == f"{'█' * 6}{'░' * 18} reading 25/100 images, 25/s, 3 s left"
    assert notebook[-1] == ("update", "")
    assert capsys.readouterr() == ("", "")


def test_notebook_shows_nothing_for_a_short_task(notebook):
    with Progress("reading", 100, "images") as bar:
        bar.advance(100)
    assert notebook == []


def test_rich_is_not_loaded_without_a_terminal():
    program = (
        "import sys; from graft.training.runtime.progress import Progress, log; log('x')\n"
        "with Progress('reading', 5, 'images') as bar: bar.advance(5)\n"
        "print('rich' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert (result.stdout, result.stderr) == ("False\n", "x\n")


def test_closed_stderr_is_not_a_terminal():
    stream = io.StringIO()
    stream.close()
    assert not progress.is_terminal(stream)
    assert not progress.is_terminal(None)
