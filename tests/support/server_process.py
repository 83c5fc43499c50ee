"""A real `bentoml serve` as its operator has it: its processes by what they are, and what it says."""

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

from graft.training.pipelines.serve import ROOT, environment

PATIENCE_S = 120.0  # until a hung test fails; never reached otherwise
SERVICE = "graft.service.app:Graft"
T = TypeVar("T")


@dataclass(frozen=True)
class Operated:
    """A server that was started.

    Attributes:
        command: `bentoml serve` itself, which starts the worker, and another one if that dies.
        port: where it listens.
    """

    command: subprocess.Popen[bytes]
    port: int
    _log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        """Everything up to now."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All of it, the command first."""
        command = psutil.Process(self.command.pid)
        return [command, *command.children(recursive=True)]

    def worker(self) -> psutil.Process:
        """The process that holds the model."""
        return eventually(lambda: next(iter(self._named("_bentoml_impl.worker.service")), None))

    def nursery(self) -> psutil.Process:
        """The process that decoders are forked from."""
        worker = self.worker()
        return eventually(lambda: next((one for one in self._decoding() if one.ppid() == worker.pid), None))

    def decoders(self) -> list[psutil.Process]:
        """The processes that decode."""
        nursery = self.nursery()
        return [one for one in self._decoding() if one.ppid() == nursery.pid]

    def _decoding(self) -> list[psutil.Process]:
        return self._named("graft.service.decoding.worker")

    def _named(self, module: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                if module in process.cmdline():
                    found.append(process)
        return found

    def status(self, path: str) -> int | None:
        """What a GET is answered with now; None if nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None


@contextmanager
def operating(package: Path, service: str = SERVICE, **settings: str) -> Iterator[Operated]:
    """`bentoml serve` on a free port, in a process group of its own; from ready until the block ends, if not before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {**environment(package, port), **settings}
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
    with TemporaryDirectory() as folder:
        log = Path(folder, "said")
        with log.open("wb") as said:
            process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=said, stderr=said, start_new_session=True)
        server = Operated(process, port, log)
        try:
            eventually(lambda: process.poll() is not None or server.status("/readyz") == 200)
            assert process.poll() is None, server.said()
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def eventually(look: Callable[[], T | None]) -> T:
    """What is seen once there is something to see."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return seen


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more, soon."""
    return not psutil.wait_procs(processes, PATIENCE_S)[1]
