"""The decode processes: a fork server, which imports everything once, and the workers that it forks.

    python -m graft.service.decoding.worker      started by `graft.service.decoding.worker_process`, connected by stdin

A fork takes milliseconds; a new process takes a quarter of a second. So images that crash their worker cannot keep a CPU busy
with restarts. Untrusted bytes reach C code here: these processes contain no server state and no secrets in their environment,
and a worker has only the memory, CPU time and open files that one image needs.

What a worker may do is in `sandbox`. On systems other than Linux, a worker has no memory limit, and may finish its image after
the server was killed.
"""

import gc
import mmap
import os
import signal
import socket
import traceback
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

# Pillow imports these lazily, for JPEGs and their EXIF data. Import them before the fork, not once per worker.
from PIL import Image, MpoImagePlugin, TiffImagePlugin  # noqa: F401

from ..errors import ImageError
from ..imaging import preprocess
from ..imaging.decoders import register_decoder
from ..imaging.formats import ALWAYS_SERVED, BY_NAME
from ..imaging.headers import ImageLimits, read_header
from ..imaging.preprocess import DecodedImage
from .ipc import MessageHeader, recv, send
from .sandbox import confine, raise_cpu_limit

if TYPE_CHECKING:  # importing pydantic would double the start-up time
    from ..manifest import Preprocessing


DecodeFunction = Callable[[bytes, "Preprocessing", ImageLimits], DecodedImage]

CONTROL_FD = 0  # file descriptor of the control socket: stdin


def main(decode: DecodeFunction = preprocess.decode) -> None:
    """The fork server: forks a worker for each socket received, until the server closes the connection."""
    # Ctrl-C is sent to all processes of a terminal; only the server handles it and stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps exited workers
    warnings.simplefilter("ignore")  # do not log warnings about damaged metadata
    Image.preinit()
    for name in ALWAYS_SERVED:
        register_decoder(name)
    gc.freeze()
    with socket.socket(fileno=CONTROL_FD) as control:
        while True:
            _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not descriptors:
                return
            with socket.socket(fileno=descriptors[0]) as channel, os.fdopen(descriptors[1], "r+b") as memory:
                if os.fork() == 0:
                    control.close()
                    _worker_loop(channel, memory, decode)


def _worker_loop(channel: socket.socket, memory: BinaryIO, decode: DecodeFunction) -> None:
    """Runs a worker until its connection closes, then exits the process."""
    try:
        with memory:
            pixels = np.frombuffer(mmap.mmap(memory.fileno(), 0), np.uint8)
        _serve_images(channel, pixels, decode)
    except (OSError, EOFError):
        pass  # the server exited or closed the connection
    except Exception:  # noqa: BLE001 - there is no caller to handle it
        traceback.print_exc()
    finally:
        os._exit(0)


def _serve_images(channel: socket.socket, pixels: NDArray[np.uint8], decode: DecodeFunction) -> None:
    config, _ = recv(channel, 0)
    preprocessing = cast("Preprocessing", SimpleNamespace(**config["preprocessing"]))
    limits, max_bytes, deadline_s = ImageLimits(**config["limits"]), config["max_bytes"], config["deadline_s"]
    send(channel, {"pid": os.getpid(), "restrictions": confine(max_bytes)})
    while True:
        # Free each image before waiting for the next one.
        encoded = _recv_image(channel, max_bytes, deadline_s)
        header = _decode_image(encoded, pixels, lambda encoded: decode(encoded, preprocessing, limits), max_bytes)
        del encoded
        send(channel, header)


def _recv_image(channel: socket.socket, max_bytes: int, deadline_s: float) -> bytes:
    """Waits for the next image, then starts its time limit."""
    _, encoded = recv(channel, max_bytes)
    raise_cpu_limit(deadline_s)
    return bytes(encoded)


def _decode_image(
    encoded: bytes, pixels: NDArray[np.uint8], decode: Callable[[bytes], DecodedImage], max_bytes: int
) -> MessageHeader:
    """Decodes one image into shared memory. Returns its metadata, an error code, or the traceback of a bug."""
    out_of_memory = {
        "code": "decode_limit",
        "detail": f"Decoding the image takes more than {max_bytes:,} bytes of memory.",
        "limit": "max_decode_bytes",
    }
    try:
        decoded = decode(encoded)
    except ImageError as error:
        if error.code == "corrupt_image" and _estimate_memory(encoded) > max_bytes:
            return out_of_memory
        return {"code": error.code, "detail": str(error), "limit": error.limit}
    except MemoryError:
        return out_of_memory
    except Exception:  # noqa: BLE001 - a bug in Graft or Pillow; the server logs it
        return {"bug": traceback.format_exc()}
    pixels[:] = decoded.pixels.reshape(-1)
    return {"width": decoded.width, "height": decoded.height, "format": decoded.format, "notes": decoded.notes}


def _estimate_memory(encoded: bytes) -> int:
    """Estimated memory in bytes for decoders that report a failed allocation as a damaged file."""
    try:
        header = read_header(encoded)
    except ImageError:
        return 0
    return BY_NAME[header.format].hidden_bytes_per_pixel(header) * header.width * header.height


if __name__ == "__main__":
    main()
