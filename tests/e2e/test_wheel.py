"""The wheel: what `pip install graft-vision` brings, in a fresh environment, beside a user's own modules."""

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

from graft.service.settings import PACKED

ROOT = Path(__file__).parents[2]
LINKED = ("service", "training", "bentofile.yaml", "requirements-service.lock")  # from graft/ to the top level
HOOKS = "from setuptools.build_meta import build_sdist, build_wheel; print({hook}('dist'))"


def build(folder: Path, hook: str) -> Path:
    """What a setuptools hook builds of the sources in a folder."""
    built = subprocess.check_output([sys.executable, "-c", HOOKS.format(hook=hook)], cwd=folder, text=True)
    return folder / "dist" / built.splitlines()[-1]


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the repository's sources, links kept, because setuptools builds beside them."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("graft", "service", "training"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "bentofile.yaml", "requirements-service.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources) -> Path:
    return build(sources, "build_wheel")


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it; its dependencies are this environment's, without our checkout."""
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
    """A user's own project, whose modules have the names of our folders."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("OWNER = 'the user'")
    (tmp_path / "training.py").write_text("OWNER = 'the user'")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("OWNER = 'the user'")
    return tmp_path


def run(*command: str | Path, cwd: Path, **settings: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", LINKED)
def test_every_file_of_the_repository_that_is_part_of_graft_is_in_it(wheel, name):
    paths = [path for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
    expected = {f"graft/{path.relative_to(ROOT).as_posix()}" for path in paths if "__pycache__" not in path.parts}
    assert expected - files(wheel) == set()


def test_it_owns_one_top_level_name(wheel):
    assert {name.partition("/")[0] for name in files(wheel)} == {"graft"}


def test_a_wheel_made_of_the_source_distribution_is_the_same(sources, wheel, tmp_path):
    shutil.unpack_archive(build(sources, "build_sdist"), tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    assert files(build(unpacked, "build_wheel")) == files(wheel)


@pytest.mark.parametrize("first", ["graft.service.artifact, graft.training.data.dataset", "service, training, tests"])
def test_graft_and_the_users_own_modules_do_not_hide_each_other(environment, users_folder, first):
    program = (
        f"import {first}; import service, training, tests, graft.service.errors, graft.training.config.recipe;"
        "print(service.OWNER, training.OWNER, tests.OWNER, graft.__file__)"
    )
    *owners, path = run(environment / "python", "-c", program, cwd=users_folder).rsplit(maxsplit=1)
    assert owners == ["the user the user the user"]
    assert Path(path).is_relative_to(environment.parent)


def test_the_command_works_beside_the_users_own_modules(environment, users_folder, fitted, clothes):
    (users_folder / "cat.png").write_bytes(clothes[0][1])
    package = fitted.artifact.path
    answer = json.loads(run(environment / "graft", "predict", package, "cat.png", "--json", cwd=users_folder))
    assert answer["predictions"][0]["label"] == clothes[0][0]


def test_graft_build_makes_the_bento_that_bentoml_build_makes_in_a_checkout(environment, users_folder, fitted, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (users_folder / PACKED.parent).mkdir()
    shutil.copytree(fitted.artifact.path, users_folder / PACKED)
    output = run(environment / "graft", "build", cwd=users_folder, BENTOML_HOME=str(home))
    [bento] = (path.parent for path in (home / "bentos" / "graft").glob("*/bento.yaml"))
    assert output.startswith(f"graft:{bento.name}\n")
    built = {path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "service").rglob("*") if path.is_file()}
    package = {f"{PACKED}/{path.name}" for path in fitted.artifact.path.iterdir()}
    assert built == {path for path in code if "__pycache__" not in path} | package | {"bentofile.yaml"}


def test_no_process_of_the_tests_holds_both_names():
    """The folder `service` is `graft.service` to us, and `service` to a Bento; one process never loads it twice."""
    assert {"service", "training"} & set(sys.modules) == set()
