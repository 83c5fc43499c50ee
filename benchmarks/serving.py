"""Serving over HTTP compared with FastAPI, LitServe and BentoML batching (same weights in torch), and with the floor.

    .venv/bin/python benchmarks/serving.py [PACKAGE] [--quick] [--json]

`make bench` creates the environment of the peers. Without a package, one is fitted on hymenoptera.zip with `--strategy probe`.
Each server is started as its documentation shows, each peer with the fastest of the settings in `measuring/peers.py`. All
servers are started, but only one at a time runs; the others are suspended. `wrk` sends photos of 40 KB and of 12 megapixels
over 1, 8 and 32 connections: multipart forms to all servers, and also raw bodies to Graft. Servers alternate; the tables show
medians over rounds, ratios first. wrk shares the cores with the server, which costs the fastest server most; the tables show
its CPU use. The floor (benchmarks/floor.py) is the same work without HTTP. Graft logs every request, as by default.
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
TWINS = (8,)  # connections for /classify, an alias of /v1/classify
RAW, FORM, TWIN = "/v1/classify, raw", "/v1/classify, form", "/classify, form"
SMALL, LARGE = "photos of 40 KB", "photos of 12 megapixels"
LEAST_OF_FLOOR = {RAW: 0.85, FORM: 0.75}
LEAST_TIMES = {SMALL: 4.0, LARGE: 5.0}
MOST_LATENCY, MOST_TAIL, MOST_APART = 1.3, 3.0, 0.01


@dataclass(frozen=True)
class Size:
    """Amount of measurement: the defaults for saved results, `QUICK` for a smoke test."""

    rounds: int = 2
    cell_s: float = 4.0
    longest_s: float = 10.0
    n_large: int = 6
    n_agreement: int = 1000
    half_load_s: float = 20.0
    n_ways: int = 99  # maximum number of settings tried per peer


QUICK = Size(1, 1.0, 2.0, 2, 40, 3.0, 1)


@dataclass(frozen=True)
class Target:
    """One server and one way to build its requests."""

    name: str
    server: Server
    ask: Callable[[bytes], bytes]


Cell = tuple[str, int, str]  # image set, connections, endpoint


class Turns:
    """Runs rounds of loads and stores their results; within a round, the endpoints are measured right after each other."""

    def __init__(self, targets: Sequence[Target], kinds: dict[str, list[bytes]], bare: Floor, size: Size) -> None:
        self.targets, self.kinds, self.bare, self.size = targets, kinds, bare, size
        self.found: dict[Cell, list[Outcome]] = {}
        self.floors: dict[str, dict[str, list[float]]] = {name: {"threads": [], "processes": []} for name in kinds}
        self.one_s: list[float] = []

    def round(self) -> None:
        for image_set, images in self.kinds.items():
            for connections in CONNECTIONS:
                for endpoint in self.targets:
                    if connections in asked_with(endpoint.name):
                        self._cell((image_set, connections, endpoint.name), endpoint, images)
                if connections == 1 and image_set == SMALL:
                    self.one_s.append(self.bare.one_s(images, self.size.cell_s / 2))
            self.floors[image_set]["threads"].append(self.bare.in_threads(images, self.size.cell_s))
            self.floors[image_set]["processes"].append(self.bare.in_processes(images, self.size.cell_s))

    def _cell(self, cell: Cell, target: Target, images: Sequence[bytes]) -> None:
        with wrk.files([target.ask(image) for image in images]) as requests, alone(target.server) as server:
            wrk.load(server.port, requests, cell[1], 1)  # warm-up
            server.rest()
            result = wrk.load(server.port, requests, cell[1], self._seconds(cell))
        self.found.setdefault(cell, []).append(result)

    def _seconds(self, cell: Cell) -> float:
        """Duration of a load, longer for a slow server: requests unfinished at the end do not count and must be few."""
        single = self.found.get((cell[0], 1, cell[2]))
        needed_s = 6 * cell[1] / max(single[0].rate, 0.1) if single else 0.0
        return min(max(self.size.cell_s, needed_s), self.size.longest_s)

    def rates(self, kind: str, connections: int, target: str) -> list[float]:
        return [result.rate for result in self.found[kind, connections, target]]

    def floor(self, kind: str) -> list[float]:
        """Images per second in each round, of the way with the higher median."""
        return max(self.floors[kind].values(), key=median)


def asked_with(target: str) -> tuple[int, ...]:
    """Numbers of connections to measure for an endpoint."""
    return TWINS if target == TWIN else CONNECTIONS


def ours(package: Path) -> Server:
    """Graft's server, started as by `graft serve`."""
    port = free_port()
    return Server("Graft", command("127.0.0.1", port), "/readyz", environment(package, port), ROOT, port)


def half_load(server: Server, images: Sequence[bytes], capacity: float, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile of the latency in ms with random arrivals at half of the capacity."""
    requests = [Ask("photo", raw("/v1/classify", image)) for image in images]
    with alone(server), crowd(server.port) as clients:
        clients.offer(requests, [Phase(capacity / 2, 1.0)]).result()
        outcomes = clients.offer(requests, [Phase(capacity / 2, seconds)]).result().outcomes
    if any(outcome.status != 200 for outcome in outcomes):
        raise RuntimeError(f"Not all responses have status 200: {sorted({outcome.status for outcome in outcomes})}.")
    times = sorted(1e3 * outcome.seconds for outcome in outcomes)
    return median(times), times[int(0.99 * len(times))]


def agreements(targets: Sequence[Target], images: Sequence[bytes]) -> dict[str, Agreement]:
    """Compare the predictions of every endpoint with those of the first."""
    predictions: dict[str, list[Probabilities]] = {}
    for endpoint in targets:
        with alone(endpoint.server) as server:
            predictions[endpoint.name] = answers(server.port, [endpoint.ask(image) for image in images])
    return {endpoint.name: compare(predictions[targets[0].name], predictions[endpoint.name]) for endpoint in targets[1:]}


def measure(package: Path, size: Size) -> Report:
    """Run all measurements."""
    small = photos(PHOTOS)
    image_sets = {SMALL: small, LARGE: [of_a_phone(photo, seed) for seed, photo in enumerate(small[: size.n_large])]}
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        peer_servers, tried = peers.best(package, Path(home), size.n_ways, lambda server: _tried(server, small, size))
        graft = ours(package)
        endpoints = [
            Target(RAW, graft, lambda image: raw("/v1/classify", image)),
            Target(FORM, graft, lambda image: multipart("/v1/classify", image)),
            Target(TWIN, graft, lambda image: multipart("/classify", image)),
            *(Target(peer.name, peer, lambda image: multipart("/predict", image)) for peer in peer_servers),
        ]
        floor_runner = stack.enter_context(floor(package))
        stack.enter_context(running([graft, *peer_servers]))
        say("comparing predictions")
        agreement = agreements(endpoints, variants(small + photos(HYMENOPTERA), size.n_agreement))
        agreement_large = agreements(endpoints, image_sets[LARGE])
        measurements = Turns(endpoints, image_sets, floor_runner, size)
        for round_index in range(size.rounds):
            say(f"round {round_index + 1} of {size.rounds}")
            measurements.round()
        half_load_ms = half_load(graft, small, median(measurements.rates(SMALL, 8, RAW)), size.half_load_s)
    return report(measurements, tried, {SMALL: agreement, LARGE: agreement_large}, half_load_ms)


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
    """Build the report: targets, tables and notes."""
    result = Report("serving", "Serving: comparison with other servers and with the floor")
    result.promises = [*promises(turns, list(tried)), *latencies(turns, tail), *_agreed(agreed[SMALL], list(tried))]
    result.tables = [
        *(_table(turns, name, list(tried)) for name in turns.kinds),
        _floors(turns),
        _answers(agreed),
        _ways(tried),
    ]
    result.notes = [
        "Peers load the package's safetensors into a plain timm network: eval mode, channels_last, torch.inference_mode."
        " Pillow decodes each photo at full size, then crops and resizes in one step, with the same geometry.",
        f"At half of the capacity with random arrivals, the latency of /v1/classify is {tail[0]:.1f} ms (p50) and"
        f" {tail[1]:.1f} ms (p99); one image takes {1e3 * median(turns.one_s):.2f} ms in process.",
        "wrk CPU: CPU use of the load generator, as a fraction of one core.",
    ]
    outcomes = {
        " | ".join(map(str, cell)): [asdict(load_result) for load_result in results] for cell, results in turns.found.items()
    }
    result.measured = {"outcomes": outcomes, "floors": turns.floors, "one_s": turns.one_s, "tried": tried, "half_load_ms": tail}
    return result


def times_best(turns: Turns, kind: str, connections: int, target: str, others: Sequence[str]) -> float:
    """Speed-up over the fastest of the other servers."""
    rates = turns.rates(kind, connections, target)
    return min(ratio(rates, turns.rates(kind, connections, other)) for other in others)


def promises(turns: Turns, others: Sequence[str]) -> list[Promise]:
    """Throughput relative to the floor and to the best peer, with the same requests."""
    floor_targets = [
        Promise(
            f"{target}, {n} connections: ratio to the floor",
            ratio(turns.rates(SMALL, n, target), turns.floor(SMALL)),
            minimum,
        )
        for target, minimum in LEAST_OF_FLOOR.items()
        for n in (8, 32)
    ]
    peer_targets = [
        Promise(
            f"{kind}, {n} connections, form: speed-up over the best peer", times_best(turns, kind, n, FORM, others), minimum
        )
        for kind, minimum in LEAST_TIMES.items()
        for n in (8, 32)
    ]
    return floor_targets + peer_targets


def latencies(turns: Turns, tail: tuple[float, float]) -> list[Promise]:
    single_ms = [outcome.p50_ms for outcome in turns.found[SMALL, 1, RAW]]
    in_process = [1e3 * seconds for seconds in turns.one_s]
    return [
        Promise("p50 at 1 connection / time of one image in process", ratio(single_ms, in_process), MOST_LATENCY, at_most=True),
        Promise("p99 / p50 at half load", tail[1] / tail[0], MOST_TAIL, at_most=True),
    ]


def _agreed(agreed: dict[str, Agreement], others: Sequence[str]) -> list[Promise]:
    max_difference = max(agreed[name].furthest for name in others)
    n_different = sum(agreed[name].n_images - agreed[name].n_same for name in others)
    n_images = agreed[others[0]].n_images
    return [
        Promise(f"images of {n_images:,} with a different top label than a peer", n_different, 0, at_most=True),
        Promise("largest difference in a probability from a peer", max_difference, MOST_APART, at_most=True),
    ]


def _table(turns: Turns, kind: str, others: Sequence[str]) -> Table:
    rows = []
    for endpoint in turns.targets:
        for n in asked_with(endpoint.name):
            results = turns.found[kind, n, endpoint.name]
            medians = {
                key: median(getattr(result, key) for result in results) for key in ("rate", "p50_ms", "p99_ms", "processor")
            }
            rows.append(
                (
                    endpoint.name,
                    n,
                    ratio(turns.rates(kind, n, endpoint.name), turns.floor(kind)),
                    times_best(turns, kind, n, endpoint.name, others),
                    *medians.values(),
                    sum(result.broken for result in results),
                )
            )
    columns = ("server", "connections", "ratio to floor", "speed-up over best peer", "images/s", "p50 ms", "p99 ms")
    return Table(kind, (*columns, "wrk CPU", "errors"), tuple(rows))


def _floors(turns: Turns) -> Table:
    rows = tuple((kind, *(median(rates) for rates in rates_by_way.values())) for kind, rates_by_way in turns.floors.items())
    return Table("Floor (decoding and inference without HTTP), images/s", ("photos", "threads", "processes"), rows)


def _answers(agreed: dict[str, dict[str, Agreement]]) -> Table:
    rows = tuple(
        (kind, name, f"{agreement.n_same:,} of {agreement.n_images:,}", agreement.furthest)
        for kind, agreements_by_server in agreed.items()
        for name, agreement in agreements_by_server.items()
    )
    return Table(f"Agreement with {RAW}", ("photos", "server", "same top label", "largest difference"), rows)


def _ways(tried: dict[str, dict[str, float]]) -> Table:
    rows = tuple(
        (name, settings, rate / max(rates.values()), rate) for name, rates in tried.items() for settings, rate in rates.items()
    )
    return Table("Settings tried for each peer (8 connections)", ("peer", "settings", "ratio to its best", "images/s"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path, nargs="?")
    parser.add_argument("--quick", action="store_true", help="smoke test with few measurements")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wrk.check()
    peers.check()
    ended_in_order()
    started = time.monotonic()
    with packaged(arguments.package) as package:
        result = measure(package, QUICK if arguments.quick else Size())
    result.seconds = time.monotonic() - started
    print(json.dumps(result.record()) if arguments.json else markdown(result.record()))


if __name__ == "__main__":
    main()
