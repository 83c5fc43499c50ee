"""Runs a real `bentoml serve` and gives access to its processes by role, and to its log."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import psutil

from graft.training.pipelines.serve import environment
from graft.training.runtime.import_root import IMPORT_ROOT

TIMEOUT_S = 120.0  # until a hanging test fails
SERVICE = "graft.service.app:Graft"
T = TypeVar("T")


@dataclass(frozen=True)
class RunningServer:
    """A running server.

    Attributes:
        command: the `bentoml serve` process, which starts the worker and replaces it if it dies.
        port: TCP port.
    """

    command: subprocess.Popen[bytes]
    port: int
    _log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_text(self) -> str:
        """The log output so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All processes, the command first."""
        command = psutil.Process(self.command.pid)
        return [command, *command.children(recursive=True)]

    def worker(self) -> psutil.Process:
        """The worker process, which runs the model."""
        return poll_until(lambda: next(iter(self._processes_of("_bentoml_impl.worker.service")), None))

    def fork_server(self) -> psutil.Process:
        """The fork server of the decode workers."""
        worker = self.worker()
        return poll_until(lambda: next((process for process in self._decode_processes() if process.ppid() == worker.pid), None))

    def decode_workers(self) -> list[psutil.Process]:
        """The decode workers."""
        parent = self.fork_server()
        return [process for process in self._decode_processes() if process.ppid() == parent.pid]

    def _decode_processes(self) -> list[psutil.Process]:
        return self._processes_of("graft.service.decoding.worker")

    def _processes_of(self, module: str) -> list[psutil.Process]:
        matching = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if module in process.cmdline():
                    matching.append(process)
        return matching

    def status(self, path: str) -> int | None:
        """Status of a GET request; None without a response."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


@contextmanager
def bentoml_server(package: Path, service: str = SERVICE, **settings: str) -> Iterator[RunningServer]:
    """Run `bentoml serve` on a free port in a new process group; yields when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**environment(package, port), **settings}
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as log_file:
            process = subprocess.Popen(
                command, cwd=IMPORT_ROOT, env=env, stdout=log_file, stderr=log_file, start_new_session=True
            )
        server = RunningServer(process, port, log)
        try:
            poll_until(lambda: process.poll() is not None or server.status("/readyz") == 200)
            assert process.poll() is None, server.log_text()
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def poll_until(function: Callable[[], T | None]) -> T:
    """Poll until the function returns a true value; return that value."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := function()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def all_exited(processes: list[psutil.Process]) -> bool:
    """Wait for the processes to exit; False on timeout."""
    return not psutil.wait_procs(processes, TIMEOUT_S)[1]
