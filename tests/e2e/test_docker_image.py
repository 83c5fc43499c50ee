"""The Dockerfile, read as a builder reads it, and its command run as `docker run --read-only --tmpfs /tmp` would.

That is what can be proven without a container engine; `make image` builds a real image and asks it.
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

from graft.service.artifact import FORMAT, MANIFEST

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds
KEY = "0123456789abcdef"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, comments and continuation lines resolved."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def only(instruction: str) -> str:
    [found] = [rest for word, rest in instructions() if word == instruction]
    return found


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))


# Everything but one folder becomes read-only, for this process and its children; then root gives up what makes it root.
CONFINE = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec setpriv --bounding-set=-all "$@"'
ALONE = ["unshare", "--mount"]
CAN_CONFINE = os.geteuid() == 0 and subprocess.run([*ALONE, "sh", "-c", CONFINE, "/tmp", "true"], check=False).returncode == 0
HEALTHCHECK = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
COMMAND = json.loads(only("CMD"))


@dataclass
class Contained:
    """The image's folder, as far as a service sees it: /graft, and /tmp as the only place to write to."""

    graft: Path
    writable: Path

    def environment(self, **given: str) -> dict[str, str]:
        """The image's, and what `docker run -e` adds."""
        here = {"/graft/": f"{self.graft}/", "/tmp/": f"{self.writable}/"}
        set_there = {name: re.sub("^/(graft|tmp)/", lambda path: here[path[0]], value) for name, value in environment().items()}
        search = f"{Path(sys.executable).parent}:{os.defpath}"
        return set_there | {"PATH": search, "TMPDIR": str(self.writable), "HOME": "/home/graft"} | given

    def start(self, port: int, **given: str) -> "subprocess.Popen[str]":
        """The image's command, with nothing to write to but `writable`, and none of root's rights."""
        confined = [*ALONE, "sh", "-c", CONFINE, str(self.writable)] if CAN_CONFINE else []
        return subprocess.Popen(
            [*confined, *(word.replace("3000", str(port)) for word in COMMAND)],
            cwd=self.graft,
            env=self.environment(**given),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def contained(fitted, tmp_path_factory) -> Contained:
    folder = tmp_path_factory.mktemp("image")
    shutil.copytree(ROOT / "service", folder / "graft/service", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(fitted.artifact.path, folder / "graft/package")
    for path in (folder / "graft").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "graft").chmod(0o555)
    (folder / "tmp").mkdir()
    return Contained(folder / "graft", folder / "tmp")


@dataclass
class Running:
    """A service from the image.

    Attributes:
        process: the command's, which would be number 1.
    """

    process: "subprocess.Popen[str]"
    url: str

    def worker(self) -> psutil.Process:
        """The process that holds the model: the child that is no helper of Python's."""
        [worker] = [child for child in psutil.Process(self.process.pid).children() if "service" in " ".join(child.cmdline())]
        return worker

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
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
def running(contained: Contained, **given: str) -> Iterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with contained.start(port, **given) as process:
        server = Running(process, f"http://127.0.0.1:{port}")
        try:
            server.wait_until_ready()
            yield server
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def test_the_base_image_can_be_chosen():
    assert instructions()[:2] == [("ARG", "BASE_IMAGE=python:3.11-slim"), ("FROM", "${BASE_IMAGE}")]


def test_it_runs_as_a_user_without_rights():
    words = [word for word, _ in instructions()]
    assert only("USER") == "graft"
    assert any(re.search(r"useradd .*--uid [1-9]\d+ graft$", rest) for word, rest in instructions() if word == "RUN")
    assert words.index("USER") < words.index("CMD")


def test_everything_is_installed_by_hash_and_torch_is_not():
    [install] = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert "--require-hashes -r requirements-service.lock" in install
    locked = (ROOT / "requirements-service.lock").read_text()
    assert re.findall(r"^(?:torch|timm|pytorch-lightning|nvidia-cu\S*)\b", locked, re.M) == []
    assert re.findall(r"^openvino==", locked, re.M)


def test_a_worker_that_died_may_be_replaced():
    assert "BENTOML_CONTAINERIZED" not in environment()


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("requirements-service.lock", True),
        ("service/page/index.html", True),
        ("runs/latest-package/manifest.json", True),
        ("runs/mine/package/model.onnx", True),
        ("runs/mine/checkpoints/epoch-0001.ckpt", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("photos/cat/1.jpg", False),
    ],
)
def test_the_builder_is_sent_what_it_needs_only(path, sent):
    """Docker's rules, as far as they are used: the last pattern that matches a path, or a folder above it, decides."""
    decided = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            decided = line.startswith("!")
    assert decided is sent


@pytest.mark.skipif(not CAN_CONFINE, reason="a read-only root file system needs root, unshare and setpriv")
def test_it_serves_without_a_home_and_writes_nowhere_but_into_tmp(contained):
    with running(contained) as server:
        healthy = [word.replace("3000", server.url.rpartition(":")[2]) for word in HEALTHCHECK]
        assert subprocess.run(healthy, env=contained.environment(), check=False).returncode == 0
        assert httpx.get(f"{server.url}/v1/labels").status_code == 200
        server.process.terminate()
        said = server.process.communicate(timeout=PATIENCE)[0]
    assert "WARNING: anybody who can reach 0.0.0.0 may use this service" in said
    assert "Read-only file system" not in said
    assert "Traceback" not in said


def test_the_health_check_fails_where_nothing_answers(contained):
    done = subprocess.run([word.replace("3000", "1") for word in HEALTHCHECK], capture_output=True, check=False)
    assert done.returncode == 1


def test_a_mounted_key_is_asked_for_and_never_told(contained):
    secret = contained.writable / "key"
    secret.write_text(f"{KEY}\n")
    secret.chmod(0o444)
    with running(contained, GRAFT_API_KEY_FILE=str(secret)) as server:
        assert httpx.get(f"{server.url}/v1/labels").status_code == 401
        assert httpx.get(f"{server.url}/v1/labels", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        server.process.terminate()
        said = server.process.communicate(timeout=PATIENCE)[0]
    assert "WARNING: anybody" not in said
    assert KEY not in said


def test_a_killed_worker_is_replaced(contained):
    with running(contained) as server:
        first = server.worker()
        first.kill()
        first.wait(PATIENCE)
        server.wait_until_ready()
        assert server.worker().pid != first.pid


def test_a_package_of_another_format_ends_the_build_and_says_so(contained, tmp_path):
    shutil.copytree(contained.graft / "package", tmp_path / "package")
    manifest = tmp_path / "package" / MANIFEST
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 2'))
    said = refused_by_the_build(contained, tmp_path / "package", code=3)
    assert said == f"error: {manifest} has format 2; this Graft reads format {FORMAT}. Install the Graft it names.\n"


def refused_by_the_build(contained: Contained, package: Path, code: int) -> str:
    """What the image's own check says of a package, in the words of the Dockerfile."""
    [check] = [rest.partition(" && ")[2] for word, rest in instructions() if word == "RUN" and "check()" in rest]
    given = contained.environment(GRAFT_PACKAGE=str(package))
    done = subprocess.run(shlex.split(check), cwd=contained.graft, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == code
    return done.stderr


def test_sigterm_lets_an_upload_finish_and_ends_it(contained, clothes):
    image = clothes[0][1]
    with running(contained) as server, socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as caller:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
        caller.sendall(head.encode() + image[:50])
        caller.settimeout(PATIENCE)
        time.sleep(0.2)  # until the request has begun
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2)  # until the doors are closed
        caller.sendall(image[50:])
        answer = caller.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(PATIENCE) == 0
