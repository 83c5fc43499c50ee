"""Texts in Markdown: what a reader sees is the text, and nothing else."""

import pytest

from graft.training.packaging.markdown import escape

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[free](javascript:alert(1))",
    "![x](https://example.com/x.png)",
    "`code` and **bold** and _it_",
    "a | b || c",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "=====",
    "---",
    "&lt;b&gt; &#60;",
    "back\\slash \\| pipe",
    "https://example.com and www.example.com",
    "me@example.com",
    "~~gone~~ $x$",
    "a]: http://example.com",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_shown_as_it_is(text):
    markdown_it = pytest.importorskip("markdown_it")
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = f"{escape(text)}\n\n| label | n |\n|---|---|\n| {escape(text)} | 7 |\n\n# {escape(text)}\n"
    tokens = renderer.parse(page)
    inline = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens if token.nesting >= 0] == [
        *("paragraph_open", "inline", "table_open", "thead_open", "tr_open", "th_open", "inline", "th_open", "inline"),
        *("tbody_open", "tr_open", "td_open", "inline", "td_open", "inline", "heading_open", "inline"),
    ]
    shown = ["".join(child.content for child in token.children) for token in inline]
    assert shown == [text, "label", "n", text, "7", text]
    assert {child.type for token in inline for child in token.children} <= {"text", "text_special"}


def test_line_breaks_become_spaces():
    assert escape("one\n\n# two\r\n\tthree") == "one # two three"


def test_no_address_is_left_that_becomes_a_link_by_itself():
    assert "://" not in escape("https://example.com")
    assert "www." not in escape("see WWW.example.com, www.example.org").lower()
    assert "@" not in escape("me@example.com")


@pytest.mark.parametrize("text", ["ankle boot", "T-shirt/top", "été", "靴", "9", "n02085620-Chihuahua"])
def test_usual_labels_are_unchanged(text):
    assert escape(text) == text
