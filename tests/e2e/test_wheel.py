"""The wheel: what `pip install graft-vision` brings."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """The names of its files; built from a copy, because setuptools builds beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("service", "training"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."]
    subprocess.run([sys.executable, *words], cwd=folder, check=True)
    [path] = (folder / "dist").glob("graft_vision-*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("half", ["service", "training"])
def test_every_file_of_both_halves_is_in_it(wheel, half):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / half).rglob("*") if path.is_file()}
    assert {path for path in files if "__pycache__" not in path} - wheel == set()


def test_nothing_else_is_in_it(wheel):
    assert {re.sub(r"^graft_vision-[^/]*\.dist-info/.*", "about itself", name).partition("/")[0] for name in wheel} == {
        "service",
        "training",
        "about itself",
    }
