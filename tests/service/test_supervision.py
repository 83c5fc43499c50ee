"""What the supervisor holds for its workers, and when it gives up on them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graft.service.artifact import MANIFEST, read
from graft.service.supervision import ENV, FailedStarts, Handover

WORKER = (
    "from graft.service.artifact import ArtifactError;"
    "from graft.service.supervision import Handover\n"
    "try: print(Handover.received().open_package().manifest.sha256)\n"
    "except ArtifactError as error: print(error)"
)


@pytest.fixture
def package(fitted, tmp_path) -> Path:
    return Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))


def started_worker(package: Path, change) -> str:
    """Opens a package as a supervisor does, changes it, and returns what a worker that starts then finds."""
    artifact = read(package)
    handover = {
        "supervisor": os.getpid(),
        "package": str(package),
        "sha256": artifact.manifest.sha256,
        "files": artifact.files.share(),
        "ready": -1,
    }
    change(package)
    environment = os.environ | {ENV: json.dumps(handover)}
    return subprocess.check_output([sys.executable, "-c", WORKER], env=environment, close_fds=False, text=True).strip()


def rename(package: Path) -> None:
    manifest = read(package).manifest.model_copy(update={"name": "other"})
    (package / MANIFEST).write_bytes(manifest.with_digest().to_bytes())


@pytest.mark.parametrize("change", [lambda package: None, shutil.rmtree, lambda package: package.rename(f"{package}-moved")])
def test_a_worker_opens_what_the_supervisor_opened(fitted, package, change):
    assert started_worker(package, change) == fitted.artifact.manifest.sha256


def test_a_worker_refuses_a_package_that_was_overwritten(fitted, package):
    sha256 = fitted.artifact.manifest.sha256
    found = started_worker(package, rename)
    assert found.startswith(f"{package} was overwritten while it was served: model {sha256[:12]}… became ")
    assert "\n" not in found


def test_a_worker_refuses_damaged_files(package):
    found = started_worker(package, lambda package: (package / "model.onnx").write_bytes(b"damaged"))
    assert found.startswith(f"{package} was overwritten while it was served.")
    assert "model.onnx has 7 bytes" in found


def test_a_handover_of_another_process_is_ignored(monkeypatch):
    handover = {"supervisor": os.getpid(), "package": "", "sha256": "", "files": {}, "ready": -1}
    monkeypatch.setenv(ENV, json.dumps(handover))  # this process is not its own parent
    assert Handover.received() is None


@pytest.fixture
def stops(monkeypatch) -> list[int]:
    """The signals that stop the supervisor, received here instead."""
    received: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGUSR1, previous)


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def test_three_workers_that_die_before_they_are_ready_end_the_service(pipe, stops, capsys):
    failed_starts = FailedStarts(pipe[0])
    failed_starts.on_exit(-9)
    failed_starts.on_exit(-9)
    assert stops == []
    failed_starts.on_exit(-9)
    assert stops == [signal.SIGUSR1]
    reason = "3 workers in a row ended before they were ready, the last by SIGKILL; is there enough memory?"
    assert capsys.readouterr().err == f"error: {reason}\n"


def test_workers_that_were_ready_are_replaced_for_ever(pipe, stops):
    failed_starts = FailedStarts(pipe[0])
    for _ in range(10):
        os.write(pipe[1], b"\0")
        failed_starts.on_exit(1)
    assert stops == []


def test_workers_that_were_asked_to_stop_have_not_failed(pipe, stops):
    failed_starts = FailedStarts(pipe[0])
    for exit_code in (0, -15, 0, -15):
        failed_starts.on_exit(exit_code)
    assert stops == []
