"""Runs several servers and keeps all but one suspended, so that only one uses the CPU at a time."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

READY_TIMEOUT_S = 600.0  # importing torch takes minutes on a busy machine
IDLE_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.25
IDLE_CPU = 0.5  # of one CPU; some servers poll without any request


@dataclass
class Server:
    """An HTTP server process.

    Attributes:
        command: the command line; `{port}` stands for the port.
        health: the path that returns 200 once the server is ready.
    """

    name: str
    command: Sequence[str]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    port: int = 0
    process: psutil.Popen | None = None

    def start(self) -> None:
        """Start the process in a new session, without waiting until it is ready."""
        self.port = self.port or free_port()
        command = [part.format(port=self.port) for part in self.command]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server; a full pipe would block it
        self.process = psutil.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Wait until the server is ready. Raises RuntimeError on timeout or exit."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                break
            url = f"http://127.0.0.1:{self.port}{self.health}"
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.02)
        self._log.seek(0)
        raise RuntimeError(f"{self.name} did not become ready:\n{self._log.read().decode(errors='replace')[-2000:]}")

    def suspend(self) -> None:
        """Suspend all processes of this server: some servers poll while idle and would slow down the measured one."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):  # until the signal is delivered
                    time.sleep(0.001)

    def resume(self) -> None:
        """Resume all suspended processes."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def wait_until_idle(self) -> None:
        """Wait until the server is idle: it may still process requests of clients that have disconnected.

        Raises RuntimeError on timeout.
        """
        deadline = time.monotonic() + IDLE_TIMEOUT_S
        while time.monotonic() < deadline:
            busy_s = self._busy_seconds()
            time.sleep(POLL_INTERVAL_S)
            if self._busy_seconds() - busy_s < IDLE_CPU * POLL_INTERVAL_S:
                return
        raise RuntimeError(f"{self.name} is still busy {IDLE_TIMEOUT_S:.0f} s after the last client disconnected.")

    def cpu_seconds(self) -> float:
        """Processor time that all running processes have used so far, user and system."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _busy_seconds(self) -> float:
        """CPU time of all processes, and the time that they waited for a CPU: on a busy machine, work looks like idleness."""
        return self.cpu_seconds() + sum(_waiting_seconds(process.pid) for process in self._processes())

    def has_library(self, name: str) -> bool:
        """Whether any of its processes has loaded a shared library with this name."""
        return any(name in region.path for process in self._processes() for region in process.memory_maps())

    def stop(self) -> None:
        """Terminate all processes; kill those still running after 10 seconds."""
        processes = self._processes()
        self.resume()
        for process in processes:  # not just the first: LitServe's main process leaves the others running
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=10)

    def _processes(self) -> list[psutil.Process]:
        if self.process is None or not self.process.is_running():
            return []
        return [self.process, *self.process.children(recursive=True)]


def _waiting_seconds(pid: int) -> float:
    """How long the threads of a process were ready to run but had no CPU; 0 where the system does not tell."""
    total_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has exited
            total_ns += int(file.read_text().split()[1])
    return total_ns / 1e9


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exit_on_sigterm() -> None:
    """Exit on SIGTERM as on Ctrl-C, so that cleanup runs and no server, in particular no suspended one, stays behind."""

    def exit_process(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two signals; the second would interrupt the cleanup
        sys.exit(143)

    signal.signal(signal.SIGTERM, exit_process)


@contextmanager
def started_server(server: Server) -> Iterator[Server]:
    """Start a server, which may not be ready yet, and stop it when the block ends."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def suspended_servers(servers: Sequence[Server]) -> Iterator[None]:
    """Start all servers, wait until each is ready, and suspend it; `exclusive_server` resumes one of them."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(started_server(server))
            server.wait_until_ready()
            server.suspend()
        yield


@contextmanager
def exclusive_server(server: Server) -> Iterator[Server]:
    """Resume one suspended server until the block ends."""
    server.resume()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.suspend()
