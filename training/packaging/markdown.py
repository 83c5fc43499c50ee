"""Texts from outside in a Markdown document: a label stays a label, whatever it looks like."""

import re

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKUP = re.compile(r"[\\`*_\[\]|~$!]|^[#=+-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")
_LINK = re.compile(r"://|\bwww\.|@", re.IGNORECASE)  # which some renderers make a link of, without any markup


def escape(text: str) -> str:
    """A text on one line, also in a table: without markup, HTML, links or line breaks of its own."""
    line = "".join(_ENTITIES.get(character, character) for character in " ".join(text.split()))
    line = _MARKUP.sub(r"\\\g<0>", line)
    return _LINK.sub(lambda match: "".join(f"&#{ord(character)};" for character in match[0]), line)
