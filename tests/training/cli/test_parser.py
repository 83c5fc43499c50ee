"""Help texts: groups, width and examples; and the completion scripts."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graft.training.cli import completion
from graft.training.cli.base_parser import GROUPS
from graft.training.cli.commands import HANDLERS
from graft.training.cli.examples import EXAMPLES
from graft.training.cli.parser import COMMANDS, build_parser
from graft.training.config.recipe import Recipe

ROOT = Path(__file__).parents[3]


def help_of(command: str, columns: int = 80) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
    return subprocess.check_output([sys.executable, "-m", "graft", command, "--help"], text=True, env=env)


def test_every_command_has_a_handler_and_two_to_four_examples():
    assert set(COMMANDS) == set(HANDLERS) == set(EXAMPLES)
    assert {len(examples) for examples in EXAMPLES.values()} <= {2, 3, 4}


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_are_valid_commands(command: str):
    for example in EXAMPLES[command]:
        words = shlex.split(re.sub(r"^\w+=\S+\(.*?\) | (&&|>+) .*", "", example))
        assert words[:2] == ["graft", command]
        arguments = build_parser(words[1:], HANDLERS).parse_args(words[1:])
        options = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields}
        Recipe.model_validate(options)


def test_options_of_fit_are_in_groups():
    text = help_of("fit")
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings == ["positional arguments", "options", *GROUPS, "examples"]
    sections = dict(zip(headings, re.split(r"^\w[\w ]*:$", text, flags=re.MULTILINE)[1:], strict=True))
    assert "--skip-bad" in sections["data"]
    assert "--backbone " in sections["model"]
    assert "--epochs " in sections["training"]
    assert "--mixup " in sections["augmentation"]
    assert "--out " in sections["output"]
    assert "--layer-decay " in sections["advanced"]


WITHOUT_NETWORK = {"package", "build", "info", "completion"}


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - WITHOUT_NETWORK))
def test_every_command_that_runs_a_network_has_a_device(command: str):
    [line] = [line for line in help_of(command, 200).splitlines() if line.strip().startswith("--device ")]
    assert "--device auto|cpu|cuda" in line


def test_commands_with_few_options_have_no_empty_group():
    assert re.findall(r"^(\w[\w ]*):$", help_of("predict"), re.MULTILINE) == ["positional arguments", "options", "examples"]


@pytest.mark.parametrize("columns", [80, 200])
def test_help_fits_the_width_and_at_most_100_columns(columns: int):
    for command in ("fit", "check", "compare", "info"):
        lines = help_of(command, columns).partition("examples:")[0].splitlines()
        assert max(map(len, lines)) <= min(columns, 100)


def test_usage_names_the_arguments_but_not_every_option():
    assert help_of("fit").startswith("usage: graft fit DATA [options]\n")
    assert help_of("predict").startswith("usage: graft predict PACKAGE IMAGE_OR_DIR [IMAGE_OR_DIR ...] [options]\n")
    assert help_of("serve").startswith("usage: graft serve [PACKAGE] [options]\n")


def complete_in_bash(line: str, folder: Path) -> set[str]:
    """What bash offers after a line."""
    words = line.split(" ")
    find_function = "complete -p graft | sed -E 's/.*-F ([^ ]+).*/\\1/'"
    commands = (
        f"{completion.script('bash')}\nCOMP_WORDS=({shlex.join(words)})\nCOMP_CWORD={len(words) - 1}\n"
        f"COMP_LINE={shlex.quote(line)}\nCOMP_POINT={len(line)}\nCOMP_TYPE=9\n"
        f"$({find_function}) graft\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, check=True, cwd=folder, env=env)
    return {word.strip() for word in result.stdout.split("\n")}


def test_bash_script_completes_commands_options_values_and_files(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos.zip").touch()
    assert {"fit", "info", "completion"} <= complete_in_bash("graft ", tmp_path)
    assert {"--epochs", "--no-flips", "--quiet"} <= complete_in_bash("graft fit --", tmp_path)
    assert {"probe", "finetune"} <= complete_in_bash("graft fit photos --strategy ", tmp_path)
    assert {"photos", "photos.zip"} <= {name.rstrip("/") for name in complete_in_bash("graft fit pho", tmp_path)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_script_is_valid_in_its_shell(shell: str, tmp_path: Path):
    (tmp_path / "script").write_text(completion.script(shell))
    assert "graft" in completion.script(shell)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_script_is_printed():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.check_output([sys.executable, "-m", "graft", "completion", "bash"], text=True, env=env)
    assert output == completion.script("bash") + "\n"
