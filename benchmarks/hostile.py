"""Effect of hostile files on a running server: slowest response, memory growth, and latency of health probes.

    .venv/bin/python benchmarks/hostile.py PACKAGE [--rounds 20]

Starts `bentoml serve` with the package, sends every file of tests/support/hostile_corpus.py `--rounds` times, and probes
/readyz meanwhile. Afterwards it sends the slowest images within the limits. Prints Markdown tables. The exit code is 1 if a
target was missed: a response that differs from the expected one or took over a second, memory growth over 20 MiB, or a p99
of the probes over 100 ms.
"""

import argparse
import http.client
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
from PIL import Image

from graft.training.pipelines.demo import running_server

# First, so that its modules take precedence over those of this folder.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from handmade_files import chunk, compressed_zeros, encode_image, ihdr, png, progressive
from hostile_corpus import Case, corpus

MAX_RESPONSE_S, MAX_GROWTH_MIB, MAX_PROBE_MS = 1.0, 20.0, 100.0
PROBE_INTERVAL_S = 0.02
SETTLE_S = 2.0


class Client:
    """A client with one connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, float]:
        """Send a request; return status, body and seconds."""
        started = time.perf_counter()
        self._connection.request(method, path, body, {"Content-Type": "image/jpeg"} if body is not None else {})
        response = self._connection.getresponse()
        content = response.read()
        return response.status, content, time.perf_counter() - started


@contextmanager
def probe_latencies(url: str) -> Iterator[list[float]]:
    """Probe /readyz until the block ends; collect the latencies in milliseconds."""
    latencies_ms: list[float] = []
    done, client = threading.Event(), Client(url)

    def probe() -> None:
        while not done.wait(PROBE_INTERVAL_S):
            status, _, seconds = client.request("GET", "/readyz")
            latencies_ms.append(1e3 * seconds if status == 200 else float("inf"))

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield latencies_ms
    finally:
        done.set()
        thread.join()


def server_memory_mib() -> float:
    """Anonymous memory of the server and all its processes in MiB."""
    processes = psutil.Process().children(recursive=True)
    status = "".join(Path(f"/proc/{process.pid}/status").read_text(encoding="ascii") for process in processes)
    return sum(map(int, re.findall(r"RssAnon:\s+(\d+) kB", status))) / 2**10


def send_all(files: dict[str, Case], client: Client) -> tuple[dict[str, float], list[str]]:
    """Send all files; return the seconds of each response and the names of files with an unexpected response."""
    seconds, unexpected = {}, []
    for name, case in files.items():
        status, content, seconds[name] = client.request("POST", "/v1/classify", case.content)
        if status != case.status or (case.code and f'"code":"{case.code}"'.encode() not in content):
            unexpected.append(f"{name}: {status}")
    return seconds, unexpected


def slowest_files() -> dict[str, bytes]:
    """Files that take longest to decode within the limits: 64 million pixels, 640 million in all scans, and 10 MiB."""
    noise = np.random.default_rng(0).normal(128, 8, (500, 500, 4)).clip(0, 255).astype(np.uint8)
    noisy = Image.fromarray(np.tile(noise, (16, 16, 1)))
    cropped = noisy.crop((0, 0, 7200, 7200))  # a WebP of 64 million pixels would exceed the memory limit
    return {
        "JPEG, 10 scans": progressive(8000, 8000, 10),
        "JPEG, 100 scans": progressive(2500, 2500, 100),
        "JPEG, progressive, noise": encode_image(noisy.convert("RGB"), "JPEG", quality=75, progressive=True, subsampling=0),
        "PNG, RGBA": png(ihdr(8000, 8000, 8, 6), chunk(b"IDAT", compressed_zeros(32_001 * 8000))),
        "PNG, 16-bit gray": png(ihdr(8000, 8000, 16, 0), chunk(b"IDAT", compressed_zeros(16_001 * 8000))),
        "GIF, transparent": encode_image(Image.new("P", (8000, 8000)), "GIF", transparency=0),
        "WebP, RGBA, noise": encode_image(cropped, "WEBP", quality=75, method=0),
        "WebP, lossless": encode_image(Image.new("RGBA", cropped.size), "WEBP", lossless=True, method=0),
        "JPEG, 12 megapixels": encode_image(noisy.convert("RGB").crop((0, 0, 4000, 3000)), "JPEG", quality=75),
    }


def slowest_files_table(url: str) -> str:
    lines = ["| slowest files within the limits | MiB | status | s |", "|---|---|---|---|"]
    for name, content in slowest_files().items():
        status, _, seconds = Client(url).request("POST", "/v1/classify", content)
        lines.append(f"| {name} | {len(content) / 2**20:.1f} | {status} | {seconds:.2f} |")
    return "\n".join(lines)


def target_row(name: str, value: float, limit: float, unit: str) -> tuple[str, bool]:
    met = value <= limit
    return f"| {name} | {value:.3g} {unit} | {limit:g} {unit} | {'met' if met else '**missed**'} |", met


def measure(url: str, rounds: int) -> bool:
    """Print the tables; return whether every target was met."""
    client, files, slowest, unexpected = Client(url), corpus(), {}, []
    send_all(files, client)  # first pass fills caches and pools
    time.sleep(SETTLE_S)
    memory_before = server_memory_mib()
    with probe_latencies(url) as probes:
        for _ in range(rounds):
            seconds, unexpected_now = send_all(files, client)
            slowest = {name: max(elapsed_s, slowest.get(name, 0.0)) for name, elapsed_s in seconds.items()}
            unexpected += unexpected_now
    time.sleep(SETTLE_S)
    worst = max(slowest, key=slowest.__getitem__)
    rows = [
        target_row(f"unexpected responses, {len(files)} files, {rounds} rounds", len(unexpected), 0, ""),
        target_row(f"slowest response ({worst})", slowest[worst], MAX_RESPONSE_S, "s"),
        target_row("memory growth", server_memory_mib() - memory_before, MAX_GROWTH_MIB, "MiB"),
        target_row(f"latency of /readyz, p99 of {len(probes)} probes", float(np.percentile(probes, 99)), MAX_PROBE_MS, "ms"),
    ]
    print("\n".join(["| target | measured | at most | |", "|---|---|---|---|", *(text for text, _ in rows)]))
    print(f"\nmedian response time: {1e3 * statistics.median(slowest.values()):.0f} ms; unexpected: {unexpected[:5]}\n")
    print(slowest_files_table(url))
    return all(met for _, met in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with running_server(arguments.package) as url:
        met = measure(url, arguments.rounds)
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
