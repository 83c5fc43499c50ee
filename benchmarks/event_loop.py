"""What a request costs the event loop: CPU seconds per megabyte, for bodies that are made to cost much.

    .venv/bin/python benchmarks/event_loop.py PACKAGE [--mib 8] [--json]

While the event loop works on one request, all others wait, health checks too. Starts `bentoml serve` with the package, sends
each body a few times, and reads the CPU time of the worker's main thread, which runs the event loop. Prints the ten worst, with
the longest answer of /livez meanwhile; the exit code is 1 if one is above the targets. On Linux only.
"""

import argparse
import base64
import http.client
import json
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from graft.training.pipelines.demo import running_server

REPEATS = 3
N_WORST = 10
MAX_CPU_MS_PER_MIB, MAX_DELAY_MS = 10.0, 1000.0
PROBE_INTERVAL_S = 0.02
JPEG_HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x02\x00\x00\x00\x90\x91h6"


@dataclass(frozen=True)
class Request:
    """A request to /v1/classify.

    Attributes:
        query: after the question mark.
        media_type: the Content-Type; None to send none.
    """

    name: str
    body: bytes
    media_type: str | None = None
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cost:
    """What a request cost; medians of `REPEATS`, the longest delay of all.

    Attributes:
        cpu_ms_per_mib: of the event loop's thread, per mebibyte of the body and the query.
        delay_ms: the longest answer of /livez in that time.
    """

    name: str
    status: int
    mib: float
    cpu_ms: float
    cpu_ms_per_mib: float
    delay_ms: float


def fill(pattern: bytes, n_bytes: int) -> bytes:
    return pattern * (n_bytes // len(pattern))


def requests(n: int) -> list[Request]:
    """Requests with bodies of about n bytes."""
    noise = bytes(range(1, 128)) * (n // 127)
    encoded = base64.b64encode(noise[: n * 3 // 4])
    form, url, text = "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain"
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n%b\r\n'
    riff = b"RIFF" + struct.pack("<I", n - 8) + b"WEBP"
    tiff = b"II*\x00" + struct.pack("<IH", 8, 65_535)
    return [
        Request("noise", noise, "image/jpeg"),
        Request("JPEG: empty segments", JPEG_HEAD + fill(b"\xff\xfe\x00\x02", n), "image/jpeg"),
        Request("JPEG: fill bytes", JPEG_HEAD + fill(b"\xff", n), "image/jpeg"),
        Request(
            "JPEG: stuffed scan", JPEG_HEAD + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + fill(b"\xff\x00", n), "image/jpeg"
        ),
        Request("PNG: empty chunks", PNG_HEAD + fill(b"\x00\x00\x00\x00tEXt\x00\x00\x00\x00", n), "image/png"),
        Request("GIF: empty extensions", b"GIF89a\x10\x00\x10\x00\x00\x00\x00" + fill(b"!\xfe\x00", n), "image/gif"),
        Request("WebP: empty chunks", riff + fill(b"XXXX\x00\x00\x00\x00", n), "image/webp"),
        Request("TIFF: a full directory", tiff + fill(b"\x00\x01\x03\x00\x01\x00\x00\x00\x10\x00\x00\x00", n), "image/tiff"),
        Request(
            "AVIF: empty boxes",
            b"\x00\x00\x00\x14ftypavif\x00\x00\x00\x00avif" + fill(b"\x00\x00\x00\x08free", n),
            "image/avif",
        ),
        Request("JSON: base64", b'{"image": "%b"}' % encoded, "application/json"),
        Request("JSON: base64 in lines", b'{"image": "%b"}' % encoded.replace(b"A", b"\\n"), "application/json"),
        Request("JSON: not base64 at the end", b'{"image": "%b!"}' % encoded, "application/json"),
        Request("JSON: escapes", b'{"image": "%b"}' % fill(b"\\u0041", n), "application/json"),
        Request("JSON: a long name", b'{"image": "AAAA", "%b": 1}' % fill(b"\\u00ad", n), "application/json"),
        Request("JSON: a long number", b'{"image": "AAAA", "threshold": %b}' % fill(b"1", n), "application/json"),
        Request("JSON: a long number as text", b'{"image": "AAAA", "threshold": "%bx"}' % fill(b"0", n), "application/json"),
        Request("JSON: a long choice", b'{"image": "AAAA", "method": "%b"}' % fill(b"ab", n), "application/json"),
        Request("JSON: many numbers", b'{"image": "AAAA", "k": [%b1]}' % fill(b"1,", n), "application/json"),
        Request("JSON: brackets", fill(b"[", n), "application/json"),
        Request("JSON: spaces", fill(b" ", n) + b"{}", "application/json"),
        Request("form: a file", part % noise + b"--x--\r\n", form),
        Request("form: half boundaries", part % fill(b"\r\n--", n) + b"--x--\r\n", form),
        Request("form: many parts", fill(part % b"", min(n, 150_000)) + b"--x--\r\n", form),
        Request("form: too many parts", fill(part % b"", n) + b"--x--\r\n", form),
        Request(
            "form: semicolons", fill(b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n\r\n" % fill(b";", 30_000), n), form
        ),
        Request(
            "form: parameters", fill(b"--x\r\nContent-Disposition: form-data%b\r\n\r\n\r\n" % fill(b"; a=b", 30_000), n), form
        ),
        Request(
            "form: quotes", fill(b'--x\r\nContent-Disposition: form-data; name="%b\r\n\r\n\r\n' % fill(b"\\a", 30_000), n), form
        ),
        Request("form: header lines", fill(b"--x\r\n%b\r\n\r\n" % fill(b"a:b\r\n", 30_000), n), form),
        Request("URL-encoded: percent", b"image=" + fill(b"%41", n), url),
        Request("URL-encoded: ampersands", fill(b"&", n), url),
        Request("URL-encoded: base64", b"image=" + encoded, url),
        Request("text: data URL", b"data:image/png," + fill(b"%41", n), text),
        Request("text: base64", encoded, text),
        Request("text: spaces", fill(b" ", n), text),
        Request("query: many options", b"x", "image/png", "&".join(f"k{i}=1" for i in range(4_000))),
        Request("query: percent", b"x", "image/png", "threshold=" + "%30" * 9_000),
        Request("query: a long number", b"x", "image/png", "threshold=" + "0" * 30_000 + "x"),
        Request("headers: Accept", b"x", "image/png", headers=(("Accept", "a/b;q=0.1," * 3_000),)),
        Request("headers: Content-Type", b"x", "multipart/form-data" + ";" * 30_000),
    ]


@contextmanager
def probing(port: int) -> Iterator[Callable[[], float]]:
    """Calls /livez all the time; yields a function that returns the longest answer in seconds since its last call."""
    seconds, stopped = [0.0], threading.Event()

    def probe() -> None:
        while not stopped.wait(PROBE_INTERVAL_S):
            start = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/livez")
            connection.getresponse().read()
            connection.close()
            seconds.append(time.perf_counter() - start)

    def longest() -> float:
        nonlocal seconds
        time.sleep(2 * PROBE_INTERVAL_S)
        found, seconds = max(seconds), [0.0]
        return found

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    yield longest
    stopped.set()
    thread.join()


def main_thread_seconds(worker: psutil.Process) -> float:
    """CPU time of the thread that runs the event loop."""
    return int(Path(f"/proc/{worker.pid}/task/{worker.pid}/schedstat").read_text().split()[0]) / 1e9


def send(port: int, request: Request) -> int:
    """The status of the response; 0 if the server closed the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = dict(request.headers) | ({"Content-Type": request.media_type} if request.media_type else {})
    try:
        connection.request("POST", f"/v1/classify?{request.query}", request.body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def measure(port: int, worker: psutil.Process, request: Request, longest_probe: Callable[[], float]) -> Cost:
    mib = (len(request.body) + len(request.query) + sum(len(value) for _, value in request.headers)) / 2**20
    seconds, status = [], 0
    longest_probe()
    for _ in range(REPEATS):
        start = main_thread_seconds(worker)
        status = send(port, request)
        seconds.append(main_thread_seconds(worker) - start)
    cpu_ms = 1e3 * statistics.median(seconds)
    return Cost(request.name, status, mib, cpu_ms, cpu_ms / max(mib, 1.0), 1e3 * longest_probe())


def find_worker(port: int) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "bentoml" in command and str(port) in command:
            return next(child for child in process.children() if "_bentoml_impl.worker.service" in child.cmdline())
    raise SystemExit("error: the worker was not found")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--mib", type=float, default=8, help="size of the bodies (default: 8)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with running_server(arguments.package) as url, probing(int(url.rpartition(":")[2])) as longest_probe:
        port = int(url.rpartition(":")[2])
        worker = find_worker(port)
        costs = [measure(port, worker, request, longest_probe) for request in requests(int(arguments.mib * 2**20))]
    costs.sort(key=lambda cost: cost.cpu_ms, reverse=True)
    if arguments.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=1))
    else:
        print("| body | status | MiB | CPU ms | CPU ms per MiB | longest /livez, ms |\n|---|---|---|---|---|---|")
        for cost in costs[:N_WORST]:
            figures = f"{cost.mib:.2f} | {cost.cpu_ms:.1f} | {cost.cpu_ms_per_mib:.1f} | {cost.delay_ms:.0f}"
            print(f"| {cost.name} | {cost.status or 'closed'} | {figures} |")
    return int(any(cost.cpu_ms_per_mib > MAX_CPU_MS_PER_MIB or cost.delay_ms > MAX_DELAY_MS for cost in costs))


if __name__ == "__main__":
    sys.exit(main())
