"""Tests the wheel: `pip install graft-vision` in a fresh environment, next to user modules with the same names."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from graft.service.settings import BENTO_PACKAGE, LATEST_PACKAGE

ROOT = Path(__file__).parents[2]
BENTO_FILES = ("bentofile.yaml", "bentofile.gpu.yaml", "requirements-service.lock", "requirements-gpu.lock")
LINKED_PATHS = ("service", "training", *BENTO_FILES)  # links in graft/ to the top level
LICENSE_FILES = ("LICENSE", "THIRD_PARTY_NOTICES.md")
BUILD_PROGRAM = "from setuptools.build_meta import build_sdist, build_wheel; print({hook}('dist'))"


def build(folder: Path, hook: str) -> Path:
    """Run a setuptools build hook on the sources in a folder; return the built file."""
    output = subprocess.check_output([sys.executable, "-c", BUILD_PROGRAM.format(hook=hook)], cwd=folder, text=True)
    return folder / "dist" / output.splitlines()[-1]


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the sources, with links, because setuptools writes build files next to them."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("graft", "service", "training"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", *LICENSE_FILES, *BENTO_FILES):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources) -> Path:
    return build(sources, "build_wheel")


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel; it uses the dependencies of this environment, but not the checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--ignore-installed"]
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", *options, str(wheel)]
    subprocess.run(install, check=True)
    return folder / "bin"


@pytest.fixture
def users_folder(tmp_path) -> Path:
    """A user project with modules named like the folders of the repository."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("OWNER = 'the user'")
    (tmp_path / "training.py").write_text("OWNER = 'the user'")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("OWNER = 'the user'")
    return tmp_path


def run(*command: str | Path, cwd: Path, **settings: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=env | settings, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", LINKED_PATHS)
def test_wheel_contains_every_file_of_graft(wheel, name):
    paths = [path for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
    expected = {f"graft/{path.relative_to(ROOT).as_posix()}" for path in paths if "__pycache__" not in path.parts}
    assert expected - files(wheel) == set()


def test_wheel_has_one_top_level_package(wheel):
    assert {name.partition("/")[0] for name in files(wheel)} == {"graft"}


def test_wheel_has_types_and_licenses(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        licenses = {name.partition("/licenses/")[2] for name in archive.namelist()} - {""}
        assert "License-Expression: Apache-2.0 AND MIT" in archive.read(metadata).decode()
    assert licenses == {*LICENSE_FILES, "training/sample/LICENSE"}
    assert "graft/py.typed" in files(wheel)


def test_wheel_built_from_sdist_is_the_same(sources, wheel, tmp_path):
    shutil.unpack_archive(build(sources, "build_sdist"), tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    assert files(build(unpacked, "build_wheel")) == files(wheel)


@pytest.mark.parametrize("first", ["graft.service.artifact, graft.training.data.dataset", "service, training, tests"])
def test_graft_and_user_modules_do_not_shadow_each_other(environment, users_folder, first):
    program = (
        f"import {first}; import service, training, tests, graft.service.errors, graft.training.config.recipe;"
        "print(service.OWNER, training.OWNER, tests.OWNER, graft.__file__)"
    )
    *owners, path = run(environment / "python", "-c", program, cwd=users_folder).rsplit(maxsplit=1)
    assert owners == ["the user the user the user"]
    assert Path(path).is_relative_to(environment.parent)


def test_command_works_next_to_user_modules(environment, users_folder, fitted, clothes):
    (users_folder / "cat.png").write_bytes(clothes[0][1])
    package = fitted.artifact.path
    output = json.loads(run(environment / "graft", "predict", package, "cat.png", "--json", cwd=users_folder))
    assert output["images"][0]["predictions"][0]["label"] == clothes[0][0]


def test_graft_build_makes_the_same_bento_as_bentoml_build_in_a_checkout(environment, users_folder, fitted, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(fitted.artifact.path, users_folder / LATEST_PACKAGE)
    output = run(environment / "graft", "build", cwd=users_folder, BENTOML_HOME=str(home))
    [bento] = (path.parent for path in (home / "bentos" / "graft").glob("*/bento.yaml"))
    assert output.startswith(f"graft:{bento.name}\n")
    built = {path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "service").rglob("*") if path.is_file()}
    package = {f"{BENTO_PACKAGE}/{path.name}" for path in fitted.artifact.path.iterdir()}
    assert built == {path for path in code if "__pycache__" not in path} | package | {"bentofile.yaml"}


def test_test_process_imports_only_graft_names():
    """The folder `service` is `graft.service` here and `service` in a Bento; no process imports it under both names."""
    assert {"service", "training"} & set(sys.modules) == set()
