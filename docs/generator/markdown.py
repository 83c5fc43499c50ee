"""Markdown from plain text: code spans, tables and definition lists. Knows nothing of Graft."""

import re
from collections.abc import Iterable, Sequence

# Parts of a sentence that are code: settings, flags, routes, media types, files, extras, and what is quoted already.
CODE = re.compile(
    r"`[^`]+`|GRAFT_[A-Z0-9_]+(?:=\w+)?|(?<![\w-])--[a-z][a-z0-9-]*|/v1/[a-z/]+|/livez|X-Request-ID"
    r"|[\w-]*\.(?:csv|yaml|yml|json|safetensors|zip|tar)\b|local-dir:\w+|graft-vision\[\w+\]|\b[a-z]+_[a-z_]+\b"
)
SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def prose(text: str) -> str:
    """A sentence with its code words as code and everything else literal."""
    parts, end = [], 0
    for match in CODE.finditer(text):
        parts += [literal(text[end : match.start()]), code(match[0].strip("`"))]
        end = match.end()
    return "".join([*parts, literal(text[end:])])


def sentence(text: str) -> str:
    """The same, beginning with a capital letter (unless it begins with code) and ending with a period."""
    text = text.strip()
    if not CODE.match(text):
        text = text[:1].upper() + text[1:]
    return prose(text if text.endswith((".", "!", "?")) else f"{text}.")


def literal(text: str) -> str:
    """Text without Markdown's markup."""
    return SPECIAL.sub(r"\\\1", text)


def code(text: str) -> str:
    return f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def definitions(entries: Iterable[tuple[str, str, str]]) -> str:
    """A definition list; each entry is a term in Markdown, its anchor ("" for none), and its text in Markdown."""
    return "\n\n".join(f"{term}{f' {{ #{anchor} }}' if anchor else ''}\n:   {text}" for term, anchor, text in entries)


def fenced(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
