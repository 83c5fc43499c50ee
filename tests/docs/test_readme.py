"""Runs every command in the README exactly as written, in a prepared folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graft.service.http.openapi import build_routes
from graft.service.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ACTIVATE_COMMAND = "source .venv/bin/activate"
SERVE_COMMANDS = ("bentoml serve", "graft serve")  # run by test_bentoml_serve.py and by the `server` fixture
BUILD_COMMANDS = ["bentoml build", "bentoml serve graft:latest"]  # run by test_bento_build.py


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.split()[0] == program]


@pytest.fixture(scope="module")
def place(fitted, clothes, tmp_path_factory) -> Path:
    """A folder with photos/, scans/, cat.jpg and page.png."""
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
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        command.replace("http://127.0.0.1:3000", url),
        shell=True,
        cwd=place,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "BENTOML_HOME": str(place / "bentoml")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_only_known_programs_are_used():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert {line.split()[0] for line in lines} == {"make", "source", "graft", "bentoml", "curl", "docker"}
    assert [line for line in lines if line.startswith("source")] == [ACTIVATE_COMMAND]
    assert commands("bentoml") == ["bentoml serve", *BUILD_COMMANDS]


@pytest.mark.parametrize("command", commands("make"))
def test_make_target_exists(command):
    # `make test` runs this test itself; the command of `make demo` is run below.
    assert subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.mark.slow
def test_demo_prints_a_prediction(fitted, tmp_path):
    output = run("graft demo", tmp_path)
    assert '"label": "ankle boot"' in output
    assert "graft serve runs/fashion-mnist-" in output


@pytest.mark.slow
def test_graft_commands_work_in_order(place):
    graft_commands = [command for command in commands("graft") if not command.startswith(SERVE_COMMANDS)]
    assert len(graft_commands) == 19
    for command in graft_commands:
        # Training from random weights takes a hundred epochs to be good; one is enough to test the command.
        run(f"{command} --epochs 1" if "--weights none" in command else command, place)


@pytest.mark.parametrize("command", commands("curl"))
def test_curl_gets_a_prediction(command, server, place):
    assert '"label":"ankle boot"' in run(command, place, server)


def test_python_client_gets_a_prediction(server, place):
    [program] = blocks("python")
    (place / "ask.py").write_text(program.replace("http://127.0.0.1:3000", server), encoding="utf-8")
    assert "'label': 'ankle boot'" in run("python ask.py", place)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed; the JavaScript example needs it")
def test_javascript_client_gets_a_prediction(server, place):
    [program] = blocks("js")
    (place / "ask.cjs").write_text(program.replace("http://127.0.0.1:3000", server), encoding="utf-8")
    assert "label: 'ankle boot'" in run("node ask.cjs", place)


@pytest.mark.parametrize("command", commands("docker"))
def test_docker_command_uses_existing_settings_and_port(command):
    """Without a container engine here; the Dockerfile itself is tested by test_docker_image.py and `make image`."""
    assert set(re.findall(r"-e GRAFT_(\w+)=", command)) <= {name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"-p \d+:(\d+)", command)) <= {"3000"}
    assert command.endswith((" .", " graft-service"))


def test_every_setting_is_documented_with_its_default():
    rows = dict(re.findall(r"^\| `GRAFT_(\w+)` \| ([^|]+) \|", README, re.MULTILINE))
    assert list(rows) == [name.upper() for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        if type(field.default) in (int, float):
            assert float(rows[name.upper()].replace(",", "")) == field.default


def test_every_route_is_documented():
    documented = set(re.findall(r"`(?:GET |POST )?(/[^` ]*)`", README))
    undocumented = {"/healthz"}  # alias of /livez
    assert {path for path in build_routes() if not path.startswith("/page/")} - undocumented <= documented


def test_tree_lists_every_package_and_top_level_module():
    paths = [path for package in ("service", "training") for path in (ROOT / package).iterdir() if path.stem != "__init__"]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in paths if path.is_dir() or path.suffix == ".py"]
    assert [name for name in names if name != "__pycache__/" and f"  {name} " not in README] == []
