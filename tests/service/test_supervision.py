"""What the supervisor holds for its workers, and when it gives up on them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from server_process import poll_until

from graft.service.artifact import read
from graft.service.inference.cuda_check import CudaCheck
from graft.service.manifest import MANIFEST
from graft.service.monitoring import logs
from graft.service.supervision import ALIVE, ENV, HANG_TICKS, KILL_TICKS, READY, REPORT, START_TICKS, Handover, WorkerWatch
from graft.service.workers import Workers

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
        "reports": -1,
    }
    change(package)
    environment = os.environ | {ENV: json.dumps(handover | NO_GPU)}
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
    handover = {"supervisor": os.getpid(), "package": "", "sha256": "", "files": {}, "reports": -1}
    monkeypatch.setenv(ENV, json.dumps(handover | NO_GPU))  # this process is not its own parent
    assert Handover.received() is None


HANDOVER = {"supervisor": os.getppid(), "package": "", "sha256": "", "files": {}, "reports": -1}
NO_GPU = {"cuda": None, "workers": vars(Workers())}


def test_a_worker_gets_what_its_supervisor_found_about_the_gpu(monkeypatch):
    check = CudaCheck("the memory of NVIDIA L4 is full", n_devices=1, name="NVIDIA L4", capability="8.9")
    monkeypatch.setenv(ENV, json.dumps(HANDOVER | NO_GPU | {"cuda": vars(check)}))
    assert Handover.received().cuda == check


def test_a_worker_that_replaces_another_looks_at_the_gpu_itself(pipe, monkeypatch):
    watcher = SimpleNamespace(env={ENV: json.dumps(HANDOVER | NO_GPU | {"cuda": vars(CudaCheck(n_devices=1))})})
    WorkerWatch(pipe[0]).on_exit(1, 7, watcher=watcher)
    monkeypatch.setenv(ENV, watcher.env[ENV])
    assert Handover.received() == Handover(**HANDOVER)


def test_a_worker_that_replaces_another_is_told_what_that_one_served(pipe, monkeypatch):
    watcher, watch = SimpleNamespace(env={ENV: json.dumps(HANDOVER | NO_GPU)}), WorkerWatch(pipe[0])
    Handover(**HANDOVER | {"reports": pipe[1]}).tell_ready("int8")
    watch.on_exit(-9, os.getpid(), watcher=watcher)
    monkeypatch.setenv(ENV, watcher.env[ENV])
    assert Handover.received().precision == "int8"


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


def test_three_workers_that_die_before_they_are_ready_end_the_service(pipe, stops, capfd):
    watch = WorkerWatch(pipe[0])
    watch.on_exit(-9)
    watch.on_exit(-9)
    assert stops == []
    watch.on_exit(-9)
    assert stops == [signal.SIGUSR1]
    reason = "3 workers in a row ended before they were ready, the last by SIGKILL; is there enough memory?"
    logs.stderr.flush()
    assert capfd.readouterr().err == f"error: {reason}\n"


def test_workers_that_were_ready_are_replaced_for_ever(pipe, stops):
    watch = WorkerWatch(pipe[0])
    for _ in range(10):
        os.write(pipe[1], REPORT.pack(os.getpid(), READY, 0))
        watch.on_exit(1, os.getpid())
    assert stops == []


def test_a_worker_that_never_becomes_ready_ends_the_service_beside_one_that_is(pipe, stops):
    watch = WorkerWatch(pipe[0])
    os.write(pipe[1], REPORT.pack(os.getpid(), READY, 0))
    for pid in (7, 8, 9):
        watch.on_exit(1, pid)
    assert stops == [signal.SIGUSR1]


def test_workers_that_were_asked_to_stop_have_not_failed(pipe, stops):
    watch = WorkerWatch(pipe[0])
    for exit_code in (0, -15, 0, -15):
        watch.on_exit(exit_code)
    assert stops == []


@pytest.fixture
def worker():
    """A process that stands for a worker."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def tick(watch: WorkerWatch, worker: subprocess.Popen, n: int) -> None:
    for _ in range(n):
        watch.tick([worker.pid])


def report_alive(pipe, worker) -> None:
    os.write(pipe[1], REPORT.pack(worker.pid, ALIVE, 0))


def test_a_worker_whose_event_loop_hangs_is_ended(pipe, worker, capfd):
    watch = WorkerWatch(pipe[0])
    report_alive(pipe, worker)
    tick(watch, worker, HANG_TICKS - 1)
    report_alive(pipe, worker)
    tick(watch, worker, HANG_TICKS - 1)
    assert worker.poll() is None
    tick(watch, worker, 1)
    assert worker.wait() == -signal.SIGABRT
    logs.stderr.flush()
    assert f"the worker has not responded for {HANG_TICKS} seconds" in capfd.readouterr().err


def test_a_worker_that_ignores_the_first_signal_is_killed(pipe):
    command = "import signal, time; signal.signal(signal.SIGABRT, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        watch = WorkerWatch(pipe[0])
        report_alive(pipe, worker)
        tick(watch, worker, HANG_TICKS + KILL_TICKS - 1)
        assert worker.poll() is None
        tick(watch, worker, 1)
        assert worker.wait() == -signal.SIGKILL


def test_a_worker_may_take_long_to_start(pipe, worker):
    watch = WorkerWatch(pipe[0])
    tick(watch, worker, START_TICKS - 1)
    assert worker.poll() is None
    tick(watch, worker, 1)
    assert worker.wait() == -signal.SIGABRT


def test_a_paused_worker_does_not_hang(pipe, worker):
    watch = WorkerWatch(pipe[0])
    report_alive(pipe, worker)
    tick(watch, worker, 1)
    worker.send_signal(signal.SIGSTOP)
    poll_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
    tick(watch, worker, 10 * HANG_TICKS)
    worker.send_signal(signal.SIGCONT)
    poll_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_SLEEPING)
    tick(watch, worker, 5)
    assert worker.poll() is None
