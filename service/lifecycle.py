"""Start-up, failure, and shutdown of the service, where BentoML would respawn forever or hang. No request handling.

There are two processes: the supervisor (the command `bentoml serve`), and the worker it starts, which holds the model.
"""

import asyncio
import atexit
import ctypes
import ipaddress
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import click

from .artifact import ArtifactError, read
from .http.state import AppState
from .monitoring.logs import logger
from .settings import Settings, SettingsError

SUPERVISOR_PID_ENV = "_GRAFT_COMMAND"  # environment variable with the supervisor's process id, read by the worker
EXIT_UNUSABLE = 3  # the exit code for a package that cannot be served
PRESTOP_S = 1.0  # /readyz returns 503 for this long before the sockets close, so that a load balancer can react
WATCH_INTERVAL_S = 1.0
NICE = 10  # the nice value of all computing threads and processes, relative to the event loop
MMAP_THRESHOLD = 2**20  # bytes; glibc returns blocks of at least this size to the system as soon as they are freed
_M_MMAP_THRESHOLD = -3
_PR_SET_PDEATHSIG = 1


def check() -> None:
    """Runs in the supervisor before any worker. Exits with the reason if the settings or the package are invalid.

    Raises:
        SystemExit: 2 for an invalid setting, 3 for a package that cannot be served.
    """
    try:
        settings = Settings.from_environment(os.environ)
        read(settings.package)
    except (ArtifactError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_UNUSABLE if isinstance(error, ArtifactError) else 2) from None
    _warn_if_open(settings)
    _install_failure_signal()
    _shorten_health_checks()


def _warn_if_open(settings: Settings) -> None:
    host = _bind_host()
    if settings.key is None and not _is_loopback(host):
        warning = f"WARNING: no API key is set, so any client that can reach {host} can use this service. Set GRAFT_API_KEY."
        print("\n".join(["", "!" * len(warning), warning, "!" * len(warning), ""]), file=sys.stderr, flush=True)


def _bind_host() -> str:
    """The --host option, or the service's default."""
    context = click.get_current_context(silent=True)
    return (context.params.get("host") if context else None) or "127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # not an IP address; BentoML reports invalid ones
        return True


def _install_failure_signal() -> None:
    """Lets a worker that cannot start stop the supervisor with SIGUSR1. Otherwise it would be restarted forever."""

    def stop(*_: Any) -> None:
        # Shut down as on an external SIGTERM, but with an exit code that gives the reason.
        atexit.register(os._exit, EXIT_UNUSABLE)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, stop)
    os.environ[SUPERVISOR_PID_ENV] = str(os.getpid())


def _shorten_health_checks() -> None:
    """Makes the supervisor check the worker every second. BentoML's default is 10 s, with no response in between."""
    from circus.controller import Controller

    start = Controller.start

    def start_with_short_delay(self: Any) -> None:
        self.check_delay = 1e3 * WATCH_INTERVAL_S
        start(self)

    Controller.start = start_with_short_delay


def fail_startup(reason: str) -> None:
    """Runs in the worker: prints why it cannot start, and stops the supervisor too."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    if os.environ.get(SUPERVISOR_PID_ENV) == str(os.getppid()):
        os.kill(os.getppid(), signal.SIGUSR1)
    os._exit(EXIT_UNUSABLE)


def die_with_parent() -> None:
    """Runs in the worker: shuts it down cleanly if the supervisor is killed. Otherwise it would keep the port."""
    if os.environ.get(SUPERVISOR_PID_ENV) == str(os.getppid()):
        with suppress(AttributeError, OSError):  # prctl exists only on Linux
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def tune_malloc() -> None:
    """Runs in the worker: keeps large uploads from fragmenting the glibc heap, which would retain about 20 MiB."""
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def lower_priority() -> None:
    """Lowers the scheduling priority of this thread, and of the threads and processes that it starts, below the event loop.

    Rejections and probes take microseconds, but would otherwise wait behind milliseconds of computation.
    """
    if sys.platform == "linux":  # elsewhere nice values apply to the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def install_drain(app_state: AppState) -> None:
    """Runs in the worker once its event loop runs: on SIGTERM, /readyz fails for `PRESTOP_S` before uvicorn shuts down."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _drain_handler(app_state, loop, signal.getsignal(number)))


Handler = Callable[[int, FrameType | None], Any] | int | None


def _drain_handler(
    app_state: AppState, loop: asyncio.AbstractEventLoop, previous: Handler
) -> Callable[[int, FrameType | None], None]:
    def stop(number: int, frame: FrameType | None) -> None:
        if app_state.draining or not callable(previous):
            return
        app_state.draining = True
        loop.call_soon_threadsafe(loop.call_later, PRESTOP_S, previous, number, frame)

    return stop


async def watchdog(app_state: AppState) -> None:
    """Exits the worker once it needs a restart; the supervisor starts a new one."""
    while not (app_state.predictor and app_state.predictor.queue.needs_restart):
        await asyncio.sleep(WATCH_INTERVAL_S)
    logger.critical("the network no longer responds; restarting")
    os._exit(1)
