"""Servers side by side, of which only one may use the processor at a time."""

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

READY_WITHIN_S = 600.0  # a busy machine needs minutes to import torch
REST_WITHIN_S = 60.0
LOOK_S = 0.25
IDLE = 0.5  # of a processor: some servers poll even when nobody asks


@dataclass
class Server:
    """A command that answers HTTP.

    Attributes:
        command: with `{port}` where the port belongs.
        health: the path that answers 200 once it is ready.
    """

    name: str
    command: Sequence[str]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    port: int = 0
    main: psutil.Popen | None = None

    def start(self) -> None:
        """Starts it in a session of its own; it is ready later."""
        self.port = self.port or free_port()
        command = [part.format(port=self.port) for part in self.command]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the server; a pipe that nobody empties would hold it
        self.main = psutil.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it is ready. Raises RuntimeError if it never is."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.main is None or self.main.poll() is not None:
                break
            url = f"http://127.0.0.1:{self.port}{self.health}"
            with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):
                return
            time.sleep(0.02)
        self._said.seek(0)
        raise RuntimeError(f"{self.name} did not become ready:\n{self._said.read().decode(errors='replace')[-2000:]}")

    def halt(self) -> None:
        """Holds all its processes: some servers poll even when nobody asks, and would take from the one that is measured."""
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):  # the signal has to arrive
                    time.sleep(0.001)

    def go_on(self) -> None:
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def rest(self) -> None:
        """Returns once it has done what callers who left had still asked of it: that is not what is measured next.

        Raises RuntimeError if it never is.
        """
        deadline = time.monotonic() + REST_WITHIN_S
        while time.monotonic() < deadline:
            before = self._processor_s()
            time.sleep(LOOK_S)
            if self._processor_s() - before < IDLE * LOOK_S:
                return
        raise RuntimeError(f"{self.name} still works {REST_WITHIN_S:.0f} s after its last caller left.")

    def _processor_s(self) -> float:
        total = 0.0
        for process in self._tree():
            with suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system
        return total

    def libraries(self, name: str) -> bool:
        """Whether any of its processes has a library of this name loaded."""
        return any(name in region.path for process in self._tree() for region in process.memory_maps())

    def stop(self) -> None:
        """Asks it to, and does not wait long."""
        processes = self._tree()
        self.go_on()
        for process in processes:  # not the first alone: LitServe's leaves the others behind
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=10)

    def _tree(self) -> list[psutil.Process]:
        if self.main is None or not self.main.is_running():
            return []
        return [self.main, *self.main.children(recursive=True)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended_in_order() -> None:
    """A SIGTERM ends this process as Ctrl-C does, so that no server, least of all a held one, is left behind."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends two, and the second would cut the tidying short
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)


@contextmanager
def stopping(server: Server) -> Iterator[Server]:
    """Started, perhaps not ready yet, until the block ends."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def running(servers: Sequence[Server]) -> Iterator[None]:
    """All of them from ready until the block ends, and all of them held: see `alone`."""
    with ExitStack() as until_done:
        for server in servers:
            until_done.enter_context(stopping(server))
            server.wait()
            server.halt()
        yield


@contextmanager
def alone(server: Server) -> Iterator[Server]:
    """This one of the held ones goes on until the block ends."""
    server.go_on()
    try:
        server.wait()
        yield server
    finally:
        server.halt()
