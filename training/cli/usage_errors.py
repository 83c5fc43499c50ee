"""The errors of a command line: argparse's messages in plain words, and what was meant instead of an unknown word."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from graft.training.cli import suggestions

Owners = dict[str, list[str]]  # option -> the commands that have it

TYPE_REASONS = {"int": "must be a whole number", "float": "must be a number"}
# argparse's messages -> ours.
REWORDED = [
    (r"argument (?P<name>[^:]+): expected (one|at least one|\d+) arguments?", "{option}: a value is missing"),
    (r"argument (?P<name>[^:]+): ignored explicit argument '(?P<value>.*)'", "{option} takes no value{negation}"),
    (r"argument (?P<name>[^:]+): not allowed with argument (?P<other>.+)", "{option} cannot be combined with {other}"),
    (r"argument (?P<name>[^:]+): invalid (?P<type>\w+) value: '(?P<value>.*)'", "{option} {value}: {type}"),
    (
        r"argument (?P<name>[^:]+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.+)\)",
        "{option} {value}: must be {choices}",
    ),
    (r"argument (?P<name>[^:]+): (?P<reason>.+)", "{option} {reason}"),
]


def reword(message: str, parser: argparse.ArgumentParser) -> str:
    """A message of argparse in plain words."""
    if match := re.fullmatch("the following arguments are required: (.+)", message):
        return _missing(match[1].split(", "), parser)
    for pattern, words in REWORDED:
        if match := re.fullmatch(pattern, message, re.DOTALL):
            found = match.groupdict()
            long_names = [name for name in found["name"].split("/") if name.startswith("--")]
            option = long_names[0] if long_names else found["name"]
            found["other"] = found.get("other", "").rpartition("/")[2]
            found["type"] = TYPE_REASONS.get(found.get("type", ""), "is not valid")
            found["choices"] = "one of " + ", ".join(re.findall(r"[\w.-]+", found.get("choices", "")))
            negation = f": write {' or '.join(long_names)}" if len(long_names) > 1 else ""
            return words.format_map({"value": "", "reason": ""} | found | {"option": option, "negation": negation})
    return message


def _missing(names: Sequence[str], parser: argparse.ArgumentParser) -> str:
    described = {str(action.metavar or action.dest): action.help for action in parser._actions if not action.option_strings}
    words = [f"{name} ({described[name]})" if described.get(name) else name for name in names]
    return f"{parser.prog}: {' and '.join(words)} {'is' if len(words) == 1 else 'are'} missing"


def unknown_command(word: str, known: Sequence[str]) -> str:
    """The message for a first word that is not a command."""
    if Path(word).exists() or "/" in word:
        return f"{word} is a path, not a command. Did you mean graft fit {word}?"
    return f"{word} is not a command of graft.{suggestions.question(suggestions.commands(word, known))}"


def unknown_words(words: Sequence[str], argv: Sequence[str], parser: argparse.ArgumentParser, owners: Owners) -> str:
    """The message for words that a command does not understand.

    Args:
        words: what argparse left over.
        argv: all words after `graft`.
        owners: for each option, the commands that have it.
    """
    if flag := next((word for word in words if word.startswith("-") and word != "-"), None):
        return _unknown_option(flag.partition("=")[0], parser, owners)
    word = words[0]
    before = argv[argv.index(word) - 1] if word in argv else ""
    switch = next((action for action in parser._actions if before in action.option_strings and action.nargs == 0), None)
    if switch:
        return f"{before} takes no value: write {' or '.join(switch.option_strings)}, without {word}"
    takes = " and ".join(str(action.metavar or action.dest) for action in parser._actions if not action.option_strings)
    return f"{word}: one argument too many; {parser.prog} takes {f'only {takes}' if takes else 'none'}"


def _unknown_option(flag: str, parser: argparse.ArgumentParser, owners: Owners) -> str:
    known = [option for action in parser._actions for option in action.option_strings if action.help != argparse.SUPPRESS]
    text = f"{flag} is not an option of {parser.prog}."
    positionals = {
        str(action.metavar or action.dest).lower(): str(action.metavar)
        for action in parser._actions
        if not action.option_strings
    }
    if name := positionals.get(flag.lstrip("-").lower()):
        return f"{text} {name} is given without a flag: {parser.prog} {' '.join(positionals.values())}"
    if not (found := suggestions.options(flag, known)) and (commands := owners.get(flag)):
        return f"{text} It is one of {' and '.join(f'graft {name}' for name in commands)}."
    return f"{text}{suggestions.question(found)}"
