"""What the text of a label or a name may be: one visible line that leaves the text around it as it is."""

import unicodedata

MAX_TEXT = 200  # characters of a label or a name

_DIRECTION_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the order of what follows
_LINE_BREAKING = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control characters, lone surrogates, separators of lines


def text_problem(text: str) -> str:
    """Why a text cannot be a label or the name of a model; "" if it can.

    It must be one visible line of at most `MAX_TEXT` characters that leaves the text around it as it is.
    """
    if not text.strip():
        return "must not be empty"
    if len(text) > MAX_TEXT:
        return f"must have {MAX_TEXT} characters or fewer, not {len(text):,}"
    return control_problem(text)


def control_problem(text: str) -> str:
    """Which control character a text has; "" if it has none."""
    control = next(filter(_is_control, text), "")
    return f"must not contain the control character U+{ord(control):04X}" if control else ""


def _is_control(character: str) -> bool:
    return character in _DIRECTION_CONTROLS or unicodedata.category(character) in _LINE_BREAKING


def to_text(name: str) -> str:
    """A name that a package can have, from any name, such as that of a folder."""
    visible = "".join("\N{REPLACEMENT CHARACTER}" if _is_control(character) else character for character in name)
    return visible[:MAX_TEXT].strip() or "model"
