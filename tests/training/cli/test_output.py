"""Tables and text on stdout: complete and plain in a pipe, fitted on a terminal."""

import sys
from pathlib import Path

import pytest
from pseudo_terminal import TerminalRun, run_in_terminal

from graft.training.cli.output import Column, Table, print_hint, print_table, print_text
from graft.training.runtime.progress import verbosity

ROOT = Path(__file__).parents[3]
TABLE = """Table(
    (Column("name"), Column("value", right=True), Column("interval"), Column("by seed", optional=True)),
    (("a " * 10 + "long name", "1,234", "80.0 to 90.0", "80.1 80.2 80.3 80.4"), ("b", "5", "1.0 to 2.0", "1.5")),
    ("bold green", ""),
)"""


def in_terminal(program: str, columns: int, **variables: str) -> TerminalRun:
    imports = "from graft.training.cli.output import Column, Table, print_table, print_text\n"
    command = [sys.executable, "-c", imports + program]
    return run_in_terminal(command, columns=columns, PYTHONPATH=str(ROOT), **variables)


def test_pipe_gets_aligned_columns_without_lines_or_trailing_spaces(capsys):
    columns = Column("name"), Column("n", right=True), Column("note")
    print_table(Table(columns, (("cat", "5", ""), ("狗", "1,200", "x"))))
    assert capsys.readouterr().out == "name      n  note\ncat       5\n狗    1,200  x\n"


def test_pipe_gets_everything_at_any_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    print_table(Table((Column("name"), Column("more", optional=True)), (("x" * 100, "y" * 100),)))
    assert capsys.readouterr().out.splitlines()[1] == f"{'x' * 100}  {'y' * 100}"


def test_table_without_headers_has_no_header_row(capsys):
    print_table(Table((Column(""), Column("")), (("error:", "a"), ("note:", "b"))))
    assert capsys.readouterr().out == "error:  a\nnote:   b\n"


def test_prefix_is_followed_by_one_space_in_a_pipe(capsys):
    print_table(Table((Column(""), Column("")), (("error:", "a"), ("note:", "b")), is_prefix=True))
    assert capsys.readouterr().out == "error: a\nnote: b\n"


def test_table_without_rows_is_not_printed(capsys):
    print_table(Table((Column("name"),), ()))
    print_text("")
    assert capsys.readouterr().out == ""


def test_cells_are_one_line_and_escaped(capsys):
    print_table(Table((Column("name"),), (("a\nb\tc\x1b[31m",),)))
    assert capsys.readouterr().out == "name\na\\nb\\tc\\x1b[31m\n"


def test_wide_terminal_shows_all_columns():
    run = in_terminal(f"print_table({TABLE})", 100)
    header, line, first, second = run.text.splitlines()
    assert header.split() == ["name", "value", "interval", "by", "seed"]
    assert set(line.strip()) == {"─"}
    assert "1,234" in first
    assert "80.1 80.2 80.3 80.4" in first
    assert second.split()[0] == "b"
    assert "\x1b[1;32m" in run.output


def test_narrow_terminal_hides_optional_columns_and_says_so():
    run = in_terminal(f"print_table({TABLE})", 60)
    assert "80.0 to 90.0" in run.text
    assert "80.1" not in run.text
    assert run.text.splitlines()[-1] == "not shown at this width: by seed"


@pytest.mark.parametrize("columns", [20, 30, 40, 60])
def test_narrow_terminal_wraps_text_and_loses_none(columns: int):
    run = in_terminal(f"print_table({TABLE})", columns)
    assert max(map(len, run.text.splitlines())) <= columns
    assert "…" not in run.text
    assert "".join(run.text.split()).count("a") >= 10


def test_no_color_means_no_styles():
    run = in_terminal(f"print_table({TABLE})\nprint_text('next: graft')", 100, NO_COLOR="1")
    assert "\x1b" not in run.output


def test_brackets_are_text():
    run = in_terminal("print_table(Table((Column('[b]name[/b]'),), (('[red]x[/]',),)))\nprint_text('[bold]y')", 80)
    assert run.text.split() == ["[b]name[/b]", "───────────", "[red]x[/]", "[bold]y"]


def test_sentences_are_wrapped_at_words_and_commands_stay_whole():
    run = in_terminal("print_text('word ' * 20 + '\\nnext: ' + 'x' * 90)", 40)
    *sentence, command = run.text.splitlines()
    assert [line.split() for line in sentence] == [["word"] * 8, ["word"] * 8, ["word"] * 4]
    assert command == f"next: {'x' * 90}"


def test_hints_are_not_results(capsys):
    print_hint("next: a")
    with verbosity("quiet"):
        print_hint("next: b")
        print_text("result")
    assert capsys.readouterr().out == "next: a\nresult\n"
