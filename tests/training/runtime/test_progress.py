"""Progress output on a terminal and elsewhere."""

import io

import pytest

from graft.training.runtime.progress import Progress, format_duration, format_progress


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


def test_terminal_shows_no_bar_without_a_total(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("time.monotonic", iter(range(0, 10_000, 10)).__next__)
    with Progress("listing", 0, "files") as progress:
        progress.advance(500)
    assert "listing 500 files" in terminal.getvalue()
    assert "█" not in terminal.getvalue()


def test_finished_task_has_no_remaining_time():
    assert format_progress("reading", 10, 10, "images", 2.0) == "reading 10/10 images, 5/s, 0 s left"


def test_items_are_unchanged_and_in_order():
    with Progress("reading", 3, "images") as progress:
        assert list(progress.track("abc")) == ["a", "b", "c"]


def test_short_task_prints_nothing_without_a_terminal(capsys):
    with Progress("reading", 1000, "images") as progress:
        for _ in progress.track(range(1000)):
            pass
    assert capsys.readouterr() == ("", "")


def test_terminal_line_is_cleared_at_the_end(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("reading", 10, "images") as progress:
        progress.advance(5)
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "\n" not in terminal.getvalue()
