"""A long time under half of what a service can do, with all sorts of callers, and whether anything of it stays behind."""

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

LOAD = 0.5  # of the capacity
CALLERS = 8
LOOK_EVERY_S = 0.5
REST_S = 3.0  # longer than a refused body is waited for
MOST_SERIES = 5  # more: one for every status and code that is answered for the first time, and there are few of them
MOST_MIB = 1.0  # that 1,000 requests may leave behind
REFUSAL = "503 overloaded"
SEEN = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])  # by the server, which may be the leaky one
FAULTS = ("Traceback", "never retrieved", "never awaited", '"status": 500', "Task was destroyed")


class Look(NamedTuple):
    """What a server is made of at one moment.

    Attributes:
        requests: answered since it started.
        mib: of memory that no file backs, in all processes.
        descriptors: open, in all processes.
        files: in the folder for temporary ones.
        series: that its metrics have.
    """

    requests: int
    mib: float
    processes: int
    threads: int
    descriptors: int
    files: int
    series: int


def look(server: Operated, folder: Path) -> Look:
    processes = server.processes()
    mib = sum(anonymous(process) for process in processes) / 2**20
    n_threads, n_descriptors = (sum(count(one) for one in processes) for count in (Process.num_threads, Process.num_fds))
    # Last, because the server may be slow to notice that this connection is over.
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
    """The bytes of memory that are a process's own."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


@contextmanager
def watching(server: Operated, folder: Path) -> Iterator[list[Look]]:
    """A look every now and then during the block."""
    seen: list[Look] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            with suppress(NoSuchProcess, FileNotFoundError):  # a decoder that died while it was looked at
                seen.append(look(server, folder))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def slope(looks: Sequence[Look]) -> float:
    """MiB that 1,000 requests leave behind, by least squares."""
    return float(np.polyfit([seen.requests / 1000 for seen in looks], [seen.mib for seen in looks], 1)[0])


@dataclass(frozen=True)
class Findings:
    """What a soak left behind.

    Attributes:
        seconds: that it lasted, after the warm-up.
        looks: meanwhile.
        before, after: with nothing to do.
        n_right: how many requests were answered as they had to be, or their callers had hung up.
        n_refused: how many there was no room for, because the machine had become slower.
        wrong: the others, by what they had to be told, and were told.
        faults: lines of the log that should not be there.
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
        """What, how much, the most that it may be, and whether that was held."""
        grown = {name: getattr(self.after, name) - getattr(self.before, name) for name in Look._fields}
        return [
            ("MiB that 1,000 requests leave behind", slope(self.looks), MOST_MIB, slope(self.looks) <= MOST_MIB),
            *((f"more {name}", grown[name], 0, grown[name] <= 0) for name in ("processes", "threads", "descriptors")),
            ("more temporary files", grown["files"], 0, grown["files"] <= 0),
            ("more series of metrics", grown["series"], MOST_SERIES, grown["series"] <= MOST_SERIES),
            ("wrong answers", sum(self.wrong.values()), 0, not self.wrong),
            ("faults in the log", len(self.faults), 0, not self.faults),
        ]

    def broken(self) -> list[str]:
        return [what for what, _, _, held in self.rows() if not held]


def mixed(good: Sequence[bytes], bad: Mapping[str, Case]) -> list[Ask]:
    """Seven good requests of ten, two with files that were made to hurt, and one whose caller does not stay."""
    fine = [Ask("200", post("/v1/classify", image)) for image in good]
    hurting = [Ask(f"{case.status} {case.code or ''}".strip(), post("/v1/classify", case.content)) for case in bad.values()]
    leaving = [Ask("0", one.request, stays) for one in fine for stays in ("half", "sent")]
    return [*some(fine, 700), *some(hurting, 200), *some(leaving, 100)]


def some(asks: Sequence[Ask], n_asks: int) -> list[Ask]:
    """So many, each as often as any other but one."""
    return [asks[number % len(asks)] for number in range(n_asks)]


def soak(package: Path, asks: Sequence[Ask], seconds: float, load: float = LOAD, service: str = SERVICE) -> Findings:
    """So much of what the service can do with these requests, for so long, once it has seen all of them."""
    with (
        TemporaryDirectory() as folder,
        operating(package, service, TMPDIR=folder, PYTHONPATH=SEEN) as server,
        crowd(server.port) as callers,
    ):
        callers.each(list(dict.fromkeys(asks)), CALLERS).result()
        rate = load * capacity(callers.keep(asks, CALLERS, seconds / 8).result().outcomes, seconds / 8)
        look(server, Path(folder))  # which is seen in the next one
        time.sleep(REST_S)
        before = look(server, Path(folder))
        with watching(server, Path(folder)) as looks:
            record = callers.offer(asks, [Phase(rate, seconds)]).result()
        time.sleep(REST_S)
        after = look(server, Path(folder))
        faults = tuple(line for line in server.said().splitlines() if any(fault in line for fault in FAULTS))
    told = Counter((outcome.kind, f"{outcome.status} {outcome.code}".strip()) for outcome in record.outcomes)
    n_right = sum(times for (due, found), times in told.items() if due == found)
    n_refused = sum(times for (due, found), times in told.items() if found == REFUSAL != due)
    wrong = {f"{due}: {found}": times for (due, found), times in told.items() if found not in (due, REFUSAL)}
    return Findings(seconds, tuple(looks), before, after, n_right, n_refused, wrong, faults)


def capacity(outcomes: Sequence[Outcome], seconds: float) -> float:
    """Answers a second."""
    return sum(outcome.due + outcome.seconds < seconds for outcome in outcomes) / seconds
