"""Soak test: long load at half of the capacity with a mix of clients, and checks for leaks afterwards."""

import math
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
from load_generator import Outcome, Phase, RequestSpec, build_post, start_load_generator
from psutil import NoSuchProcess, Process
from server_process import SERVICE, RunningServer, bentoml_server

from graft.training.runtime.import_root import IMPORT_ROOT

LOAD = 0.5  # fraction of the capacity
N_CLIENTS = 8
SAMPLE_INTERVAL_S = 0.5
SETTLE_S = 3.0  # longer than the server waits for the body of a rejected request
MAX_NEW_SERIES = 5  # new series: one per status and code that occurs for the first time
MAX_MIB = 1.0  # maximum growth per 1,000 requests
REJECTION = "503 overloaded"
SERVER_PYTHONPATH = os.pathsep.join(
    [str(IMPORT_ROOT), str(Path(__file__).parent)]
)  # PYTHONPATH of the server, which may be the leaky one
ERROR_PATTERNS = ("Traceback", "never retrieved", "never awaited", '"status": 500', "Task was destroyed")


class Snapshot(NamedTuple):
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


def take_snapshot(server: RunningServer, folder: Path) -> Snapshot:
    """Measure the resource use of a server."""
    processes = server.processes()
    mib = sum(anonymous_bytes(process) for process in processes) / 2**20
    n_threads, n_descriptors = (
        sum(count(process) for process in processes) for count in (Process.num_threads, Process.num_fds)
    )
    # Last, because the server may be slow to close this connection.
    lines = [line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if not line.startswith("#")]
    return Snapshot(
        requests=sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("graft_requests_total")),
        mib=mib,
        processes=len(processes),
        threads=n_threads,
        descriptors=n_descriptors,
        files=sum(1 for _ in folder.rglob("*")),
        series=len(lines),
    )


def anonymous_bytes(process: Process) -> int:
    """Anonymous memory of a process in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


@contextmanager
def sample_snapshots(server: RunningServer, folder: Path) -> Iterator[list[Snapshot]]:
    """Take snapshots periodically until the block ends."""
    snapshots: list[Snapshot] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_INTERVAL_S):
            with suppress(NoSuchProcess, FileNotFoundError):  # a decode worker exited meanwhile
                snapshots.append(take_snapshot(server, folder))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield snapshots
    finally:
        done.set()
        thread.join()


def mib_per_1000_requests(snapshots: Sequence[Snapshot]) -> float:
    """Memory growth in MiB per 1,000 requests, by least squares with one step up or down where it fits best.

    A leak grows all the time; the allocator takes another arena once.
    """
    mib = np.array([snapshot.mib for snapshot in snapshots])
    best = (math.inf, 0.0)  # the squared error, and the growth
    for start in range(1, len(snapshots)):
        columns = np.array([[snapshot.requests / 1000, 1, n >= start] for n, snapshot in enumerate(snapshots)])
        solution = np.linalg.lstsq(columns, mib, rcond=None)[0]
        best = min(best, (float(((columns @ solution - mib) ** 2).sum()), float(solution[0])))
    return best[1]


@dataclass(frozen=True)
class SoakResult:
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
    snapshots: tuple[Snapshot, ...]
    before: Snapshot
    after: Snapshot
    n_right: int
    n_rejected: int
    unexpected: dict[str, int]
    log_errors: tuple[str, ...]

    def checks(self, max_mib: float = MAX_MIB) -> list[tuple[str, float, float, bool]]:
        """Name, value, limit, and whether the target was met; `max_mib` is the one for MiB per 1,000 requests."""
        growth = {name: getattr(self.after, name) - getattr(self.before, name) for name in Snapshot._fields}
        return [
            (
                "MiB per 1,000 requests",
                mib_per_1000_requests(self.snapshots),
                max_mib,
                mib_per_1000_requests(self.snapshots) <= max_mib,
            ),
            *((f"extra {name}", growth[name], 0, growth[name] <= 0) for name in ("processes", "threads", "descriptors")),
            ("extra temporary files", growth["files"], 0, growth["files"] <= 0),
            ("extra metric series", growth["series"], MAX_NEW_SERIES, growth["series"] <= MAX_NEW_SERIES),
            ("unexpected responses", sum(self.unexpected.values()), 0, not self.unexpected),
            ("errors in the log", len(self.log_errors), 0, not self.log_errors),
        ]

    def missed(self, max_mib: float = MAX_MIB) -> list[str]:
        """Names of the missed targets."""
        return [name for name, _, _, met in self.checks(max_mib) if not met]


def request_mix(valid_images: Sequence[bytes], hostile_files: Mapping[str, Case]) -> list[RequestSpec]:
    """70% valid requests, 20% hostile files, and 10% clients that disconnect early."""
    valid = [RequestSpec("200", build_post("/v1/classify", image)) for image in valid_images]
    hostile = [
        RequestSpec(f"{case.status} {case.code or ''}".strip(), build_post("/v1/classify", case.content))
        for case in hostile_files.values()
    ]
    disconnecting = [RequestSpec("0", request.request, stays) for request in valid for stays in ("half", "sent")]
    return [*repeat_evenly(valid, 700), *repeat_evenly(hostile, 200), *repeat_evenly(disconnecting, 100)]


def repeat_evenly(requests: Sequence[RequestSpec], n_requests: int) -> list[RequestSpec]:
    """`n_requests` requests, each used equally often (plus or minus one)."""
    return [requests[number % len(requests)] for number in range(n_requests)]


def soak(
    package: Path, requests: Sequence[RequestSpec], seconds: float, load: float = LOAD, service: str = SERVICE
) -> SoakResult:
    """Send each request once, measure the capacity, then run the load and check for leaks."""
    with (
        TemporaryDirectory() as folder,
        bentoml_server(package, service, TMPDIR=folder, PYTHONPATH=SERVER_PYTHONPATH) as server,
        start_load_generator(server.port) as clients,
    ):
        clients.send_each(list(dict.fromkeys(requests)), N_CLIENTS).result()
        rate = load * throughput(clients.closed_loop(requests, N_CLIENTS, seconds / 8).result().outcomes, seconds / 8)
        take_snapshot(server, Path(folder))  # warms up the metrics endpoint
        time.sleep(SETTLE_S)
        before = take_snapshot(server, Path(folder))
        with sample_snapshots(server, Path(folder)) as snapshots:
            record = clients.open_loop(requests, [Phase(rate, seconds)]).result()
        time.sleep(SETTLE_S)
        after = take_snapshot(server, Path(folder))
        log_errors = tuple(line for line in server.log_text().splitlines() if any(fault in line for fault in ERROR_PATTERNS))
    counts = Counter((outcome.kind, f"{outcome.status} {outcome.code}".strip()) for outcome in record.outcomes)
    n_right = sum(n for (expected, actual), n in counts.items() if expected == actual)
    n_rejected = sum(n for (expected, actual), n in counts.items() if actual == REJECTION != expected)
    unexpected = {f"{expected}: {actual}": n for (expected, actual), n in counts.items() if actual not in (expected, REJECTION)}
    return SoakResult(seconds, tuple(snapshots), before, after, n_right, n_rejected, unexpected, log_errors)


def throughput(outcomes: Sequence[Outcome], seconds: float) -> float:
    """Responses per second within the given time."""
    return sum(outcome.due + outcome.seconds < seconds for outcome in outcomes) / seconds
