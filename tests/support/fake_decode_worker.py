"""Decode workers that perform an action named in the image bytes, for failures that no real image can cause.

Give `ACTORS` to `DecoderPool` as its command, or patch it into a predictor with
`monkeypatch.setattr("graft.service.scheduling.image_queue.DecoderPool", partial(DecoderPool, command=ACTORS))`. Append the
result of `act` to a real image, so that its format is detected. Pixels are black; the reported width is the file's length.
"""

import sys

_PROGRAM = """
import ctypes, os, threading, time
from pathlib import Path
import numpy as np
from graft.service.decoding import worker as decoding
from graft.service.imaging.preprocess import DecodedImage

def lie():
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, b"not a valid message" * 9)
        except OSError:
            pass

def perform(encoded, preprocessing, limits):
    word, _, rest = encoded.partition(b"ACT ")[2].decode().partition(" ")
    if word == "sleep":
        time.sleep(600)
    if word == "hold":
        Path(rest, "begun").touch()
        while not Path(rest, "go").exists():
            time.sleep(0.01)
    if word == "die":
        os._exit(1)
    if word == "crash":
        ctypes.string_at(0)  # no signal of its own making: a worker may send none
    if word == "burn":
        while True:
            pass
    if word == "eat":
        bytes(int(rest))
    if word == "open":
        [open("/dev/null") for _ in range(100)]
    if word == "write":
        with open(rest, "wb", buffering=0) as file:
            file.write(b"x")
    if word == "lie":
        threading.Timer(0.5, lie).start() if rest else lie()
    if word == "break":
        raise KeyError("/secret/path")
    if word == "environment":
        assert not [name for name in os.environ if name.startswith("GRAFT_")]
    side = preprocessing.crop
    return DecodedImage(np.zeros((side, side, 3), np.uint8), len(encoded), 1, "PNG", ("acted",))

decoding.main(perform)
"""
ACTORS = (sys.executable, "-c", _PROGRAM)


def act(action: str, image: bytes = b"") -> bytes:
    """Bytes that make a worker act.

    The actions: sleep, hold FOLDER (until it contains a file `go`), die, crash, burn, eat BYTES, open, write FILE, lie,
    lie later, break, environment.

    Args:
        image: a real image to append the action to.
    """
    return image + b"ACT " + action.encode()
