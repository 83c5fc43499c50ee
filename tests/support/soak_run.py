"""Soak test: long load at half of the capacity with a mix of clients, and checks for leaks afterwards."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
import numpy as np
from hostile_corpus import Case
from load_generator import Ask, Outcome, Phase, crowd, post
from psutil import NoSuchProcess, Process
from server_process import SERVICE, Operated, operating

from graft.training.pipelines.serve import ROOT

LOAD = 0.5  # fraction of the capacity
CALLERS = 8
LOOK_EVERY_S = 0.5
REST_S = 3.0  # longer than the server waits for the body of a rejected request
MOST_SERIES = 5  # new series: one per status and code that occurs for the first time
MOST_MIB = 1.0  # maximum growth per 1,000 requests
REFUSAL = "503 overloaded"
SEEN = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])  # PYTHONPATH of the server, which may be the leaky one
FAULTS = ("Traceback", "never retrieved", "never awaited", '"status": 500', "Task was destroyed")


class Look(NamedTuple):
    """Resource use of a server at one point in time.

    Attributes:
        requests: requests handled since the start.
        mib: anonymous memory of all processes.
        processes, threads: their numbers.
        descriptors: open file descriptors of all processes.
        files: files in the temporary folder.
        series: number of metric series.
    """

    requests: int
    mib: float
    processes: int
    threads: int
    descriptors: int
    files: int
    series: int


def look(server: Operated, folder: Path) -> Look:
    """Measure the resource use of a server."""
    processes = server.processes()
    mib = sum(anonymous(process) for process in processes) / 2**20
    n_threads, n_descriptors = (
        sum(count(process) for process in processes) for count in (Process.num_threads, Process.num_fds)
    )
    # Last, because the server may be slow to close this connection.
    lines = [line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if not line.startswith("#")]
    return Look(
        requests=sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("graft_requests_total")),
        mib=mib,
        processes=len(processes),
        threads=n_threads,
        descriptors=n_descriptors,
        files=sum(1 for _ in folder.rglob("*")),
        series=len(lines),
    )


def anonymous(process: Process) -> int:
    """Anonymous memory of a process in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


@contextmanager
def watching(server: Operated, folder: Path) -> Iterator[list[Look]]:
    """Take snapshots periodically until the block ends."""
    snapshots: list[Look] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(LOOK_EVERY_S):
            with suppress(NoSuchProcess, FileNotFoundError):  # a decode worker exited meanwhile
                snapshots.append(look(server, folder))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield snapshots
    finally:
        done.set()
        thread.join()


def slope(looks: Sequence[Look]) -> float:
    """Memory growth in MiB per 1,000 requests, by least squares."""
    return float(np.polyfit([snapshot.requests / 1000 for snapshot in looks], [snapshot.mib for snapshot in looks], 1)[0])


@dataclass(frozen=True)
class Findings:
    """Results of a soak test.

    Attributes:
        seconds: duration after the warm-up.
        snapshots: taken during the load.
        before, after: snapshots of the idle server.
        n_right: number of requests with the expected response, or an early disconnect.
        n_rejected: number of requests rejected as overload, because the machine became slower.
        unexpected: number of other responses by "expected: actual".
        log_errors: log lines that indicate a bug.
    """

    seconds: float
    looks: tuple[Look, ...]
    before: Look
    after: Look
    n_right: int
    n_refused: int
    wrong: dict[str, int]
    faults: tuple[str, ...]

    def rows(self) -> list[tuple[str, float, float, bool]]:
        """Name, value, limit, and whether the target was met."""
        growth = {name: getattr(self.after, name) - getattr(self.before, name) for name in Look._fields}
        return [
            ("MiB per 1,000 requests", slope(self.looks), MOST_MIB, slope(self.looks) <= MOST_MIB),
            *((f"extra {name}", growth[name], 0, growth[name] <= 0) for name in ("processes", "threads", "descriptors")),
            ("extra temporary files", growth["files"], 0, growth["files"] <= 0),
            ("extra metric series", growth["series"], MOST_SERIES, growth["series"] <= MOST_SERIES),
            ("unexpected responses", sum(self.wrong.values()), 0, not self.wrong),
            ("errors in the log", len(self.faults), 0, not self.faults),
        ]

    def broken(self) -> list[str]:
        """Names of the missed targets."""
        return [name for name, _, _, met in self.rows() if not met]


def mixed(good: Sequence[bytes], bad: Mapping[str, Case]) -> list[Ask]:
    """70% valid requests, 20% hostile files, and 10% clients that disconnect early."""
    valid = [Ask("200", post("/v1/classify", image)) for image in good]
    hostile = [Ask(f"{case.status} {case.code or ''}".strip(), post("/v1/classify", case.content)) for case in bad.values()]
    disconnecting = [Ask("0", request.request, stays) for request in valid for stays in ("half", "sent")]
    return [*some(valid, 700), *some(hostile, 200), *some(disconnecting, 100)]


def some(asks: Sequence[Ask], n_asks: int) -> list[Ask]:
    """`n_requests` requests, each used equally often (plus or minus one)."""
    return [asks[number % len(asks)] for number in range(n_asks)]


def soak(package: Path, asks: Sequence[Ask], seconds: float, load: float = LOAD, service: str = SERVICE) -> Findings:
    """Send each request once, measure the capacity, then run the load and check for leaks."""
    with (
        TemporaryDirectory() as folder,
        operating(package, service, TMPDIR=folder, PYTHONPATH=SEEN) as server,
        crowd(server.port) as clients,
    ):
        clients.each(list(dict.fromkeys(asks)), CALLERS).result()
        rate = load * capacity(clients.keep(asks, CALLERS, seconds / 8).result().outcomes, seconds / 8)
        look(server, Path(folder))  # warms up the metrics endpoint
        time.sleep(REST_S)
        before = look(server, Path(folder))
        with watching(server, Path(folder)) as snapshots:
            record = clients.offer(asks, [Phase(rate, seconds)]).result()
        time.sleep(REST_S)
        after = look(server, Path(folder))
        log_errors = tuple(line for line in server.said().splitlines() if any(fault in line for fault in FAULTS))
    counts = Counter((outcome.kind, f"{outcome.status} {outcome.code}".strip()) for outcome in record.outcomes)
    n_right = sum(n for (expected, actual), n in counts.items() if expected == actual)
    n_rejected = sum(n for (expected, actual), n in counts.items() if actual == REFUSAL != expected)
    unexpected = {f"{expected}: {actual}": n for (expected, actual), n in counts.items() if actual not in (expected, REFUSAL)}
    return Findings(seconds, tuple(snapshots), before, after, n_right, n_rejected, unexpected, log_errors)


def capacity(outcomes: Sequence[Outcome], seconds: float) -> float:
    """Responses per second within the given time."""
    return sum(outcome.due + outcome.seconds < seconds for outcome in outcomes) / seconds
