"""Shell completion by argcomplete: the shell calls `graft` with the line typed so far, and `graft` prints what may follow."""

import argparse
import os

from graft.training.cli.base_parser import Parser


def script(shell: str) -> str:
    """The script that turns completion on in a shell."""
    from argcomplete.shell_integration import shellcode

    return shellcode(["graft"], shell=shell)


def is_requested() -> bool:
    """Whether a shell is asking for completions."""
    return "_ARGCOMPLETE" in os.environ


def typed_words() -> list[str]:
    """The words of the line to complete."""
    return os.environ.get("COMP_LINE", "").split()


def complete(parser: Parser) -> None:
    """Prints the completions and exits."""
    import argcomplete

    for action in _actions(parser):
        if action.choices is None and "|" in str(action.metavar) and action.option_strings:
            action.choices = str(action.metavar).split("|")
    argcomplete.autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The actions of a parser and of its commands."""
    actions = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            actions += [inner for command in action.choices.values() for inner in _actions(command)]
    return actions
