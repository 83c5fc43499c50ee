"""Generates load with `wrk`, a single-threaded C program that leaves as much CPU as possible to the server."""

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
class LoadResult:
    """Results of one load.

    Attributes:
        rate: successful responses per second.
        p50_ms, p99_ms: latency percentiles.
        broken: error responses and requests without a response.
        processor: CPU use of wrk itself, as a fraction of one core.
        n_good: number of successful responses.
        server_ms: processor time of all processes of the server for each of them, user and system; 0 if not measured.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    broken: int
    processor: float
    n_good: int
    server_ms: float = 0.0


def raw_request(path: str, image: bytes) -> bytes:
    """A complete HTTP request with the image as its body."""
    return _build_request(path, "image/jpeg", image)


def multipart_request(path: str, image: bytes) -> bytes:
    """A complete HTTP request with the image in the form field `image`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return _build_request(
        path, f"multipart/form-data; boundary={BOUNDARY}", head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


def _build_request(path: str, content_type: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def check_installed() -> None:
    """Raises RuntimeError if wrk is not installed."""
    if shutil.which("wrk") is None:
        raise RuntimeError("The load generator wrk is not installed; install it with: apt-get install wrk")


@contextmanager
def request_files(requests: Sequence[bytes]) -> Iterator[list[Path]]:
    """Write the requests to temporary files, which exist until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(len(requests))]
        for path, request in zip(paths, requests, strict=True):
            path.write_bytes(request)
        yield paths


def run_load(port: int, requests: Sequence[Path], connections: int, seconds: float) -> LoadResult:
    """Closed-loop load: each connection sends the next request as soon as it has a response."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", str(SCRIPT)]
    used_s = _children_cpu_s()
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}", "--", *map(str, requests)], capture_output=True, text=True, check=True
    )
    return parse_output(done.stdout, _children_cpu_s() - used_s)


def parse_output(output: str, cpu_s: float) -> LoadResult:
    """Parse the JSON line that load.lua prints."""
    summary = json.loads(output.strip().splitlines()[-1])
    good, broken = summary["n"] - summary["failed"], summary["failed"] + summary["lost"]
    seconds = summary["seconds"]
    return LoadResult(good / seconds, summary["p50_ms"], summary["p99_ms"], broken, cpu_s / seconds, good)


def _children_cpu_s() -> float:
    """CPU seconds of all child processes that have exited; servers are still running."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
