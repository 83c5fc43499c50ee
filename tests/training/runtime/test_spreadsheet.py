"""CSV for spreadsheets: no text is a formula, numbers are numbers, and what is read back is what was written."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.training.runtime.spreadsheet import SpreadsheetWriter, protect, restore


@pytest.mark.parametrize("text", ["=1+1", "+49 30", "-7", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http://x")', "'=1", "''@x"])
def test_a_formula_is_written_as_text_and_read_back(text):
    assert protect(text) == f"'{text}"
    assert restore(protect(text)) == text


@pytest.mark.parametrize("text", ["", "cat", "'", "'n' roll", "1-2", "a=b", "7", " =1"])
def test_other_texts_are_unchanged(text):
    assert (protect(text), restore(text)) == (text, text)


@given(st.text(alphabet="'=+-@\t\r ab1"))
def test_every_text_is_read_back(text):
    assert restore(protect(text)) == text


@given(st.text(alphabet="'=+-@\t\r ab1", min_size=1))
def test_no_cell_begins_like_a_formula(text):
    assert protect(text)[0] not in "=+-@\t\r"


def test_numbers_stay_numbers():
    file = io.StringIO()
    writer = SpreadsheetWriter(file, "\n")
    writer.write("-label", -1.5, 2, None, "-1.5")
    writer.write_all([("=x\ny", 0.25)])
    assert file.getvalue() == "'-label,-1.5,2,,'-1.5\n\"'=x\ny\",0.25\n"
    assert [row[0] for row in csv.reader(io.StringIO(file.getvalue()))] == ["'-label", "'=x\ny"]
