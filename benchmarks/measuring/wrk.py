"""Load by `wrk`, a C program of one thread, which takes as little as can be from the server beside it."""

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("load.lua")
BOUNDARY = "7f3aa1c0de"


@dataclass(frozen=True)
class Outcome:
    """What came of one load.

    Attributes:
        rate: answers a second.
        p50_ms, p99_ms: of the seconds that an answer took.
        broken: answers that were errors, and requests without one.
        processor: the load generator's own share of one processor.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    broken: int
    processor: float


def raw(path: str, image: bytes) -> bytes:
    """A whole request with the image as its body."""
    return _request(path, "image/jpeg", image)


def multipart(path: str, image: bytes) -> bytes:
    """A whole request with the image in the form field `image`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return _request(
        path, f"multipart/form-data; boundary={BOUNDARY}", head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


def _request(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def check() -> None:
    """Raises RuntimeError if there is no wrk."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk, the load generator, is not here; it is a package of most systems: apt-get install wrk")


@contextmanager
def files(requests: Sequence[bytes]) -> Iterator[list[Path]]:
    """The requests as files, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(len(requests))]
        for path, request in zip(paths, requests, strict=True):
            path.write_bytes(request)
        yield paths


def load(port: int, requests: Sequence[Path], connections: int, seconds: float) -> Outcome:
    """Callers who each ask again as soon as they have their answer."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(SCRIPT)]
    before = _processor_s()
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}", "--", *map(str, requests)], capture_output=True, text=True, check=True
    )
    return outcome(done.stdout, _processor_s() - before)


def outcome(said: str, processor_s: float) -> Outcome:
    """What wrk's script said, in our words."""
    found = json.loads(said.strip().splitlines()[-1])
    good, broken = found["n"] - found["failed"], found["failed"] + found["lost"]
    return Outcome(good / found["seconds"], found["p50_ms"], found["p99_ms"], broken, processor_s / found["seconds"])


def _processor_s() -> float:
    """Of all children that have ended; servers have not."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
