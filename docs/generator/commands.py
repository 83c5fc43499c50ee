"""The command-line reference, from the argparse parser and the exit codes."""

import argparse
import re
from functools import cache

from generator.markdown import code, definitions, fenced, prose, sentence, table
from graft.training.cli import exit_codes
from graft.training.cli.parser import COMMANDS, build_parser

DEFAULT = re.compile(r"\s*\(default: (.*)\)$", re.DOTALL)
ARGUMENTS, OPTIONS = "positional arguments", "options"  # argparse's titles of a parser's own groups
EXIT_MEANINGS = {
    "0": "success",
    "1": "findings: `check` found errors, `predict` met an unreadable file, `evaluate` was below `--min-accuracy`,"
    " `fit --replay` differs",
    str(exit_codes.EXIT_USAGE): "wrong usage, or unusable data",
    str(exit_codes.EXIT_CORRUPT): "a damaged package or checkpoint, or a package whose golden outputs differ on this machine",
    str(exit_codes.EXIT_DIVERGED): "training diverged",
    str(exit_codes.EXIT_OUT_OF_MEMORY): "out of memory",
    str(exit_codes.EXIT_DISK): "disk full",
    str(exit_codes.EXIT_DEVICE): "the GPU has failed",
    str(exit_codes.EXIT_BUG): "a bug in Graft or in a library; a traceback is printed",
    "130": "stopped by Ctrl-C",
    str(exit_codes.EXIT_CLOSED_PIPE): "the reader of the output has ended, such as `head` in a pipe; nothing is printed",
    "143": "stopped by SIGTERM",
}


@cache
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, with all its options."""
    root = build_parser(list(COMMANDS), {name: lambda _: 0 for name in COMMANDS})
    [subparsers] = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(subparsers.choices)


def commands() -> str:
    """The options of every command, then one section per command."""
    general = definitions(
        _entry("graft", parser, action) for parser in [next(iter(parsers().values()))] for action in common(parser)
    )
    sections = (_command(name, parser) for name, parser in parsers().items())
    return "\n\n".join(["## Options of every command { #general-options }", general, *sections])


def common(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that every command has, such as --help."""
    everywhere = set.intersection(*({str(action.option_strings) for action in other._actions} for other in parsers().values()))
    return [action for action in parser._actions if action.option_strings and str(action.option_strings) in everywhere]


def exit_code_table() -> str:
    return table(("exit code", "meaning"), EXIT_MEANINGS.items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    groups = {str(group.title): _definitions(name, parser, group) for group in parser._action_groups}
    shown = {title: entries for title, entries in groups.items() if entries and title != ARGUMENTS}
    usage = fenced(parser.format_usage().removeprefix("usage: "), "text")
    parts = [f"## graft {name}", sentence(parser.description or ""), usage, *_examples(parser), groups[ARGUMENTS]]
    for title, entries in shown.items():
        heading = [f"### {title.capitalize()} {{ #{name}-{_slug(title)} }}"] if len(shown) > 1 else []
        parts += [*heading, entries]
    return "\n\n".join(filter(None, parts))


def _definitions(name: str, parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> str:
    actions = [action for action in group._group_actions if action not in common(parser) and action.help != argparse.SUPPRESS]
    return definitions(_entry(name, parser, action) for action in actions)


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "+": f"{name} [{name} ...]", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _entry(command: str, parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str, str]:
    help_text = parser._get_formatter()._expand_help(action) if action.help else ""
    default = DEFAULT.search(help_text)
    text = sentence(DEFAULT.sub("", help_text)) if help_text else "Required."
    if default:
        text += f" Default: {_default(action, default[1])}."
    return _term(action), option_anchor(command, action), text


def option_anchor(command: str, action: argparse.Action) -> str:
    """The anchor of an option on the page, such as `fit--epochs`."""
    names = [name for name in action.option_strings if name.startswith("--")]
    return f"{command}{names[0]}" if names else f"{command}-{_slug(str(action.metavar or action.dest))}"


def _term(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(_positional(action))
    takes_value = action.nargs != 0
    value = f" {action.metavar or _choices(action) or action.dest.upper()}" if takes_value else ""
    return ", ".join(code(f"{option}{value}") for option in action.option_strings)


def _choices(action: argparse.Action) -> str:
    return "|".join(map(str, action.choices)) if action.choices else ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _default(action: argparse.Action, text: str) -> str:
    """A default: a value as code, an explanation as text; of a pair such as --flips and --no-flips, the one that applies."""
    if isinstance(action, argparse.BooleanOptionalAction) and text in ("true", "false"):
        return code(action.option_strings[text == "false"])
    choices = str(action.metavar or _choices(action)).split("|")
    return code(text) if text in choices or re.fullmatch(r"[\w./,-]*[\d_/][\w./,-]*", text) else prose(text)


def _examples(parser: argparse.ArgumentParser) -> list[str]:
    examples = example_lines(parser)
    return ["For example:", fenced("\n".join(examples), "sh")] if examples else []


def example_lines(parser: argparse.ArgumentParser) -> list[str]:
    """The commands in the epilog of a parser."""
    return [line.strip() for line in (parser.epilog or "").splitlines() if line.startswith(" ") and line.strip()]
