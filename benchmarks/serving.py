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

from floor import Floor, load_floor
from measuring import peers, wrk
from measuring.agreement import Agreement, Probabilities, compare, fetch_predictions
from measuring.packages import given_or_fitted_package
from measuring.pictures import HYMENOPTERA, PHOTOS, phone_photo, read_photos, variants
from measuring.servers import Server, exclusive_server, exit_on_sigterm, free_port, suspended_servers
from measuring.tables import Report, Table, Target, log, median_ratio, to_markdown
from measuring.wrk import LoadResult, multipart_request, raw_request

from graft.training.pipelines.serve import command, environment
from graft.training.runtime.import_root import IMPORT_ROOT

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from load_generator import Phase, RequestSpec, start_load_generator

CONNECTIONS = (1, 8, 32)
ALIAS_CONNECTIONS = (8,)  # connections for /classify, an alias of /v1/classify
RAW, FORM, ALIAS = "/v1/classify, raw", "/v1/classify, form", "/classify, form"
SMALL, LARGE = "photos of 40 KB", "photos of 12 megapixels"
MIN_FLOOR_RATIO = {RAW: 0.85, FORM: 0.75}
MIN_SPEEDUP = {SMALL: 4.0, LARGE: 5.0}
MAX_LATENCY_RATIO, MAX_TAIL_RATIO, MAX_DIFFERENCE = 1.3, 3.0, 0.01


@dataclass(frozen=True)
class Config:
    """Amount of measurement: the defaults for saved results, `QUICK` for a smoke test."""

    rounds: int = 2
    load_s: float = 4.0
    max_load_s: float = 10.0
    n_large: int = 6
    n_agreement: int = 1000
    half_load_s: float = 20.0
    n_settings: int = 99  # maximum number of settings tried per peer


QUICK = Config(1, 1.0, 2.0, 2, 40, 3.0, 1)


@dataclass(frozen=True)
class Endpoint:
    """One server and one way to build its requests."""

    name: str
    server: Server
    build_request: Callable[[bytes], bytes]


Cell = tuple[str, int, str]  # image set, connections, endpoint


class Measurements:
    """Runs rounds of loads and stores their results; within a round, the endpoints are measured right after each other."""

    def __init__(
        self, endpoints: Sequence[Endpoint], image_sets: dict[str, list[bytes]], floor_runner: Floor, config: Config
    ) -> None:
        self.endpoints, self.image_sets, self.floor_runner, self.config = endpoints, image_sets, floor_runner, config
        self.results: dict[Cell, list[LoadResult]] = {}
        self.floors: dict[str, dict[str, list[float]]] = {name: {"threads": [], "processes": []} for name in image_sets}
        self.single_image_s: list[float] = []

    def run_round(self) -> None:
        for image_set, images in self.image_sets.items():
            for connections in CONNECTIONS:
                for endpoint in self.endpoints:
                    if connections in connections_for(endpoint.name):
                        self._measure((image_set, connections, endpoint.name), endpoint, images)
                if connections == 1 and image_set == SMALL:
                    self.single_image_s.append(self.floor_runner.single_image_s(images, self.config.load_s / 2))
            self.floors[image_set]["threads"].append(self.floor_runner.thread_rate(images, self.config.load_s))
            self.floors[image_set]["processes"].append(self.floor_runner.process_rate(images, self.config.load_s))

    def _measure(self, cell: Cell, endpoint: Endpoint, images: Sequence[bytes]) -> None:
        with (
            wrk.request_files([endpoint.build_request(image) for image in images]) as requests,
            exclusive_server(endpoint.server) as server,
        ):
            wrk.run_load(server.port, requests, cell[1], 1)  # warm-up
            server.wait_until_idle()
            result = wrk.run_load(server.port, requests, cell[1], self._load_seconds(cell))
        self.results.setdefault(cell, []).append(result)

    def _load_seconds(self, cell: Cell) -> float:
        """Duration of a load, longer for a slow server: requests unfinished at the end do not count and must be few."""
        single = self.results.get((cell[0], 1, cell[2]))
        needed_s = 6 * cell[1] / max(single[0].rate, 0.1) if single else 0.0
        return min(max(self.config.load_s, needed_s), self.config.max_load_s)

    def rates(self, image_set: str, connections: int, endpoint: str) -> list[float]:
        return [result.rate for result in self.results[image_set, connections, endpoint]]

    def floor(self, image_set: str) -> list[float]:
        """Images per second in each round, of the way with the higher median."""
        return max(self.floors[image_set].values(), key=median)


def connections_for(endpoint: str) -> tuple[int, ...]:
    """Numbers of connections to measure for an endpoint."""
    return ALIAS_CONNECTIONS if endpoint == ALIAS else CONNECTIONS


def graft_server(package: Path) -> Server:
    """Graft's server, started as by `graft serve`."""
    port = free_port()
    return Server("Graft", command("127.0.0.1", port), "/readyz", environment(package, port), IMPORT_ROOT, port)


def half_load(server: Server, images: Sequence[bytes], capacity: float, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile of the latency in ms with random arrivals at half of the capacity."""
    requests = [RequestSpec("photo", raw_request("/v1/classify", image)) for image in images]
    with exclusive_server(server), start_load_generator(server.port) as clients:
        clients.open_loop(requests, [Phase(capacity / 2, 1.0)]).result()
        outcomes = clients.open_loop(requests, [Phase(capacity / 2, seconds)]).result().outcomes
    if any(outcome.status != 200 for outcome in outcomes):
        raise RuntimeError(f"Not all responses have status 200: {sorted({outcome.status for outcome in outcomes})}.")
    times = sorted(1e3 * outcome.seconds for outcome in outcomes)
    return median(times), times[int(0.99 * len(times))]


def agreements(endpoints: Sequence[Endpoint], images: Sequence[bytes]) -> dict[str, Agreement]:
    """Compare the predictions of every endpoint with those of the first."""
    predictions: dict[str, list[Probabilities]] = {}
    for endpoint in endpoints:
        with exclusive_server(endpoint.server) as server:
            predictions[endpoint.name] = fetch_predictions(server.port, [endpoint.build_request(image) for image in images])
    return {endpoint.name: compare(predictions[endpoints[0].name], predictions[endpoint.name]) for endpoint in endpoints[1:]}


def measure(package: Path, config: Config) -> Report:
    """Run all measurements."""
    small = read_photos(PHOTOS)
    image_sets = {SMALL: small, LARGE: [phone_photo(photo, seed) for seed, photo in enumerate(small[: config.n_large])]}
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        peer_servers, tried = peers.find_fastest(
            package, Path(home), config.n_settings, lambda server: _measure_peer(server, small, config)
        )
        graft = graft_server(package)
        endpoints = [
            Endpoint(RAW, graft, lambda image: raw_request("/v1/classify", image)),
            Endpoint(FORM, graft, lambda image: multipart_request("/v1/classify", image)),
            Endpoint(ALIAS, graft, lambda image: multipart_request("/classify", image)),
            *(Endpoint(peer.name, peer, lambda image: multipart_request("/predict", image)) for peer in peer_servers),
        ]
        floor_runner = stack.enter_context(load_floor(package))
        stack.enter_context(suspended_servers([graft, *peer_servers]))
        log("comparing predictions")
        agreement = agreements(endpoints, variants(small + read_photos(HYMENOPTERA), config.n_agreement))
        agreement_large = agreements(endpoints, image_sets[LARGE])
        measurements = Measurements(endpoints, image_sets, floor_runner, config)
        for round_index in range(config.rounds):
            log(f"round {round_index + 1} of {config.rounds}")
            measurements.run_round()
        half_load_ms = half_load(graft, small, median(measurements.rates(SMALL, 8, RAW)), config.half_load_s)
    return report(measurements, tried, {SMALL: agreement, LARGE: agreement_large}, half_load_ms)


def _measure_peer(server: Server, images: Sequence[bytes], config: Config) -> float:
    with wrk.request_files([multipart_request("/predict", image) for image in images]) as requests:
        wrk.run_load(server.port, requests, 8, 1)
        server.wait_until_idle()
        rate = wrk.run_load(server.port, requests, 8, config.load_s).rate
    log(f"{server.name}: {rate:.0f} images/s with {' '.join(server.command[4:])}")
    return rate


def report(
    measurements: Measurements,
    tried: dict[str, dict[str, float]],
    agreements_by_set: dict[str, dict[str, Agreement]],
    half_load_ms: tuple[float, float],
) -> Report:
    """Build the report: targets, tables and notes."""
    result = Report("serving", "Serving: comparison with other servers and with the floor")
    result.promises = [
        *throughput_targets(measurements, list(tried)),
        *latency_targets(measurements, half_load_ms),
        *_agreement_targets(agreements_by_set[SMALL], list(tried)),
    ]
    result.tables = [
        *(_results_table(measurements, name, list(tried)) for name in measurements.image_sets),
        _floor_table(measurements),
        _agreement_table(agreements_by_set),
        _settings_table(tried),
    ]
    result.notes = [
        "Peers load the package's safetensors into a plain timm network: eval mode, channels_last, torch.inference_mode."
        " Pillow decodes each photo at full size, then crops and resizes in one step, with the same geometry.",
        f"At half of the capacity with random arrivals, the latency of /v1/classify is {half_load_ms[0]:.1f} ms (p50) and"
        f" {half_load_ms[1]:.1f} ms (p99); one image takes {1e3 * median(measurements.single_image_s):.2f} ms in process.",
        "wrk CPU: CPU use of the load generator, as a fraction of one core.",
    ]
    outcomes = {
        " | ".join(map(str, cell)): [asdict(load_result) for load_result in results]
        for cell, results in measurements.results.items()
    }
    result.measured = {
        "outcomes": outcomes,
        "floors": measurements.floors,
        "one_s": measurements.single_image_s,
        "tried": tried,
        "half_load_ms": half_load_ms,
    }
    return result


def speedup_over_best(
    measurements: Measurements, image_set: str, connections: int, endpoint: str, peer_names: Sequence[str]
) -> float:
    """Speed-up over the fastest of the other servers."""
    rates = measurements.rates(image_set, connections, endpoint)
    return min(median_ratio(rates, measurements.rates(image_set, connections, other)) for other in peer_names)


def throughput_targets(measurements: Measurements, peer_names: Sequence[str]) -> list[Target]:
    """Throughput relative to the floor and to the best peer, with the same requests."""
    floor_targets = [
        Target(
            f"{target}, {n} connections: ratio to the floor",
            median_ratio(measurements.rates(SMALL, n, target), measurements.floor(SMALL)),
            minimum,
        )
        for target, minimum in MIN_FLOOR_RATIO.items()
        for n in (8, 32)
    ]
    peer_targets = [
        Target(
            f"{kind}, {n} connections, form: speed-up over the best peer",
            speedup_over_best(measurements, kind, n, FORM, peer_names),
            minimum,
        )
        for kind, minimum in MIN_SPEEDUP.items()
        for n in (8, 32)
    ]
    return floor_targets + peer_targets


def latency_targets(measurements: Measurements, half_load_ms: tuple[float, float]) -> list[Target]:
    single_ms = [outcome.p50_ms for outcome in measurements.results[SMALL, 1, RAW]]
    in_process = [1e3 * seconds for seconds in measurements.single_image_s]
    return [
        Target(
            "p50 at 1 connection / time of one image in process",
            median_ratio(single_ms, in_process),
            MAX_LATENCY_RATIO,
            at_most=True,
        ),
        Target("p99 / p50 at half load", half_load_ms[1] / half_load_ms[0], MAX_TAIL_RATIO, at_most=True),
    ]


def _agreement_targets(agreements_by_server: dict[str, Agreement], peer_names: Sequence[str]) -> list[Target]:
    max_difference = max(agreements_by_server[name].max_difference for name in peer_names)
    n_different = sum(agreements_by_server[name].n_images - agreements_by_server[name].n_same_top1 for name in peer_names)
    n_images = agreements_by_server[peer_names[0]].n_images
    return [
        Target(f"images of {n_images:,} with a different top label than a peer", n_different, 0, at_most=True),
        Target("largest difference in a probability from a peer", max_difference, MAX_DIFFERENCE, at_most=True),
    ]


def _results_table(measurements: Measurements, image_set: str, peer_names: Sequence[str]) -> Table:
    rows = []
    for endpoint in measurements.endpoints:
        for n in connections_for(endpoint.name):
            results = measurements.results[image_set, n, endpoint.name]
            medians = {
                key: median(getattr(result, key) for result in results) for key in ("rate", "p50_ms", "p99_ms", "processor")
            }
            rows.append(
                (
                    endpoint.name,
                    n,
                    median_ratio(measurements.rates(image_set, n, endpoint.name), measurements.floor(image_set)),
                    speedup_over_best(measurements, image_set, n, endpoint.name, peer_names),
                    *medians.values(),
                    sum(result.broken for result in results),
                )
            )
    columns = ("server", "connections", "ratio to floor", "speed-up over best peer", "images/s", "p50 ms", "p99 ms")
    return Table(image_set, (*columns, "wrk CPU", "errors"), tuple(rows))


def _floor_table(measurements: Measurements) -> Table:
    rows = tuple(
        (kind, *(median(rates) for rates in rates_by_way.values())) for kind, rates_by_way in measurements.floors.items()
    )
    return Table("Floor (decoding and inference without HTTP), images/s", ("photos", "threads", "processes"), rows)


def _agreement_table(agreements_by_set: dict[str, dict[str, Agreement]]) -> Table:
    rows = tuple(
        (kind, name, f"{agreement.n_same_top1:,} of {agreement.n_images:,}", agreement.max_difference)
        for kind, agreements_by_server in agreements_by_set.items()
        for name, agreement in agreements_by_server.items()
    )
    return Table(f"Agreement with {RAW}", ("photos", "server", "same top label", "largest difference"), rows)


def _settings_table(tried: dict[str, dict[str, float]]) -> Table:
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
    wrk.check_installed()
    peers.check_installed()
    exit_on_sigterm()
    started = time.monotonic()
    with given_or_fitted_package(arguments.package) as package:
        result = measure(package, QUICK if arguments.quick else Config())
    result.seconds = time.monotonic() - started
    print(json.dumps(result.to_dict()) if arguments.json else to_markdown(result.to_dict()))


if __name__ == "__main__":
    main()
