"""The supervisor's side of the service: what it holds for its workers, and when it gives up on them.

There are two processes: the supervisor (the command `bentoml serve`), and the worker it starts, which holds the model. The
supervisor opens the package once. A worker that replaces a dead one gets the same open files, so it answers as the same model
even if the folder has been deleted or has become another package.
"""

import atexit
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .artifact import Artifact, ArtifactError, adopt
from .held_files import HeldFiles

ENV = "_GRAFT_SUPERVISOR"  # environment variable with the supervisor's `Handover`, read by its workers
EXIT_UNUSABLE = 3  # the exit code for a package that cannot be served
CHECK_INTERVAL_S = 1.0
MAX_FAILED_STARTS = 3  # workers in a row that died before they were ready
RESTART = "Start the service again to serve what is there now."


@dataclass(frozen=True)
class Handover:
    """What a supervisor passes on to its workers.

    Attributes:
        supervisor: its process id.
        package: the package folder, as it was called at the start.
        sha256: the digest of its manifest.
        files: descriptors of its open files, by name.
        ready: descriptor of a pipe; a worker that is ready writes into it.
    """

    supervisor: int
    package: str
    sha256: str
    files: dict[str, int]
    ready: int

    @classmethod
    def received(cls) -> "Handover | None":
        """The handover of this process's parent; None if the parent is not a supervisor."""
        if ENV not in os.environ:
            return None
        handover = cls(**json.loads(os.environ[ENV]))
        return handover if handover.supervisor == os.getppid() else None

    def open_package(self) -> Artifact:
        """The package that the supervisor opened. Raises ArtifactError if its files were overwritten since."""
        path = Path(self.package)
        try:
            artifact = adopt(path, HeldFiles.inherited(self.files))
        except ArtifactError as error:
            raise ArtifactError(f"{path} was overwritten while it was served. {RESTART} ({error})") from None
        if (found := artifact.manifest.sha256) != self.sha256:
            change = f"model {self.sha256[:12]}… became {found[:12]}…"
            raise ArtifactError(f"{path} was overwritten while it was served: {change}. {RESTART}")
        return artifact

    def tell_ready(self) -> None:
        with suppress(OSError):  # the supervisor was killed
            os.write(self.ready, b"\0")

    def tell_failed(self) -> None:
        """Stops the supervisor. Otherwise it would start another worker, and fail again, for ever."""
        with suppress(ProcessLookupError):
            os.kill(self.supervisor, signal.SIGUSR1)


def supervise(artifact: Artifact) -> None:
    """Runs in the supervisor before any worker: holds the package, and watches over the workers."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_inheritable(write_end, True)
    handover = Handover(os.getpid(), str(artifact.path), artifact.manifest.sha256, artifact.files.share(), write_end)
    os.environ[ENV] = json.dumps(asdict(handover))
    # `artifact` stays referenced by this handler, so that its files stay open.
    signal.signal(signal.SIGUSR1, lambda *_: _stop(artifact))
    # circus asks for this machine's full name, which it does not use. Where DNS is dropped, the answer takes seconds.
    socket.getfqdn = lambda name="": name or socket.gethostname()
    _watch_workers(FailedStarts(read_end))


def _stop(_: Artifact) -> None:
    # Shut down as on an external SIGTERM, but with an exit code that gives the reason. Once a second until it works: while
    # circus starts or reaps a worker, it forgets the signal.
    atexit.register(os._exit, EXIT_UNUSABLE)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 1.0)


class FailedStarts:
    """Counts the workers in a row that died before they were ready, and stops the supervisor if there are too many.

    Args:
        ready: the pipe into which a worker writes when it is ready; not blocking.
    """

    def __init__(self, ready: int) -> None:
        self._ready = ready
        self._n = 0

    def on_exit(self, exit_code: int, **_: Any) -> None:
        """Call it with the exit code of every worker, as circus does; negative for a signal."""
        if self._became_ready():
            self._n = 0
        elif exit_code not in (0, -signal.SIGTERM):  # else it was asked to stop
            self._n += 1
        if self._n == MAX_FAILED_STARTS:
            reason = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
            hint = "; is there enough memory?" if exit_code == -signal.SIGKILL else ""
            print(f"error: {self._n} workers in a row ended before they were ready, the last {reason}{hint}", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGUSR1)

    def _became_ready(self) -> bool:
        try:
            return bool(os.read(self._ready, 2**10))
        except BlockingIOError:
            return False


def _watch_workers(failed_starts: FailedStarts) -> None:
    """Makes the supervisor look after its workers every second. BentoML's default is 10 s, with no response in between."""
    from circus.controller import Controller

    start = Controller.start

    def start_watching(self: Any) -> None:
        self.check_delay = 1e3 * CHECK_INTERVAL_S
        for watcher in self.arbiter.watchers:
            watcher.hooks["after_reap"] = failed_starts.on_exit
        start(self)

    Controller.start = start_watching
