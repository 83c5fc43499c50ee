"""What hostile files cost a running server: its slowest answer, its memory afterwards, and whether its probes still answer.

    .venv/bin/python benchmarks/hostile.py PACKAGE [--rounds 20]

Starts `bentoml serve` with the package, sends every file of tests/support/hostile_corpus.py again and again, and asks /readyz all the
while. Before that it tries the dearest images that every limit lets through. Prints Markdown tables; ends with 1 if a promise
was broken: an answer that is not the one the corpus promises or took over a second, memory that did not come back within
20 MiB, a probe over 100 ms in a hundred.
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

from graft.training.pipelines.demo import serving

sys.path.insert(
    0, str(Path(__file__).parent.parent / "tests" / "support")
)  # before this folder, where this file has the same name
from handmade_files import chunk, ihdr, png, progressive, saved, zeros
from hostile_corpus import Case, corpus

MOST_S, MOST_MIB, MOST_PROBE_MS = 1.0, 20.0, 100.0
PROBE_EVERY_S = 0.02
SETTLE_S = 2.0


class Asker:
    """One connection to the server."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, float]:
        """Status, body and seconds of one request."""
        begun = time.perf_counter()
        self._connection.request(method, path, body, {"Content-Type": "image/jpeg"} if body is not None else {})
        response = self._connection.getresponse()
        content = response.read()
        return response.status, content, time.perf_counter() - begun


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """The milliseconds of every probe that was asked during the block."""
    found: list[float] = []
    over, asker = threading.Event(), Asker(url)

    def probe() -> None:
        while not over.wait(PROBE_EVERY_S):
            status, _, seconds = asker.ask("GET", "/readyz")
            found.append(1e3 * seconds if status == 200 else float("inf"))

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        yield found
    finally:
        over.set()
        prober.join()


def memory() -> float:
    """MiB that the server and all its processes hold, without the files they have in common with others' processes."""
    processes = psutil.Process().children(recursive=True)
    status = "".join(Path(f"/proc/{process.pid}/status").read_text(encoding="ascii") for process in processes)
    return sum(map(int, re.findall(r"RssAnon:\s+(\d+) kB", status))) / 2**10


def all_of(files: dict[str, Case], asker: Asker) -> tuple[dict[str, float], list[str]]:
    """Seconds of each answer, and the names of those that were not the promised one."""
    seconds, wrong = {}, []
    for name, case in files.items():
        status, content, seconds[name] = asker.ask("POST", "/v1/classify", case.content)
        if status != case.status or (case.code and f'"code":"{case.code}"'.encode() not in content):
            wrong.append(f"{name}: {status}")
    return seconds, wrong


def dearest() -> dict[str, bytes]:
    """What takes longest of all that 64 million pixels, 100 passes and 10 MiB allow."""
    noise = np.random.default_rng(0).normal(128, 8, (500, 500, 4)).clip(0, 255).astype(np.uint8)
    busy = Image.fromarray(np.tile(noise, (16, 16, 1)))
    smaller = busy.crop((0, 0, 7200, 7200))  # a WebP of all 64 million would take more memory than it may
    return {
        "JPEG, 100 passes": progressive(8000, 8000, 100),
        "JPEG, progressive, noise": saved(busy.convert("RGB"), "JPEG", quality=75, progressive=True, subsampling=0),
        "PNG, RGBA": png(ihdr(8000, 8000, 8, 6), chunk(b"IDAT", zeros(32_001 * 8000))),
        "PNG, 16-bit grey": png(ihdr(8000, 8000, 16, 0), chunk(b"IDAT", zeros(16_001 * 8000))),
        "GIF, transparent": saved(Image.new("P", (8000, 8000)), "GIF", transparency=0),
        "WebP, RGBA, noise": saved(smaller, "WEBP", quality=75, method=0),
        "WebP, lossless": saved(Image.new("RGBA", smaller.size), "WEBP", lossless=True, method=0),
        "JPEG, 12 megapixels": saved(busy.convert("RGB").crop((0, 0, 4000, 3000)), "JPEG", quality=75),
    }


def tried(url: str) -> str:
    lines = ["| dearest within the limits | MiB | status | s |", "|---|---|---|---|"]
    for name, content in dearest().items():
        status, _, seconds = Asker(url).ask("POST", "/v1/classify", content)
        lines.append(f"| {name} | {len(content) / 2**20:.1f} | {status} | {seconds:.2f} |")
    return "\n".join(lines)


def row(what: str, found: float, most: float, unit: str) -> tuple[str, bool]:
    held = found <= most
    return f"| {what} | {found:.3g} {unit} | {most:g} {unit} | {'held' if held else '**broken**'} |", held


def measure(url: str, rounds: int) -> bool:
    """Prints the tables; whether every promise was held."""
    asker, files, slowest, wrong = Asker(url), corpus(), {}, []
    all_of(files, asker)  # once, so that everything that is kept for ever is there
    time.sleep(SETTLE_S)
    before = memory()
    with probing(url) as probes:
        for _ in range(rounds):
            seconds, unexpected = all_of(files, asker)
            slowest = {name: max(taken, slowest.get(name, 0.0)) for name, taken in seconds.items()}
            wrong += unexpected
    time.sleep(SETTLE_S)
    worst = max(slowest, key=slowest.__getitem__)
    rows = [
        row(f"wrong answers to {len(files)} files, {rounds} rounds", len(wrong), 0, ""),
        row(f"slowest answer ({worst})", slowest[worst], MOST_S, "s"),
        row("memory that did not come back", memory() - before, MOST_MIB, "MiB"),
        row(f"/readyz meanwhile, p99 of {len(probes)}", float(np.percentile(probes, 99)), MOST_PROBE_MS, "ms"),
    ]
    print("\n".join(["| what | found | at most | |", "|---|---|---|---|", *(text for text, _ in rows)]))
    print(f"\nmedian answer: {1e3 * statistics.median(slowest.values()):.0f} ms; wrong: {wrong[:5]}\n")
    print(tried(url))
    return all(held for _, held in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with serving(arguments.package) as url:
        held = measure(url, arguments.rounds)
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
