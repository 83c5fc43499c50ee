"""Checks the Dockerfile, and runs its command like `docker run --read-only --tmpfs /tmp`.

Needs no container engine; `make image` builds a real image and sends it a request.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from graft.service.manifest import FORMAT_VERSION, MANIFEST

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60  # seconds
KEY = "0123456789abcdef"


def all_instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, comments and continuation lines resolved."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def instructions(target: str = "cpu") -> list[tuple[str, str]]:
    """The instructions that make the image of a target: those of the stages that it is built from, and its own."""
    stages: dict[str, list[tuple[str, str]]] = {}
    found: list[tuple[str, str]] = []
    for word, rest in all_instructions():
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            found = stages[name] = list(stages.get(parent, []))
        found.append((word, rest))
    return stages[target]


def single_instruction(instruction: str) -> str:
    [found] = [rest for word, rest in instructions() if word == instruction]
    return found


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(single_instruction("ENV")))


# Makes everything but one folder read-only for this process and its children, then drops all capabilities of root.
CONFINE_SCRIPT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec setpriv --bounding-set=-all "$@"'
UNSHARE_MOUNT = ["unshare", "--mount"]
CAN_CONFINE = (
    os.geteuid() == 0
    and subprocess.run([*UNSHARE_MOUNT, "sh", "-c", CONFINE_SCRIPT, "/tmp", "true"], check=False).returncode == 0
)
HEALTHCHECK = json.loads(single_instruction("HEALTHCHECK").partition("CMD ")[2])
COMMAND = json.loads(single_instruction("CMD"))


@dataclass
class ImageFilesystem:
    """The image's file system: /graft, and /tmp as the only writable folder."""

    graft: Path
    writable: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Environment of the image plus variables as from `docker run -e`."""
        folders = {"/graft/": f"{self.graft}/", "/tmp/": f"{self.writable}/"}
        env = {name: re.sub("^/(graft|tmp)/", lambda path: folders[path[0]], value) for name, value in environment().items()}
        search_path = f"{Path(sys.executable).parent}:{os.defpath}"
        return env | {"PATH": search_path, "TMPDIR": str(self.writable), "HOME": "/home/graft"} | variables

    def start(self, port: int, **variables: str) -> "subprocess.Popen[str]":
        """Start the image's command with `writable` as the only writable folder and without capabilities."""
        prefix = [*UNSHARE_MOUNT, "sh", "-c", CONFINE_SCRIPT, str(self.writable)] if CAN_CONFINE else []
        return subprocess.Popen(
            [*prefix, *(word.replace("3000", str(port)) for word in COMMAND)],
            cwd=self.graft,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def contained(fitted, tmp_path_factory) -> ImageFilesystem:
    folder = tmp_path_factory.mktemp("image")
    shutil.copytree(ROOT / "service", folder / "graft/service", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(fitted.artifact.path, folder / "graft/package")
    for path in (folder / "graft").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "graft").chmod(0o555)
    (folder / "tmp").mkdir()
    return ImageFilesystem(folder / "graft", folder / "tmp")


@dataclass
class RunningService:
    """A running service of the image.

    Attributes:
        process: the image's command, PID 1 in a container.
    """

    process: "subprocess.Popen[str]"
    url: str

    def worker(self) -> psutil.Process:
        """The worker process, which runs the model: the child process that is not a Python helper."""
        [worker] = [child for child in psutil.Process(self.process.pid).children() if "service" in " ".join(child.cmdline())]
        return worker

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        self.process.kill()
        pytest.fail(f"not ready: {self.process.communicate()[0]}")


@contextmanager
def running_service(contained: ImageFilesystem, **variables: str) -> Iterator[RunningService]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with contained.start(port, **variables) as process:
        server = RunningService(process, f"http://127.0.0.1:{port}")
        try:
            server.wait_until_ready()
            yield server
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def test_base_image_is_configurable():
    assert all_instructions()[:2] == [("ARG", "BASE_IMAGE=python:3.11-slim"), ("FROM", "${BASE_IMAGE} AS base")]


def test_the_default_target_is_for_cpus():
    assert [rest.partition(" AS ")[2] for word, rest in all_instructions() if word == "FROM"][-1] == "cpu"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_image_runs_as_unprivileged_user(target):
    steps = instructions(target)
    assert steps[-1] == ("USER", "graft")
    assert any(re.search(r"useradd .*--uid [1-9]\d+ graft\b", rest) for word, rest in steps if word == "RUN")


@pytest.mark.parametrize(("target", "lock"), [("cpu", "requirements-service.lock"), ("gpu", "requirements-gpu.lock")])
def test_packages_are_installed_by_hash(target, lock):
    [install] = [rest for word, rest in instructions(target) if word == "RUN" and "pip install" in rest]
    assert f"--require-hashes -r {lock}" in install
    locked = {name.partition("==")[0] for name in re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.M)}
    assert {"bentoml", "openvino", "pillow"} <= locked
    assert {"torch", "torchvision", "timm"} & locked == ({"torch", "torchvision", "timm"} if target == "gpu" else set())
    assert any(name.startswith("nvidia-cudnn") for name in locked) == (target == "gpu")
    assert "pytorch-lightning" not in locked


def test_both_targets_serve_the_same_versions():
    cpu, gpu = (
        dict(re.findall(r"^(\S+?)==(\S+)", (ROOT / lock).read_text(), re.M))
        for lock in ("requirements-service.lock", "requirements-gpu.lock")
    )
    assert cpu.items() <= gpu.items()


def test_dead_worker_may_be_replaced():
    assert "BENTOML_CONTAINERIZED" not in environment()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("requirements-service.lock", True),
        ("requirements-gpu.lock", True),
        ("service/page/index.html", True),
        ("runs/latest-package/manifest.json", True),
        ("runs/mine/package/model.onnx", True),
        ("runs/mine/checkpoints/epoch-0001.ckpt", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("photos/cat/1.jpg", False),
    ],
)
def test_build_context_contains_only_what_is_needed(path, sent):
    """Implements the .dockerignore rules in use: the last pattern that matches a path or a parent folder decides."""
    is_sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            is_sent = line.startswith("!")
    assert is_sent is sent


@pytest.mark.skipif(not CAN_CONFINE, reason="a read-only root file system needs root, unshare and setpriv")
def test_service_runs_without_a_home_and_writes_only_to_tmp(contained):
    with running_service(contained) as server:
        health_check = [word.replace("3000", server.url.rpartition(":")[2]) for word in HEALTHCHECK]
        assert subprocess.run(health_check, env=contained.environment(), check=False).returncode == 0
        assert httpx.get(f"{server.url}/v1/labels").status_code == 200
        server.process.terminate()
        log = server.process.communicate(timeout=TIMEOUT_S)[0]
    assert "WARNING: no API key is set, so any client that can reach 0.0.0.0 can use this service" in log
    assert "Read-only file system" not in log
    assert "Traceback" not in log


def test_health_check_fails_without_a_server(contained):
    result = subprocess.run([word.replace("3000", "1") for word in HEALTHCHECK], capture_output=True, check=False)
    assert result.returncode == 1


def test_mounted_api_key_is_required_and_never_logged(contained):
    key_file = contained.writable / "key"
    key_file.write_text(f"{KEY}\n")
    key_file.chmod(0o444)
    with running_service(contained, GRAFT_API_KEY_FILE=str(key_file)) as server:
        assert httpx.get(f"{server.url}/v1/labels").status_code == 401
        assert httpx.get(f"{server.url}/v1/labels", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        server.process.terminate()
        log = server.process.communicate(timeout=TIMEOUT_S)[0]
    assert "WARNING: no API key is set" not in log
    assert KEY not in log


def test_killed_worker_is_replaced(contained):
    with running_service(contained) as server:
        worker = server.worker()
        worker.kill()
        worker.wait(TIMEOUT_S)
        server.wait_until_ready()
        assert server.worker().pid != worker.pid


def test_package_of_another_format_fails_the_build(contained, tmp_path):
    shutil.copytree(contained.graft / "package", tmp_path / "package")
    manifest = tmp_path / "package" / MANIFEST
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT_VERSION}', '"format": 2'))
    message = build_error(contained, tmp_path / "package", code=3)
    assert (
        message
        == f"error: {manifest} has format 2; this Graft reads format {FORMAT_VERSION}. Install a matching Graft version.\n"
    )


def build_error(contained: ImageFilesystem, package: Path, code: int) -> str:
    """Run the package check of the Dockerfile; return its error message."""
    [check] = [rest.partition(" && ")[2] for word, rest in instructions() if word == "RUN" and "check_package()" in rest]
    env = contained.environment(GRAFT_PACKAGE=str(package))
    result = subprocess.run(shlex.split(check), cwd=contained.graft, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == code
    return result.stderr


def test_sigterm_waits_for_an_upload_and_exits(contained, clothes):
    image = clothes[0][1]
    with (
        running_service(contained) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client,
    ):
        header = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
        client.sendall(header.encode() + image[:50])
        client.settimeout(TIMEOUT_S)
        time.sleep(0.2)  # until the request has begun
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2)  # until the server stops accepting connections
        client.sendall(image[50:])
        response = client.recv(2**16)
        assert response.startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(TIMEOUT_S) == 0
