"""Serving over HTTP against FastAPI, LitServe and BentoML's batching with the same weights in torch, and against the floor.

    .venv/bin/python benchmarks/serving.py [PACKAGE] [--quick] [--json]

`make bench` makes the peers' environment. Without a package: one fitted on hymenoptera.zip with `--strategy probe`. Every
server is started as its documentation says, each peer with the settings that were fastest of those in
`measuring/peers.py`; all are up at once, but only one at a time may run. `wrk` asks with 1, 8 and 32 connections about photos
of 40 KB and of 12 megapixels; peers get forms, ours also raw bodies. In turns, medians over rounds, ratios first. wrk shares
the cores with the server that it asks, as callers on the same machine would, and takes away from the fastest one the most:
the tables say how much. The floor (benchmarks/floor.py) is the same work with no HTTP. Our server logs every request, as it
does unless told otherwise.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from floor import Floor, floor
from measuring import peers, wrk
from measuring.agreement import Agreement, Probabilities, answers, compare
from measuring.packages import packaged
from measuring.pictures import HYMENOPTERA, PHOTOS, of_a_phone, photos, variants
from measuring.servers import Server, alone, ended_in_order, free_port, running
from measuring.tables import Promise, Report, Table, markdown, ratio, say
from measuring.wrk import Outcome, multipart, raw

from graft.training.pipelines.serve import ROOT, command, environment

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from load_generator import Ask, Phase, crowd

CONNECTIONS = (1, 8, 32)
TWINS = (8,)  # of the twin, which does what a form does
RAW, FORM, TWIN = "/v1/classify, raw", "/v1/classify, form", "/classify, form"
SMALL, LARGE = "photos of 40 KB", "photos of 12 megapixels"
LEAST_OF_FLOOR = {RAW: 0.85, FORM: 0.75}
LEAST_TIMES = {SMALL: 4.0, LARGE: 5.0}
MOST_LATENCY, MOST_TAIL, MOST_APART = 1.3, 3.0, 0.01


@dataclass(frozen=True)
class Size:
    """How much is measured; more for the numbers that are kept, little to see that it works."""

    rounds: int = 2
    cell_s: float = 4.0
    longest_s: float = 10.0
    n_large: int = 6
    n_agreement: int = 1000
    half_load_s: float = 20.0
    n_ways: int = 99  # to run each peer


QUICK = Size(1, 1.0, 2.0, 2, 40, 3.0, 1)


@dataclass(frozen=True)
class Target:
    """One way to ask one server."""

    name: str
    server: Server
    ask: Callable[[bytes], bytes]


Cell = tuple[str, int, str]  # kind of photos, connections, target


class Turns:
    """Everything that is measured round by round: a cell's load goes to every target, one right after the other."""

    def __init__(self, targets: Sequence[Target], kinds: dict[str, list[bytes]], bare: Floor, size: Size) -> None:
        self.targets, self.kinds, self.bare, self.size = targets, kinds, bare, size
        self.found: dict[Cell, list[Outcome]] = {}
        self.floors: dict[str, dict[str, list[float]]] = {kind: {"threads": [], "processes": []} for kind in kinds}
        self.one_s: list[float] = []

    def round(self) -> None:
        for kind, images in self.kinds.items():
            for connections in CONNECTIONS:
                for target in self.targets:
                    if connections in asked_with(target.name):
                        self._cell((kind, connections, target.name), target, images)
                if connections == 1 and kind == SMALL:
                    self.one_s.append(self.bare.one_s(images, self.size.cell_s / 2))
            self.floors[kind]["threads"].append(self.bare.in_threads(images, self.size.cell_s))
            self.floors[kind]["processes"].append(self.bare.in_processes(images, self.size.cell_s))

    def _cell(self, cell: Cell, target: Target, images: Sequence[bytes]) -> None:
        with wrk.files([target.ask(image) for image in images]) as requests, alone(target.server) as server:
            wrk.load(server.port, requests, cell[1], 1)  # not counted: caches fill, connections open
            server.rest()
            outcome = wrk.load(server.port, requests, cell[1], self._seconds(cell))
        self.found.setdefault(cell, []).append(outcome)

    def _seconds(self, cell: Cell) -> float:
        """Longer for a slow server: what is under way at the end does not count, and must not weigh much."""
        before = self.found.get((cell[0], 1, cell[2]))
        needed = 6 * cell[1] / max(before[0].rate, 0.1) if before else 0.0
        return min(max(self.size.cell_s, needed), self.size.longest_s)

    def rates(self, kind: str, connections: int, target: str) -> list[float]:
        return [outcome.rate for outcome in self.found[kind, connections, target]]

    def floor(self, kind: str) -> list[float]:
        """Images a second, round by round, the way that is faster by its median."""
        return max(self.floors[kind].values(), key=median)


def asked_with(target: str) -> tuple[int, ...]:
    """The connections by which a target is asked."""
    return TWINS if target == TWIN else CONNECTIONS


def ours(package: Path) -> Server:
    """Graft, as `graft serve` starts it."""
    port = free_port()
    return Server("Graft", command("127.0.0.1", port), "/readyz", environment(package, port), ROOT, port)


def half_load(server: Server, images: Sequence[bytes], capacity: float, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile, in ms, of callers who come at random, half as many as it could answer."""
    asks = [Ask("photo", raw("/v1/classify", image)) for image in images]
    with alone(server), crowd(server.port) as callers:
        callers.offer(asks, [Phase(capacity / 2, 1.0)]).result()
        outcomes = callers.offer(asks, [Phase(capacity / 2, seconds)]).result().outcomes
    if any(outcome.status != 200 for outcome in outcomes):
        raise RuntimeError(f"Not every answer was one: {sorted({outcome.status for outcome in outcomes})}.")
    times = sorted(1e3 * outcome.seconds for outcome in outcomes)
    return median(times), times[int(0.99 * len(times))]


def agreements(targets: Sequence[Target], images: Sequence[bytes]) -> dict[str, Agreement]:
    """Every target against the first."""
    said: dict[str, list[Probabilities]] = {}
    for target in targets:
        with alone(target.server) as server:
            said[target.name] = answers(server.port, [target.ask(image) for image in images])
    return {target.name: compare(said[targets[0].name], said[target.name]) for target in targets[1:]}


def measure(package: Path, size: Size) -> Report:
    """All of it."""
    small = photos(PHOTOS)
    kinds = {SMALL: small, LARGE: [of_a_phone(photo, seed) for seed, photo in enumerate(small[: size.n_large])]}
    with tempfile.TemporaryDirectory() as home, ExitStack() as until_done:
        others, tried = peers.best(package, Path(home), size.n_ways, lambda server: _tried(server, small, size))
        graft = ours(package)
        targets = [
            Target(RAW, graft, lambda image: raw("/v1/classify", image)),
            Target(FORM, graft, lambda image: multipart("/v1/classify", image)),
            Target(TWIN, graft, lambda image: multipart("/classify", image)),
            *(Target(peer.name, peer, lambda image: multipart("/predict", image)) for peer in others),
        ]
        bare = until_done.enter_context(floor(package))
        until_done.enter_context(running([graft, *others]))
        say("whether all give the same answers")
        agreed = agreements(targets, variants(small + photos(HYMENOPTERA), size.n_agreement))
        agreed_large = agreements(targets, kinds[LARGE])
        turns = Turns(targets, kinds, bare, size)
        for number in range(size.rounds):
            say(f"round {number + 1} of {size.rounds}")
            turns.round()
        tail = half_load(graft, small, median(turns.rates(SMALL, 8, RAW)), size.half_load_s)
    return report(turns, tried, {SMALL: agreed, LARGE: agreed_large}, tail)


def _tried(server: Server, images: Sequence[bytes], size: Size) -> float:
    with wrk.files([multipart("/predict", image) for image in images]) as requests:
        wrk.load(server.port, requests, 8, 1)
        server.rest()
        rate = wrk.load(server.port, requests, 8, size.cell_s).rate
    say(f"{server.name}: {rate:.0f} images/s with {' '.join(server.command[4:])}")
    return rate


def report(
    turns: Turns, tried: dict[str, dict[str, float]], agreed: dict[str, dict[str, Agreement]], tail: tuple[float, float]
) -> Report:
    """Everything that was measured, against what was wanted."""
    found = Report("serving", "Serving, against other servers with the same weights, and against the floor")
    found.promises = [*promises(turns, list(tried)), *latencies(turns, tail), *_agreed(agreed[SMALL], list(tried))]
    found.tables = [*(_table(turns, kind, list(tried)) for kind in turns.kinds), _floors(turns), _answers(agreed), _ways(tried)]
    found.notes = [
        "Peers load the package's safetensors into a plain timm network, eval, channels_last, under torch.inference_mode;"
        " Pillow decodes every photo whole, then crops and scales in one step, to the same pixels.",
        f"At half of its capacity, callers coming at random, /v1/classify answers in {tail[0]:.1f} ms (p50), {tail[1]:.1f} ms"
        f" (p99); one image takes {1e3 * median(turns.one_s):.2f} ms in process.",
        "wrk's processor: the share of one core that the load generator took itself.",
    ]
    outcomes = {" | ".join(map(str, cell)): [asdict(outcome) for outcome in several] for cell, several in turns.found.items()}
    found.measured = {"outcomes": outcomes, "floors": turns.floors, "one_s": turns.one_s, "tried": tried, "half_load_ms": tail}
    return found


def times_best(turns: Turns, kind: str, connections: int, target: str, others: Sequence[str]) -> float:
    """How many times as fast as the fastest of the others."""
    mine = turns.rates(kind, connections, target)
    return min(ratio(mine, turns.rates(kind, connections, other)) for other in others)


def promises(turns: Turns, others: Sequence[str]) -> list[Promise]:
    """Throughput, of the floor and of the best peer that gets the very same requests."""
    small = [
        Promise(
            f"{target}, {n} connections, of the floor",
            ratio(turns.rates(SMALL, n, target), turns.floor(SMALL)),
            least,
        )
        for target, least in LEAST_OF_FLOOR.items()
        for n in (8, 32)
    ]
    against = [
        Promise(f"{kind}, {n} connections, forms: times the best peer", times_best(turns, kind, n, FORM, others), least)
        for kind, least in LEAST_TIMES.items()
        for n in (8, 32)
    ]
    return small + against


def latencies(turns: Turns, tail: tuple[float, float]) -> list[Promise]:
    alone_ms = [outcome.p50_ms for outcome in turns.found[SMALL, 1, RAW]]
    in_process = [1e3 * seconds for seconds in turns.one_s]
    return [
        Promise("p50 at 1 connection, over one image in process", ratio(alone_ms, in_process), MOST_LATENCY, at_most=True),
        Promise("p99 at half load, over its p50", tail[1] / tail[0], MOST_TAIL, at_most=True),
    ]


def _agreed(agreed: dict[str, Agreement], others: Sequence[str]) -> list[Promise]:
    furthest = max(agreed[name].furthest for name in others)
    n_other = sum(agreed[name].n_images - agreed[name].n_same for name in others)
    n_images = agreed[others[0]].n_images
    return [
        Promise(f"another top label than a peer's, of {n_images:,} images", n_other, 0, at_most=True),
        Promise("furthest that a probability is from a peer's", furthest, MOST_APART, at_most=True),
    ]


def _table(turns: Turns, kind: str, others: Sequence[str]) -> Table:
    rows = []
    for target in turns.targets:
        for n in asked_with(target.name):
            cells = turns.found[kind, n, target.name]
            middle = {key: median(getattr(cell, key) for cell in cells) for key in ("rate", "p50_ms", "p99_ms", "processor")}
            rows.append(
                (
                    target.name,
                    n,
                    ratio(turns.rates(kind, n, target.name), turns.floor(kind)),
                    times_best(turns, kind, n, target.name, others),
                    *middle.values(),
                    sum(cell.broken for cell in cells),
                )
            )
    columns = ("server", "connections", "of the floor", "times the best peer", "images/s", "p50 ms", "p99 ms")
    return Table(kind, (*columns, "wrk's processor", "errors"), tuple(rows))


def _floors(turns: Turns) -> Table:
    rows = tuple((kind, *(median(rates) for rates in ways.values())) for kind, ways in turns.floors.items())
    return Table("The floor: decode and engine, no HTTP, images/s", ("photos", "threads", "processes"), rows)


def _answers(agreed: dict[str, dict[str, Agreement]]) -> Table:
    rows = tuple(
        (kind, name, f"{found.n_same:,} of {found.n_images:,}", found.furthest)
        for kind, each in agreed.items()
        for name, found in each.items()
    )
    return Table(f"Answers, against {RAW}", ("photos", "server", "same top label", "largest difference"), rows)


def _ways(tried: dict[str, dict[str, float]]) -> Table:
    rows = tuple((name, way, rate / max(rates.values()), rate) for name, rates in tried.items() for way, rate in rates.items())
    return Table("What was tried for each peer (8 connections)", ("peer", "settings", "of its best", "images/s"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wrk.check()
    peers.check()
    ended_in_order()
    begun = time.monotonic()
    with packaged(arguments.package) as package:
        found = measure(package, QUICK if arguments.quick else Size())
    found.seconds = time.monotonic() - begun
    print(json.dumps(found.record()) if arguments.json else markdown(found.record()))


if __name__ == "__main__":
    main()
