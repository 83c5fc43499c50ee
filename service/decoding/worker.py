"""What the decoders' processes do: one that has imported everything waits, and forks a child for every decoder.

    python -m graft.service.decoding.worker      started by `graft.service.decoding.worker_process`, which holds the other end of its standard input

A fork costs milliseconds where a start costs a quarter of a second, so images that kill their decoder can't keep a
processor busy with starting others. Strangers' bytes meet C code here: nothing of the server is in these processes, no
secret is in their environment, and a child gets just the memory, time and files that one image needs.

Elsewhere than on Linux a child has no limit of memory, and may finish an image after its server was killed.
"""

import ctypes
import gc
import math
import mmap
import os
import resource
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

# Pillow imports these late, once for every child, unless they are there before the fork.
from PIL import Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from ..errors import ImageError
from ..imaging import preprocess
from ..imaging.headers import ImageLimits, sniff
from ..imaging.preprocess import Decoded
from .ipc import Head, hear, tell

if TYPE_CHECKING:  # pydantic would double the time to start
    from ..artifact import Preprocessing


Decode = Callable[[bytes, "Preprocessing", ImageLimits], Decoded]

CONTROL = 0  # the descriptor through which orders for children come
MOST_FILES = 16  # that a child may have open
_PR_SET_PDEATHSIG = 1


def main(decode: Decode = preprocess.decode) -> None:
    """Forks a child for every socket that comes in, until the server hangs up."""
    # Ctrl-C reaches every process of a terminal; the server decides when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that dead children leave by themselves
    warnings.simplefilter("ignore")  # a damaged note inside a picture is no news for the log
    Image.preinit()
    gc.freeze()
    with socket.socket(fileno=CONTROL) as control:
        while True:
            _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not descriptors:
                return
            with socket.socket(fileno=descriptors[0]) as channel, os.fdopen(descriptors[1], "r+b") as memory:
                if os.fork() == 0:
                    control.close()
                    _live(channel, memory, decode)


def _live(channel: socket.socket, memory: BinaryIO, decode: Decode) -> None:
    """All that a child ever does."""
    try:
        with memory:
            pixels = np.frombuffer(mmap.mmap(memory.fileno(), 0), np.uint8)
        _answer_all(channel, pixels, decode)
    except (OSError, EOFError):
        pass  # the server is gone, or wants this child no more
    except Exception:  # noqa: BLE001 - there is nobody to raise it to
        traceback.print_exc()
    finally:
        os._exit(0)


def _answer_all(channel: socket.socket, pixels: NDArray[np.uint8], decode: Decode) -> None:
    order, _ = hear(channel, 0)
    recipe = cast("Preprocessing", SimpleNamespace(**order["preprocessing"]))
    limits, max_bytes, deadline_s = ImageLimits(**order["limits"]), order["max_bytes"], order["deadline_s"]
    _confine(max_bytes)
    tell(channel, {"pid": os.getpid()})
    while True:
        # Nothing of one image is held while the next one is waited for.
        encoded = _image(channel, max_bytes, deadline_s)
        head = _answer(encoded, pixels, lambda encoded: decode(encoded, recipe, limits), max_bytes)
        del encoded
        tell(channel, head)


def _image(channel: socket.socket, most_bytes: int, deadline_s: float) -> bytes:
    """The next image, whenever it comes; from then on time counts."""
    _, encoded = hear(channel, most_bytes)
    _allow(deadline_s)
    return bytes(encoded)


def _answer(encoded: bytes, pixels: NDArray[np.uint8], decode: Callable[[bytes], Decoded], max_bytes: int) -> Head:
    """What is known about one image, and its pixels in shared memory; or what is wrong with it, or with us."""
    starved = {
        "code": "decode_limit",
        "detail": f"Decoding the image takes more than {max_bytes:,} bytes of memory.",
        "limit": "max_decode_bytes",
    }
    try:
        found = decode(encoded)
    except ImageError as error:
        if error.code == "corrupt_image" and _hunger(encoded) > max_bytes:
            return starved
        return {"code": error.code, "detail": str(error), "limit": error.limit}
    except MemoryError:
        return starved
    except Exception:  # noqa: BLE001 - a bug of ours or of Pillow's, and the server's log is the place for it
        return {"bug": traceback.format_exc()}
    pixels[:] = found.pixels.reshape(-1)
    return {"width": found.width, "height": found.height, "format": found.format, "notes": found.notes}


def _hunger(encoded: bytes) -> int:
    """The bytes of memory that a file may need where its decoder, refused them, says that the file is damaged.

    libwebp keeps several copies of the picture, and libjpeg the coefficients of one that comes in several passes.
    """
    try:
        header = sniff(encoded)
    except ImageError:
        return 0
    a_pixel = 20 if header.format == "WEBP" else 8 if header.scans > 1 else 0
    return a_pixel * header.width * header.height


def _confine(max_bytes: int) -> None:
    """Takes from this process whatever decoding does not need."""
    with suppress(AttributeError):  # only Linux knows it: die with the process that forked this one
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):  # if the machine runs out of memory, an image goes rather than the server
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(OSError):
        n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit(resource.RLIMIT_AS, n_pages * resource.getpagesize() + max_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, MOST_FILES)


def _allow(seconds: float) -> None:
    """So much more of the processor's time, should the server be too busy itself to end this process."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds) + 1)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main()
