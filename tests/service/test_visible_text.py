"""Texts that a package can have as labels and names."""

import pytest

from graft.service.visible_text import MAX_TEXT, text_problem, to_text


@pytest.mark.parametrize("text", ["cat", "靴", "عباية", "می\u200cخواهم", "a\u200eb", "👩\u200d🚀", "<b>", "=1", "x" * 200])
def test_texts_in_any_script_are_accepted(text):
    assert text_problem(text) == ""
    assert to_text(text) == text


@pytest.mark.parametrize("text", ["", " ", "\u2003", "x" * 201, "a\0", "a\u0085b", "\u2029", "\u2066a", "\ud83d"])
def test_texts_that_cannot_be_shown_are_refused_and_replaced(text):
    assert text_problem(text)
    assert text_problem(to_text(text)) == ""


def test_a_long_name_is_cut():
    assert to_text("x" * 5000) == "x" * MAX_TEXT
