"""Did you mean ...? for commands and options."""

import pytest

from graft.training.cli import suggestions
from graft.training.cli.commands import HANDLERS
from graft.training.cli.main import main
from graft.training.cli.parser import COMMANDS, build_parser


def message(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [("fti", "fit"), ("eval", "evaluate"), ("train", "fit"), ("Predict", "predict"), ("inspekt", "inspect"), ("version", "-V")],
)
def test_command_is_suggested(word: str, expected: str, capsys):
    assert message([word, "x"], capsys) == (
        f"error: {word} is not a command of graft. Did you mean {expected}?\nSee: graft --help\n"
    )


def test_path_in_place_of_a_command_suggests_fit(tmp_path, capsys):
    assert message([str(tmp_path)], capsys).startswith(f"error: {tmp_path} is a path, not a command. Did you mean graft fit ")


@pytest.mark.parametrize(
    ("command", "option", "expected"),
    [
        ("fit", "--epoch", "--epochs"),
        ("fit", "--epochss=3", "--epochs"),
        ("fit", "--lr", "--head-lr or --backbone-lr"),
        ("fit", "--learning_rate", "--head-lr or --backbone-lr"),
        ("fit", "--batch_size", "--batch-size"),
        ("fit", "--Batch-Size", "--batch-size"),
        ("fit", "--bs", "--batch-size"),
        ("fit", "--accelerator", "--device cuda or --device cpu"),
        ("fit", "--gpu", "--device cuda"),
        ("fit", "--strat", "--strategy"),
        ("fit", "--decay", "--layer-decay or --weight-decay"),
        ("fit", "--img-size", "--input-size"),
        ("fit", "--output", "--out"),
        ("fit", "-o", "--out"),
        ("predict", "--topk", "--top-k"),
        ("predict", "-k", "--top-k"),
        ("serve", "--bind", "--host"),
        ("evaluate", "--html", "--report"),
    ],
)
def test_option_is_suggested(command: str, option: str, expected: str, capsys):
    arguments = {"predict": ["x", "y"], "evaluate": ["x", "y"]}.get(command, ["x"])
    name = option.partition("=")[0]
    assert message([command, *arguments, option], capsys) == (
        f"error: {name} is not an option of graft {command}. Did you mean {expected}?\nSee: graft {command} --help\n"
    )


def test_option_of_another_command_is_attributed(capsys):
    assert "--epochs is not an option of graft check. It is one of graft fit and graft compare." in message(
        ["check", "x", "--epochs", "3"], capsys
    )


def test_argument_given_as_an_option_is_explained(capsys):
    assert "--data is not an option of graft fit. DATA is given without a flag: graft fit DATA" in message(
        ["fit", "--data", "x"], capsys
    )


def test_abbreviation_is_refused_because_it_may_become_ambiguous(capsys):
    assert "--epo is not an option of graft fit. Did you mean --epochs?" in message(["fit", "x", "--epo", "3"], capsys)


def test_every_synonym_leads_to_something_that_exists():
    assert set(suggestions.COMMAND_SYNONYMS.values()) - {"-V"} <= set(COMMANDS)
    assert not set(suggestions.COMMAND_SYNONYMS) & set(COMMANDS)
    [commands] = [action for action in build_parser(list(COMMANDS), HANDLERS)._actions if action.dest == "command"]
    known = {option for parser in commands.choices.values() for action in parser._actions for option in action.option_strings}
    known.add("-V")
    synonyms = {option.partition(" ")[0] for options in suggestions.OPTION_SYNONYMS.values() for option in options}
    assert synonyms <= known
