"""Start-up, failure, and shutdown of the service, where BentoML would respawn forever or hang. No request handling."""

import asyncio
import ctypes
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Literal

import bentoml
import click

from . import listening, supervision
from .artifact import Artifact, ArtifactError, read
from .fidelity import Precision
from .http import cors
from .http.state import AppState
from .inference.cuda_check import check_cuda
from .inference.devices import DeviceError, adopt_check, resolve_device
from .inference.engine import DeviceFailed
from .inference.loader import supported_precisions
from .listening import ListenError
from .monitoring import logs
from .monitoring.logs import logger
from .settings import DeviceSetting, Settings, SettingsError
from .supervision import EXIT_UNUSABLE, Handover
from .workers import Workers

EXIT_USAGE = 2  # the exit code for an invalid setting or option
KILL_MARGIN_S = 5.0  # a worker that is still there so long after its drain deadline is killed
PRESTOP_S = 1.0  # /readyz returns 503 for this long before the sockets close, so that a load balancer can react
RESTART_TICKS = 3  # seconds
NICE = 10  # added to the nice value of all computing threads and processes, so that the event loop comes first
MAX_NICE = 19
RESERVED_FILES = 256  # for the package, libraries, and decoders
MMAP_THRESHOLD = 2**20  # bytes; glibc returns blocks of at least this size to the system as soon as they are freed
_M_MMAP_THRESHOLD = -3
_PR_SET_PDEATHSIG = 1


def check() -> None:
    """Runs in the supervisor before any worker. Exits with the reason if the settings, the address or the package are invalid.

    Raises:
        SystemExit: 2 for an invalid setting or address or a device that is not there, 3 for a package that cannot be served.
    """
    with _exits_with_reason():
        settings = Settings.from_environment(os.environ)
        cors.check_bentoml_config()
        host, port = _bind_address()
        listening.check(host, port)
        device = resolve_device(settings.device)
        artifact = read(settings.package).require_sha256(settings.package_sha256)
    _warn_if_open(settings, host)
    if port == 0:  # BentoML would say that it listens on port 0
        logging.getLogger("bentoml.serve").addFilter(lambda record: not record.getMessage().startswith("Starting production"))
    logs.never_wait()
    n_workers = max(1, check_cuda().n_devices) if device == "cuda" else 1
    supervision.supervise(artifact, PRESTOP_S + settings.drain_deadline_s + KILL_MARGIN_S, n_workers)


def check_package() -> None:
    """Runs when an image is built: exits as `check` does if the package cannot be served."""
    with _exits_with_reason():
        settings = Settings.from_environment(os.environ)
        read(settings.package).require_sha256(settings.package_sha256)


@contextmanager
def _exits_with_reason() -> Iterator[None]:
    try:
        yield
    except (ArtifactError, DeviceError, ListenError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_UNUSABLE if isinstance(error, ArtifactError) else EXIT_USAGE) from None


def _bind_address() -> tuple[str, int]:
    """The --host and --port options, or their defaults, as BentoML chooses them."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    host, port = options.get("host"), options.get("port")
    return host or BentoMLContainer.http.host.get(), BentoMLContainer.http.port.get() if port is None else port


def _warn_if_open(settings: Settings, host: str) -> None:
    if not settings.needs_key and not ipaddress.ip_address(host).is_loopback:
        warning = f"WARNING: no API key is set, so any client that can reach {host} can use this service. Set GRAFT_API_KEY."
        print("\n".join(["", "!" * len(warning), warning, "!" * len(warning), ""]), file=sys.stderr, flush=True)


def open_package(settings: Settings) -> Artifact:
    """Runs in the worker: the package that its supervisor holds; without a supervisor, the one at the path in the settings.

    Raises:
        ArtifactError: if the package is damaged, or was overwritten since the supervisor opened it.
    """
    handover = Handover.received()
    artifact = handover.open_package() if handover else read(settings.package)
    return artifact.require_sha256(settings.package_sha256)


def resolve_worker_device(setting: DeviceSetting) -> None:
    """Runs in the worker, before it loads a network: finds out about the GPU what its supervisor has not.

    Raises:
        DeviceError: if the requested device cannot be used.
    """
    if (handover := Handover.received()) and handover.cuda:
        adopt_check(handover.cuda)
    resolve_device(setting, logger.warning)


@contextmanager
def ends_service_on_failure() -> Iterator[None]:
    """Runs in the worker, around everything that must succeed for it to become ready. A failure stops the supervisor too."""
    try:
        yield
    except (ArtifactError, DeviceError, SettingsError) as error:
        fail_startup(str(error))
    except DeviceFailed as error:
        fail_startup(f"the GPU has failed: {error}")
    except BaseException:  # noqa: BLE001 - a service that can never become ready must not stay alive
        logger.exception("the service cannot start")
        fail_startup("the service cannot start; the traceback is above")


def fail_startup(reason: str) -> None:
    """Runs in the worker: prints why it cannot start, and stops the supervisor too."""
    logs.stderr.write(f"error: {reason}")
    logs.stderr.flush()
    if handover := Handover.received():
        handover.tell_failed()
    os._exit(EXIT_UNUSABLE)


def precision_to_load(settings: Settings) -> Precision | Literal["auto"]:
    """Runs in the worker: the precision of the settings; on a CPU, "auto" is what the worker before this one served in.

    Not on a GPU: it may be why that worker ended, and the CPU that takes over does not have its precisions.
    """
    handover = Handover.received()
    served = handover.precision if handover else None
    if served is None or settings.precision != "auto" or resolve_device(settings.device) != "cpu":
        return settings.precision
    return served if served in supported_precisions("cpu") else "auto"


def announce_ready(address: str | None, precision: Precision) -> None:
    """Runs in the worker: tells the supervisor in which precision it serves, and prints the address.

    Args:
        address: None if it is not known.
    """
    if handover := Handover.received():
        handover.tell_ready(precision)
    if address:
        print(f"ready: {address}", flush=True)


def listening_url() -> str | None:
    """Runs in the worker's main thread: the URL of the socket that it got from its supervisor; None without a supervisor."""
    context = click.get_current_context(silent=True)
    descriptor = context.params.get("fd") if context else None
    if descriptor is None:
        return None
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        return listening.url(listener, "https" if context and context.params.get("ssl_certfile") else "http")


def take_share() -> Workers:
    """Runs in the worker, before torch is imported: one of several workers leaves the other GPUs and cores to the others."""
    handover = Handover.received()
    workers = handover.workers if handover else Workers()
    workers.take_share((bentoml.server_context.worker_index or 1) - 1)
    return workers


def die_with_parent() -> None:
    """Runs in the worker: shuts it down cleanly if the supervisor is killed. Otherwise it would keep the port."""
    if Handover.received():
        with suppress(AttributeError, OSError):  # prctl exists only on Linux
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def allow_connections(n_connections: int) -> int:
    """Runs in the worker: allows as many open files as connections need. Returns how many connections there may be."""
    with suppress(OSError, ValueError):  # some containers forbid it
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = n_connections + RESERVED_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = n_connections if soft == resource.RLIM_INFINITY else max(1, min(n_connections, soft - RESERVED_FILES))
    if allowed < n_connections:
        logger.warning(f"only {soft:,} files may be open (ulimit -n), so only {allowed:,} connections")
    return allowed


def tune_malloc() -> None:
    """Runs in the worker: keeps large uploads from fragmenting the glibc heap, which would retain about 20 MiB."""
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def lower_priority() -> None:
    """Lowers the scheduling priority of this thread, and of the threads and processes that it starts, below the event loop.

    Rejections and probes take microseconds, but would otherwise wait behind milliseconds of computation.
    """
    if sys.platform == "linux":  # elsewhere nice values apply to the whole process
        thread = threading.get_native_id()
        with suppress(OSError):  # some containers forbid it; then requests are only a little slower
            os.setpriority(os.PRIO_PROCESS, thread, min(MAX_NICE, os.getpriority(os.PRIO_PROCESS, thread) + NICE))


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
    """Tells the supervisor that the event loop runs, and exits the worker once it needs a restart."""
    handover = Handover.received()
    n_ticks, reason = 0, ""
    while n_ticks < RESTART_TICKS:
        if handover:
            handover.tell_alive()
        app_state.metrics.publish()
        await asyncio.sleep(supervision.BEAT_INTERVAL_S)
        # Several times in a row: after a pause of the machine, every running call seems to have taken too long.
        reason = app_state.predictor.queue.restart_reason if app_state.predictor else ""
        n_ticks = n_ticks + 1 if reason else 0
    logger.critical(f"{reason}; restarting")
    logs.stderr.flush()
    os._exit(1)
