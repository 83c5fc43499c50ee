"""No command and no server looks up a host, connects to one, or leaves files in the user's home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import TIMEOUT_S, bentoml_server

from graft.training.cli.commands import HANDLERS

pytestmark = pytest.mark.slow

LOOKUPS = Path(__file__).parents[1] / "support" / "lookups"
RUNS_ELSEWHERE = {"serve"}  # never ends by itself; tested below
# One process imports everything once; each command still starts the processes that it always starts.
PROGRAM = """
import sys
from graft.training.cli.main import main

for line in sys.stdin:
    print(line.strip(), main(line.split()), flush=True)
"""


@pytest.fixture
def environment(tmp_path, monkeypatch) -> dict[str, str]:
    """The environment of a new user, with a recorder of look-ups in every process.

    No CI variable and no offline switch of a library: they would hide what a user's machine does.
    """
    for name in (
        "CI",
        "HF_HUB_OFFLINE",
        "NNCF_CI",
        "NO_ALBUMENTATIONS_UPDATE",
        "BENTOML_DO_NOT_TRACK",
        "MLFLOW_DISABLE_TELEMETRY",
    ):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    settings = {
        "HOME": str(tmp_path / "home"),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "PYTHONPATH": str(LOOKUPS),
        "LOOKUPS": str(tmp_path / "lookups"),
    }
    if compiler := shutil.which("cc"):  # the look-ups of C code; those of Python code are recorded in any case
        library = tmp_path / "lookups.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, LOOKUPS / "lookups.c", "-ldl"], check=True)
        settings["LD_PRELOAD"] = str(library)
    return settings


def lookups(environment: dict[str, str]) -> str:
    path = Path(environment["LOOKUPS"])
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_the_recorder_records(environment):
    program = "import socket\ntry: socket.getaddrinfo('nobody.invalid', 80)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", program], env=os.environ | environment, check=True)
    assert "nobody.invalid" in lookups(environment)


def test_no_command_calls_anybody(environment, make_folder, tmp_path, clothes):
    photos, image, package = make_folder({"cat": 12, "dog": 12}), tmp_path / "image.png", "runs/latest/package"
    image.write_bytes(clothes[0][1])
    commands = [
        "info",
        f"check {photos}",
        f"fit {photos} --strategy probe --int8 --tracker tensorboard",
        f"fit {photos} --strategy finetune --epochs 1 --budget 10s --tracker mlflow",
        f"fit {photos} --strategy finetune-last --search 1 --epochs 1 --budget 10s",
        f"compare {photos} --strategies probe",
        f"evaluate {package} {photos} --robust --sample 4 --report report.html",
        f"predict {package} {image}",
        f"locate {package} {image}",
        f"inspect {package} --html inspect.html --data {photos}",
        f"verify {package}",
        "package",
        "build",
        "completion bash",
        "demo",
    ]
    assert {command.split()[0] for command in commands} == set(HANDLERS) - RUNS_ELSEWHERE
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="\n".join(commands) + "\n",
        env=os.environ | environment,
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    failed = [command for command in commands if f"{command} 0" not in process.stdout.splitlines()]
    assert failed == [], process.stderr
    assert lookups(environment) == ""
    assert list(Path(environment["HOME"]).rglob("*")) == []


def test_no_server_calls_anybody(environment, fitted, clothes):
    with (
        bentoml_server(fitted.artifact.path, **environment) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client,
    ):
        for path in ("classify", "embed", "explain?method=cam", "explain?method=gradcam", "explain?deletion=true", "similar"):
            assert client.post(f"/v1/{path}", content=clothes[0][1]).status_code == 200
        for path in ("/", "/docs", "/metrics", "/v1/model", "/openapi.json"):
            client.get(path)
        server.command.terminate()
        assert server.command.wait(TIMEOUT_S) == 0
    assert lookups(environment) == ""
    assert list(Path(environment["HOME"]).rglob("*")) == []
