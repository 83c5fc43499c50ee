"""The supervisor's side of the service: what it holds for its workers, and how it watches over them.

There are two processes: the supervisor (the command `bentoml serve`), and the worker it starts, which holds the model. The
supervisor opens the package once. A worker that replaces a dead one gets the same open files, so it answers as the same model
even if the folder has been deleted or has become another package.

A worker that hangs cannot end itself: as long as one call into C holds Python's lock, none of its threads runs. So it is the
supervisor that ends it.
"""

import atexit
import json
import os
import signal
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .artifact import Artifact, ArtifactError, adopt
from .fidelity import PRECISIONS, Precision
from .held_files import HeldFiles
from .inference.cuda_check import CudaCheck, known_check
from .monitoring import logs
from .workers import Workers

ENV = "_GRAFT_SUPERVISOR"  # environment variable with the supervisor's `Handover`, read by its workers
EXIT_UNUSABLE = 3  # the exit code for a package that cannot be served
CHECK_INTERVAL_S = BEAT_INTERVAL_S = 1.0
HANG_TICKS = 30  # seconds without a sign of life after which a worker hangs
START_TICKS = 300  # until the first one; on a busy machine, imports may take a minute
KILL_TICKS = 5  # more, to print its stack
REPORT = struct.Struct("=IBB")  # process id, one of READY and ALIVE, and with READY the index in PRECISIONS, else 0
READY, ALIVE = 0, 1
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
        reports: descriptor of a pipe into which workers write that they are ready or alive.
        cuda: what it has found about the GPU; None if it has not looked, or for a worker that replaces another: the GPU may
            be why that one ended.
        workers: all that it starts.
        precision: in which the worker before served; None for the first. An int8 model has other answers than the f32 model,
            so a service does not change from one to the other.
    """

    supervisor: int
    package: str
    sha256: str
    files: dict[str, int]
    reports: int
    cuda: CudaCheck | None = None
    workers: Workers = field(default_factory=Workers)
    precision: Precision | None = None

    @classmethod
    def received(cls) -> "Handover | None":
        """The handover of this process's parent; None if the parent is not a supervisor."""
        if ENV not in os.environ:
            return None
        fields = json.loads(os.environ[ENV])
        cuda, workers = fields.pop("cuda"), Workers(**fields.pop("workers"))
        handover = cls(**fields, cuda=CudaCheck(**cuda) if cuda else None, workers=workers)
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

    def tell_ready(self, precision: Precision) -> None:
        """Call it with the precision in which the worker serves."""
        self._report(READY, PRECISIONS.index(precision))

    def tell_alive(self) -> None:
        """Call it every `BEAT_INTERVAL_S` in the event loop, from its first second on."""
        self._report(ALIVE)

    def _report(self, kind: int, detail: int = 0) -> None:
        with suppress(OSError):  # the supervisor was killed, or has been paused until the pipe was full
            os.write(self.reports, REPORT.pack(os.getpid(), kind, detail))

    def tell_failed(self) -> None:
        """Stops the supervisor. Otherwise it would start another worker, and fail again, for ever."""
        with suppress(ProcessLookupError):
            os.kill(self.supervisor, signal.SIGUSR1)


def supervise(artifact: Artifact, drain_s: float, n_workers: int = 1) -> None:
    """Runs in the supervisor before any worker: holds the package, and watches over the workers.

    Args:
        drain_s: how long a worker may take to shut down.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    os.set_inheritable(write_end, True)
    sha256, files = artifact.manifest.sha256, artifact.files.share()
    workers = Workers.create(n_workers)
    handover = Handover(os.getpid(), str(artifact.path), sha256, files, write_end, known_check(), workers)
    os.environ[ENV] = json.dumps(asdict(handover))
    # `artifact` stays referenced by this handler, so that its files stay open.
    signal.signal(signal.SIGUSR1, lambda *_: _stop(artifact))
    # circus asks for this machine's full name, which it does not use. Where DNS is dropped, the answer takes seconds.
    socket.getfqdn = lambda name="": name or socket.gethostname()
    _close_control_sockets()
    _watch_workers(WorkerWatch(read_end), drain_s, n_workers)


def _stop(_: Artifact) -> None:
    # Shut down as on an external SIGTERM, but with an exit code that gives the reason. Once a second until it works: while
    # circus starts or reaps a worker, it forgets the signal.
    atexit.register(os._exit, EXIT_UNUSABLE)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 1.0)


class WorkerWatch:
    """Ends the service if workers keep failing to start, and ends a worker that hangs, so that another takes its place.

    Args:
        reports: the pipe into which workers write; not blocking.
    """

    def __init__(self, reports: int) -> None:
        self._reports = reports
        self._n_failed_starts = 0
        self._ready: set[int] = set()  # process ids of the workers that have become ready
        self._silent_ticks: dict[int, int] = {}  # since the last sign of life, by process id
        self._started: set[int] = set()  # process ids of the workers whose event loop has run
        self._precision: Precision | None = None  # in which the last ready worker serves

    def on_exit(self, exit_code: int, process_pid: int = 0, watcher: Any = None, **_: Any) -> None:
        """Call it with the exit code of every worker, as circus does; negative for a signal.

        Args:
            watcher: the one of circus, with the environment of the next worker.
        """
        self._read_reports()
        if watcher is not None:
            changes = {"cuda": None, "precision": self._precision}
            watcher.env[ENV] = json.dumps(json.loads(watcher.env[ENV]) | changes)
        self._silent_ticks.pop(process_pid, None)
        self._started.discard(process_pid)
        if process_pid in self._ready:
            self._n_failed_starts = 0
        elif exit_code not in (0, -signal.SIGTERM):  # else it was asked to stop
            self._n_failed_starts += 1
        self._ready.discard(process_pid)
        if self._n_failed_starts == MAX_FAILED_STARTS:
            reason = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with exit code {exit_code}"
            hint = "; is there enough memory?" if exit_code == -signal.SIGKILL else ""
            _print_error(f"{MAX_FAILED_STARTS} workers in a row ended before they were ready, the last {reason}{hint}")
            os.kill(os.getpid(), signal.SIGUSR1)

    def tick(self, workers: Iterable[int]) -> None:
        """Call it every `CHECK_INTERVAL_S` with the process ids of the workers.

        Time is counted in ticks, not by the clock: after a pause of the whole machine, nobody has been silent.
        """
        self._read_reports()
        for pid in workers:
            if _is_paused(pid):
                continue
            self._silent_ticks[pid] = n_ticks = self._silent_ticks.get(pid, 0) + 1
            deadline = HANG_TICKS if pid in self._started else START_TICKS
            if n_ticks == deadline:
                _print_error(f"the worker has not responded for {deadline} seconds, and is replaced; its stack follows")
                _kill(pid, signal.SIGABRT)  # faulthandler, which the worker has enabled, prints the stack
            elif n_ticks == deadline + KILL_TICKS:
                _kill(pid, signal.SIGKILL)

    def _read_reports(self) -> None:
        with suppress(BlockingIOError):
            while content := os.read(self._reports, REPORT.size * 2**10):
                for pid, kind, detail in REPORT.iter_unpack(content):
                    if kind == READY:
                        self._ready.add(pid)
                        self._precision = PRECISIONS[detail]
                    self._silent_ticks[pid] = 0
                    self._started.add(pid)


def _is_paused(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _print_error(reason: str) -> None:
    logs.stderr.write(f"error: {reason}")


def _close_control_sockets() -> None:
    """Keeps circus from listening on TCP ports of this machine: every user of it could run commands as this one there.

    Its sockets become such of this process only. With --reload, a second process needs them; that is for development.
    """
    from circus.arbiter import Arbiter

    initialize = Arbiter.initialize

    def initialize_privately(self: Any) -> None:
        if not any(watcher.name.startswith("plugin:") for watcher in self.watchers):
            self.pubsub_endpoint = "inproc://events"
            self.endpoint = self.ctrl.endpoint = "inproc://control"
        initialize(self)

    Arbiter.initialize = initialize_privately


def _watch_workers(watch: WorkerWatch, drain_s: float, n_workers: int) -> None:
    """Makes the supervisor look after its workers every second. BentoML's default is 10 s, with no response in between.

    BentoML has read its number of workers before anybody could know how many GPUs there are, so it is set here.
    """
    from circus.controller import Controller
    from tornado.ioloop import PeriodicCallback

    start = Controller.start

    def start_watching(self: Any) -> None:
        self.check_delay = 1e3 * CHECK_INTERVAL_S
        for watcher in self.arbiter.watchers:
            watcher.hooks["after_reap"] = watch.on_exit
            watcher.graceful_timeout = drain_s  # BentoML waits for a day
            if watcher.name == "service":
                watcher.numprocesses = n_workers
        PeriodicCallback(
            lambda: watch.tick([pid for watcher in self.arbiter.watchers for pid in watcher.processes]), 1e3 * CHECK_INTERVAL_S
        ).start()
        start(self)

    Controller.start = start_watching
