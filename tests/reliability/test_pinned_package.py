"""What is served never changes by itself: a replaced worker answers as the same model, or the service ends."""

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from server_process import TIMEOUT_S, RunningServer, bentoml_server, poll_until

from graft.service.artifact import Artifact
from graft.service.manifest import MANIFEST

pytestmark = pytest.mark.slow


def copy(artifact: Artifact, folder: Path, name: str) -> Path:
    """A copy of a package with another name, so with another digest."""
    shutil.copytree(artifact.path, folder)
    manifest = artifact.manifest.model_copy(update={"name": name})
    (folder / MANIFEST).write_bytes(manifest.with_digest().to_bytes())
    return folder


def served_names(server: RunningServer, image: bytes) -> set[str]:
    """The names of the models in all kinds of answers."""
    paths = ("classify", "embed", "explain?method=cam", "explain?method=occlusion", "similar?k=1&thumbnails=true")
    headers = {"Accept": "application/json"}
    answers = [httpx.post(f"{server.url}/v1/{path}", content=image, headers=headers, timeout=TIMEOUT_S) for path in paths]
    described = httpx.get(f"{server.url}/v1/model").json()
    return {described["name"], *(answer.raise_for_status().json()["model"]["name"] for answer in answers)}


def kill_worker(server: RunningServer) -> None:
    worker = server.worker()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(TIMEOUT_S)


def test_a_service_answers_as_one_model_whatever_happens_to_the_folder(fitted, tmp_path, shirt):
    copy(fitted.artifact, tmp_path / "A" / "package", "A")
    copy(fitted.artifact, tmp_path / "B" / "package", "B")
    latest = tmp_path / "latest"
    latest.symlink_to("A")
    with bentoml_server(latest / "package", GRAFT_PACKAGE=str(latest / "package")) as server:
        latest.unlink()
        latest.symlink_to("B")
        assert served_names(server, shirt) == {"A"}
        kill_worker(server)
        poll_until(lambda: server.status("/readyz") == 200)
        shutil.rmtree(tmp_path / "A")
        assert served_names(server, shirt) == {"A"}
        kill_worker(server)
        poll_until(lambda: server.status("/readyz") == 200)
        assert served_names(server, shirt) == {"A"}


def test_a_service_whose_package_was_overwritten_ends_with_the_reason(fitted, tmp_path, shirt):
    served = copy(fitted.artifact, tmp_path / "served", "A")
    other = copy(fitted.artifact, tmp_path / "other", "B")
    with bentoml_server(served) as server:
        shutil.copyfile(other / MANIFEST, served / MANIFEST)
        assert served_names(server, shirt) == {"A"}
        kill_worker(server)
        assert server.command.wait(TIMEOUT_S) == 3
        errors = [line for line in server.log_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {served} was overwritten while it was served: model ")


def test_workers_that_never_become_ready_end_the_service(fitted, tmp_path):
    with bentoml_server(copy(fitted.artifact, tmp_path / "package", "A")) as server:
        while server.command.poll() is None:
            with suppress(psutil.NoSuchProcess):
                for child in server.processes()[1:]:
                    child.kill()
            time.sleep(0.1)
        assert server.command.returncode == 3
        assert "error: 3 workers in a row ended before they were ready, the last by SIGKILL" in server.log_text()
