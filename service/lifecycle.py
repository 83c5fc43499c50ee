"""How the service starts, fails and stops, where BentoML would respawn for ever or wait for a day.

Two processes: the command `bentoml serve`, and the worker that it starts, which holds the model.
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
from .http.state import Serving
from .monitoring.logs import logger
from .settings import Settings, SettingsError

COMMAND = "_GRAFT_COMMAND"  # the command's process id, for its worker
UNUSABLE = 3  # the exit code for a package that cannot be served
NOTICE_S = 1.0  # how long /readyz says no before the doors close, so that a load balancer can look elsewhere
WATCH_EVERY_S = 1.0
YIELDS = 10  # how much nicer than the event loop everything that computes is
LARGE = 2**20  # bytes, from which on memory goes back to the system the moment it is free
_M_MMAP_THRESHOLD = -3
_PR_SET_PDEATHSIG = 1


def check() -> None:
    """In the command, before any worker: what can be seen to be wrong ends it now, with the reason.

    Raises:
        SystemExit: 2 for a setting that is wrong, 3 for a package that cannot be served.
    """
    try:
        settings = Settings.from_environment(os.environ)
        read(settings.package)
    except (ArtifactError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(UNUSABLE if isinstance(error, ArtifactError) else 2) from None
    _warn_if_open(settings)
    _listen_to_worker()
    _watch_worker()


def _warn_if_open(settings: Settings) -> None:
    host = _host()
    if settings.key is None and not _is_loopback(host):
        warning = f"WARNING: anybody who can reach {host} may use this service: there is no key. Set GRAFT_API_KEY."
        print("\n".join(["", "!" * len(warning), warning, "!" * len(warning), ""]), file=sys.stderr, flush=True)


def _host() -> str:
    """What --host says, or else the service itself."""
    context = click.get_current_context(silent=True)
    return (context.params.get("host") if context else None) or "127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # no address at all, which BentoML will say itself
        return True


def _listen_to_worker() -> None:
    """A worker that cannot start tells the command so, by a signal: it would be started again for ever otherwise."""

    def stop(*_: Any) -> None:
        # As if stopped from outside, and then with an exit code that says why.
        atexit.register(os._exit, UNUSABLE)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGUSR1, stop)
    os.environ[COMMAND] = str(os.getpid())


def _watch_worker() -> None:
    """BentoML's supervisor would look only every ten seconds whether the worker lives, and nobody answers meanwhile."""
    from circus.controller import Controller

    start = Controller.start

    def start_watching(self: Any) -> None:
        self.check_delay = 1e3 * WATCH_EVERY_S
        start(self)

    Controller.start = start_watching


def fail(reason: str) -> None:
    """In the worker: says why it cannot start, and ends the command with it."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    if os.environ.get(COMMAND) == str(os.getppid()):
        os.kill(os.getppid(), signal.SIGUSR1)
    os._exit(UNUSABLE)


def end_with_command() -> None:
    """In the worker: stops it in good order if the command is killed, instead of keeping the port from the next one."""
    if os.environ.get(COMMAND) == str(os.getppid()):
        with suppress(AttributeError, OSError):  # only Linux knows it
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def return_large_blocks() -> None:
    """In the worker: keeps uploads of megabytes from leaving holes behind that glibc holds on to, 20 MiB after a while."""
    with suppress(AttributeError, OSError):  # another C library, which has its own ways
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE)


def step_back() -> None:
    """Lets this thread, and every thread and process that it starts, compute when the event loop has nothing to do.

    Refusals and probes cost microseconds, but would wait for their turn behind milliseconds of arithmetic.
    """
    if sys.platform == "linux":  # elsewhere the whole process would step back
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), YIELDS)


def announce_stop(serving: Serving) -> None:
    """In the worker, once its event loop runs: a signal to stop is known to /readyz before uvicorn closes the doors."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _after_notice(serving, loop, signal.getsignal(number)))


Handler = Callable[[int, FrameType | None], Any] | int | None


def _after_notice(serving: Serving, loop: asyncio.AbstractEventLoop, then: Handler) -> Callable[[int, FrameType | None], None]:
    def stop(number: int, frame: FrameType | None) -> None:
        if serving.draining or not callable(then):
            return
        serving.draining = True
        loop.call_soon_threadsafe(loop.call_later, NOTICE_S, then, number, frame)

    return stop


async def recycle(serving: Serving) -> None:
    """Ends the worker once only a new one helps; the command starts that."""
    while not (serving.pipeline and serving.pipeline.road.beyond_repair):
        await asyncio.sleep(WATCH_EVERY_S)
    logger.critical("the network no longer answers; starting anew")
    os._exit(1)
