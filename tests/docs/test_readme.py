"""Every command in the README is run, as it stands there, where a reader would run it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graft.service.http.openapi import table
from graft.service.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETS_UP = "source .venv/bin/activate"
SERVES = ("bentoml serve", "graft serve")  # run for real, with a package, by test_app.py and by the `server` fixture
BUILDS = ["bentoml build", "bentoml serve graft:latest"]  # by test_bento.py


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.split()[0] == program]


@pytest.fixture(scope="module")
def place(fitted, clothes, tmp_path_factory) -> Path:
    """A folder with photos/, scans/, cat.jpg and the runs of an earlier fit."""
    import zipfile

    from PIL import Image

    from graft.training.sample import SAMPLE

    folder = tmp_path_factory.mktemp("reader")
    with zipfile.ZipFile(SAMPLE) as archive:
        for name in archive.namelist():
            label, number = name.split("/")[1:]
            if name.startswith("train/") and label in {"bag", "coat", "sandal"} and int(number[:3]) <= 40:
                for photos in ("photos", "scans"):
                    target = folder / photos / label / number
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    (folder / "training" / "sample").mkdir(parents=True)
    shutil.copy(SAMPLE, folder / "training" / "sample")
    (folder / "page.png").write_bytes(clothes[0][1])
    Image.open(folder / "page.png").convert("RGB").save(folder / "cat.jpg")
    return folder


def run(command: str, place: Path, url: str = "http://127.0.0.1:3000") -> str:
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command.replace("http://127.0.0.1:3000", url),
        shell=True,
        cwd=place,
        env=os.environ | {"PATH": search, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_known_programs_are_named():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert {line.split()[0] for line in lines} == {"make", "source", "graft", "bentoml", "curl", "docker"}
    assert [line for line in lines if line.startswith("source")] == [SETS_UP]
    assert commands("bentoml") == ["bentoml serve", *BUILDS]


@pytest.mark.parametrize("command", commands("make"))
def test_make_knows_the_target(command):
    # `make test` is what runs this, and `make demo` is run below as the command that it stands for.
    assert subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, check=True).stdout


def test_the_demo_answers(fitted, tmp_path):
    output = run("graft demo", tmp_path)
    assert '"label": "ankle boot"' in output
    assert "graft serve runs/fashion-mnist-" in output


def test_graft_commands_work_in_the_order_they_are_shown(place):
    shown = [command for command in commands("graft") if not command.startswith(SERVES)]
    assert len(shown) == 18
    for command in shown:
        # What is learned from random weights takes a hundred epochs to be good, and one to show that the command is right.
        run(f"{command} --epochs 1" if "--weights none" in command else command, place)


@pytest.mark.parametrize("command", commands("curl"))
def test_curl_gets_an_answer(command, server, place):
    assert '"label":"ankle boot"' in run(command, place, server)


def test_the_python_client_gets_an_answer(server, place):
    [program] = blocks("python")
    (place / "ask.py").write_text(program.replace("http://127.0.0.1:3000", server), encoding="utf-8")
    assert "'label': 'ankle boot'" in run("python ask.py", place)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed; the JavaScript example needs it")
def test_javascript_gets_an_answer(server, place):
    [program] = blocks("js")
    (place / "ask.cjs").write_text(program.replace("http://127.0.0.1:3000", server), encoding="utf-8")
    assert "label: 'ankle boot'" in run("node ask.cjs", place)


@pytest.mark.parametrize("command", commands("docker"))
def test_docker_is_given_settings_that_exist_and_the_images_port(command):
    """No engine runs here; the same Dockerfile is run by test_image.py and by `make image`."""
    assert set(re.findall(r"-e GRAFT_(\w+)=", command)) <= {name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"-p \d+:(\d+)", command)) <= {"3000"}
    assert command.endswith((" .", " graft-service"))


def test_every_setting_is_shown_with_its_default():
    rows = dict(re.findall(r"^\| `GRAFT_(\w+)` \| ([^|]+) \|", README, re.MULTILINE))
    assert list(rows) == [name.upper() for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        if type(field.default) in (int, float):
            assert float(rows[name.upper()].replace(",", "")) == field.default


def test_every_route_is_shown():
    shown = set(re.findall(r"`(?:GET |POST )?(/[^` ]*)`", README))
    hidden = {"/healthz"}  # another name for /livez
    assert {path for path in table() if not path.startswith("/page/")} - hidden <= shown


def test_the_tree_names_every_module():
    modules = [path for half in ("service", "training") for path in (ROOT / half).glob("*.py") if path.stem != "__init__"]
    assert [path.name for path in modules if f"  {path.name} " not in README] == []
