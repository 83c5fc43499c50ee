"""Recipe files from elsewhere: refused in one line, before they take memory or time."""

import os
import resource
from pathlib import Path

import pytest

from graft.training.config.recipe_file import read_yaml

# Each list repeats the one before nine times: 9**9 numbers.
LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS, r"line 2 has the alias \*a0; write the value out"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", r"line 3 has the alias \*x; write the value out"),
        ("epochs: " + "1" * 70_000, r"it has more than 65,536 bytes"),
        ("\n" + "[" * 60_000, r"line 2 is nested deeper than 10 levels"),
        ("- " * 30_000, r"line 1 is nested deeper than 10 levels"),
        ("epochs: 2026-99-99", r"it is not valid YAML"),
        ("epochs: " + "9" * 5000, r"it is not valid YAML"),
        ("epochs: !!python/object/apply:os.abort []", r"line 1 is not valid YAML"),
        ("epochs: \x00", r"it is not valid YAML"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, content: str, reason: str):
    (tmp_path / "recipe.yaml").write_text(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"recipe\.yaml cannot be read as a recipe: {reason}\.$") as caught:
        read_yaml(tmp_path / "recipe.yaml")
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10  # KiB


def test_a_pipe_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(ValueError, match="it is not a file, but a named pipe or a device"):
        read_yaml(tmp_path / "recipe.yaml")


def test_a_device_is_not_opened():
    with pytest.raises(ValueError, match="/dev/zero cannot be read as a recipe: it is not a file"):
        read_yaml(Path("/dev/zero"))


def test_a_folder_is_named_as_one(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read as a recipe: it is a folder, not a file"):
        read_yaml(tmp_path)


def test_an_anchor_that_nothing_refers_to_is_accepted(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("\ufeffepochs: &n 8\n", encoding="utf-8")
    assert read_yaml(tmp_path / "recipe.yaml") == {"epochs": 8}
