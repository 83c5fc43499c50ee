"""Server-side handles of the decode processes: the fork server and its workers. They run `graft.service.decoding.worker`."""

import asyncio
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from ..errors import ImageError
from ..imaging.preprocess import DecodedImage
from ..inference.engine import Pixels
from .ipc import MessageHeader, pack, recv, send, unpack

logger = logging.getLogger("graft")

# -P: do not import from the current directory; -S: do not run the site module and its .pth files.
COMMAND = (sys.executable, "-P", "-S", "-m", f"{__package__}.worker")
START_DEADLINE_S = 60  # much longer than any start, even on a busy machine
RECEIVE_BYTES = 2**16
COPIED_BYTES = 2**17  # a larger image is sent without a copy, in two calls
_TUNING_ENV = {
    # A fork does not copy threads, so the libraries must not start any before it.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # By default, glibc returns the memory of each photo to the system and page-faults again for the next one: a fifth of the
    # decoding time. Larger blocks are still returned immediately.
    "MALLOC_TRIM_THRESHOLD_": str(2**23),
    "MALLOC_MMAP_THRESHOLD_": str(2**22),
}
_INHERITED_ENV = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")


class WorkerDied(Exception):
    """The worker process died or timed out.

    Attributes:
        error: the error to report to the client.
    """

    def __init__(self, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.error = ImageError("decode_limit", detail, limit)


class ForkServer:
    """The process from which workers are forked."""

    def __init__(self, command: Sequence[str]) -> None:
        self._control, fork_server_end = socket.socketpair()
        with fork_server_end:
            self._process = subprocess.Popen(
                command, stdin=fork_server_end.fileno(), stdout=subprocess.DEVNULL, env=_worker_environment()
            )

    def fork_worker(self, config: MessageHeader) -> "DecodeWorker":
        """Forks a new worker. Raises OSError or EOFError if the fork server has exited."""
        side = config["preprocessing"]["crop"]
        channel, worker_end = socket.socketpair()
        try:
            with worker_end, _shared_memory_file() as memory:
                memory.truncate(3 * side**2)
                pixels = np.frombuffer(mmap.mmap(memory.fileno(), 0), np.uint8).reshape(side, side, 3)
                socket.send_fds(self._control, [b"\0"], [worker_end.fileno(), memory.fileno()])
            return DecodeWorker(self, channel, pixels, config)
        except BaseException:
            channel.close()
            raise

    @property
    def has_exited(self) -> bool:
        """Whether the fork server has exited; its workers exit with it."""
        return _peer_closed(self._control)

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(START_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _peer_closed(channel: socket.socket) -> bool:
    """Whether the peer closed the connection."""
    try:
        return not channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _shared_memory_file() -> BinaryIO:
    """An in-memory file for two processes to map."""
    return os.fdopen(os.memfd_create("pixels"), "r+b") if hasattr(os, "memfd_create") else TemporaryFile(buffering=0)


def _worker_environment() -> dict[str, str]:
    """The environment of the workers: no secrets, but the module search path of the server."""
    directories = [Path(__file__).parents[__package__.count(".") + 1], *map(Path, filter(None, sys.path))]
    paths = os.pathsep.join(str(directory.absolute()) for directory in directories)
    inherited = {name: os.environ[name] for name in _INHERITED_ENV if name in os.environ}
    return inherited | _TUNING_ENV | {"PYTHONPATH": paths}


class DecodeWorker:
    """Handle of one worker process, for one task at a time.

    Args:
        pixels: uint8 (S, S, 3), in memory shared with the worker.

    Attributes:
        restrictions: the names of those that hold, see `graft.service.decoding.sandbox.confine`.
    """

    def __init__(self, fork_server: ForkServer, channel: socket.socket, pixels: Pixels, config: MessageHeader) -> None:
        self._fork_server, self._channel, self._pixels = fork_server, channel, pixels
        self._deadline_s: float = config["deadline_s"]
        deadline = time.monotonic() + START_DEADLINE_S
        send(channel, config, deadline=deadline)
        started = recv(channel, 0, deadline)[0]  # read before the first image, so it can be trusted
        self._pid: int = started["pid"]
        self.restrictions: list[str] = started["restrictions"]
        channel.setblocking(False)
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that calls `_on_readable`
        self._received = bytearray()
        # To the image that is being decoded: None if the worker ended, or sent an invalid message.
        self._answer: asyncio.Future[MessageHeader | None] | None = None
        self._failed = False

    async def decode(self, encoded: bytes) -> DecodedImage:
        """Decodes one image. Raises ImageError, RuntimeError for a bug, or WorkerDied if this worker must be replaced."""
        try:
            header = await self._exchange(encoded)
        except TimeoutError:
            detail = f"Decoding the image takes longer than {self._deadline_s:g} seconds."
            raise WorkerDied(detail, "decode_deadline_s") from None
        except (OSError, EOFError):
            raise WorkerDied("The decoder crashed on this image.") from None
        if bug := header.get("bug"):
            logger.error("decoding failed\n%s", bug)
            raise RuntimeError("decoding failed; the worker's traceback is in the log")
        if code := header.get("code"):
            raise ImageError(code, header["detail"], header["limit"])
        return DecodedImage(self._pixels.copy(), header["width"], header["height"], header["format"], tuple(header["notes"]))

    async def _exchange(self, encoded: bytes) -> MessageHeader:
        """Sends an image, and receives the answer.

        Raises:
            EOFError: if the worker ended, or sent an invalid message.
            OSError: TimeoutError after the deadline, any other if the worker ended.
        """
        loop = self._attach()
        self._received.clear()
        self._answer = loop.create_future()
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._send(encoded, loop)
                answer = await self._answer
        except TimeoutError:
            # After a pause of the whole machine, the time is over although the answer is there, or has just been read.
            if self._answer.cancelled():
                self._answer = loop.create_future()
                self._on_readable()
            if not self._answer.done():
                raise
            answer = self._answer.result()
        finally:
            self._answer = None
        if answer is None:
            raise EOFError("The worker ended, or sent an invalid message.")
        return answer

    def _attach(self) -> asyncio.AbstractEventLoop:
        """Has the running event loop call `_on_readable`: at the first image, because there may be none before."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._channel.fileno(), self._on_readable)
        return loop

    def detach(self) -> None:
        """Stops what `decode` has begun in its event loop. Call it there before `close` or `kill`, which block."""
        if self._loop and not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
        self._loop = None

    async def _send(self, encoded: bytes, loop: asyncio.AbstractEventLoop) -> None:
        message = pack({}, len(encoded))
        if len(encoded) <= COPIED_BYTES:
            message, encoded = message + encoded, b""  # one call, which wakes the worker once
        # Not by the event loop's `sock_sendall` alone, with which a service has 3 % less throughput.
        with suppress(BlockingIOError):
            message = message[self._channel.send(message) :]
        for rest in filter(None, [message, encoded]):
            await loop.sock_sendall(self._channel, rest)

    def _on_readable(self) -> None:
        is_awaited = self._answer is not None and not self._answer.done()
        try:
            content = self._channel.recv(RECEIVE_BYTES)
            self._received += content
            answer = unpack(self._received)
            self._failed = not content or not is_awaited  # it ended, or says what nobody has asked for
        except BlockingIOError:
            return
        except (OSError, ValueError):  # ValueError: an invalid message from a compromised worker
            self._failed = True
        if self._failed:
            self.detach()
            answer = None
        if self._answer is not None and is_awaited and (self._failed or answer is not None):
            self._answer.set_result(answer)

    def set_nice(self, nice: int) -> None:
        """Lowers the scheduling priority; 0 leaves it."""
        if nice:
            with suppress(OSError):  # some containers forbid it; an exited worker is replaced with the next image
                os.setpriority(os.PRIO_PROCESS, self._pid, nice)

    @property
    def has_exited(self) -> bool:
        """Whether the worker has exited, or must. Call only while it is idle."""
        return self._failed or _peer_closed(self._channel)

    @property
    def is_orphaned(self) -> bool:
        """Whether the fork server has exited too, so that the image may not be the cause."""
        return self._fork_server.has_exited

    def close(self) -> None:
        """Closes the connection and waits until the worker, idle or killed, has exited."""
        self._pixels = np.empty((0, 0, 3), np.uint8)  # releases the shared memory and its file descriptor
        with self._channel, suppress(OSError):
            self._channel.settimeout(START_DEADLINE_S)
            self._channel.shutdown(socket.SHUT_WR)
            while self._channel.recv(2**16):
                pass

    def kill(self) -> None:
        if self._channel.fileno() >= 0:  # otherwise it has exited and its process ID may be reused
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.close()
