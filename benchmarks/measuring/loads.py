"""Loads on several servers, round by round, and the throughput of the floor beside them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from floor import Floor

from measuring import wrk
from measuring.servers import Server, exclusive_server
from measuring.tables import median_ratio
from measuring.wrk import LoadResult

SMALL, LARGE = "photos of 40 KB", "photos of 12 megapixels"
RAW, FORM = "raw", "form"  # the image as the body, or in a multipart form
N_LOADS_OF_SLOWEST = 6  # a load lasts at least as many times as long as the requests in flight take
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Config:
    """Amount of measurement: the defaults for saved results, `QUICK` for a smoke test."""

    rounds: int = 2
    load_s: float = 3.0
    max_load_s: float = 8.0
    n_large: int = 6
    n_agreement: int = 300
    half_load_s: float = 12.0
    n_settings: int = 99  # maximum number of settings tried per peer


QUICK = Config(1, 1.0, 2.0, 2, 40, 3.0, 1)


@dataclass(frozen=True)
class Endpoint:
    """One server and one way to build its requests.

    Attributes:
        name: of the row in the tables.
        kind: `RAW` or `FORM`; only endpoints of one kind are compared.
        connections: numbers of connections to measure, by image set.
    """

    name: str
    kind: str
    server: Server
    build_request: Callable[[bytes], bytes]
    connections: dict[str, tuple[int, ...]]


Cell = tuple[str, int, str]  # image set, connections, endpoint


class Measurements:
    """Runs rounds of loads and stores their results; within a round, the endpoints are measured right after each other.

    Attributes:
        results: one load per round of each cell.
        floors: images per second of each way to use all cores, by image set.
        single_image_s: seconds for one image in this process.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], image_sets: dict[str, list[bytes]], floor_runner: Floor, config: Config
    ) -> None:
        self.endpoints, self.image_sets, self.floor_runner, self.config = endpoints, image_sets, floor_runner, config
        self.results: dict[Cell, list[LoadResult]] = {}
        self.floors: dict[str, dict[str, list[float]]] = {name: {"threads": [], "processes": []} for name in image_sets}
        self.single_image_s: list[float] = []

    def run_round(self) -> None:
        for image_set, images in self.image_sets.items():
            for connections, endpoint in self.cells(image_set):
                self._measure((image_set, connections, endpoint.name), endpoint, images)
            if image_set == SMALL:
                self.single_image_s.append(self.floor_runner.single_image_s(images, self.config.load_s / 2))
            self.floors[image_set]["threads"].append(self.floor_runner.thread_rate(images, self.config.load_s))
            self.floors[image_set]["processes"].append(self.floor_runner.process_rate(images, self.config.load_s))

    def cells(self, image_set: str) -> Iterator[tuple[int, Endpoint]]:
        """Connections and endpoint of each load, those that are compared with each other in a row."""
        numbers = sorted({number for endpoint in self.endpoints for number in endpoint.connections[image_set]})
        for number in numbers:
            yield from ((number, endpoint) for endpoint in self.endpoints if number in endpoint.connections[image_set])

    def _measure(self, cell: Cell, endpoint: Endpoint, images: Sequence[bytes]) -> None:
        requests = [endpoint.build_request(image) for image in images]
        with exclusive_server(endpoint.server) as server:
            result = run_load(server, requests, cell[1], self._load_seconds(cell))
        self.results.setdefault(cell, []).append(result)

    def _load_seconds(self, cell: Cell) -> float:
        """Duration of a load, longer for a slow server: requests unfinished at the end do not count and must be few."""
        known = next((found for (kind, _, name), found in self.results.items() if (kind, name) == (cell[0], cell[2])), None)
        needed_s = N_LOADS_OF_SLOWEST * cell[1] / max(known[0].rate, 0.1) if known else 0.0
        return min(max(self.config.load_s, needed_s), self.config.max_load_s)

    def has(self, image_set: str, connections: int, endpoint: str) -> bool:
        return (image_set, connections, endpoint) in self.results

    def rates(self, image_set: str, connections: int, endpoint: str) -> list[float]:
        return [result.rate for result in self.results[image_set, connections, endpoint]]

    def server_ms(self, image_set: str, connections: int, endpoint: str) -> list[float]:
        """Processor milliseconds of the whole server for each image, a figure that a busy machine hardly changes."""
        return [result.server_ms for result in self.results[image_set, connections, endpoint]]

    def processor_ratio(self, image_set: str, connections: int, endpoint: str, peers: Sequence[str]) -> float:
        """Processor time of an endpoint over that of the thriftiest of those `peers` that were measured in the same way."""
        own = self.server_ms(image_set, connections, endpoint)
        measured = [peer for peer in peers if self.has(image_set, connections, peer)]
        return max(median_ratio(own, self.server_ms(image_set, connections, peer)) for peer in measured)

    def floor(self, image_set: str) -> list[float]:
        """Images per second in each round, of the way with the higher median."""
        return max(self.floors[image_set].values(), key=median)

    def speedup_over_best(self, image_set: str, connections: int, endpoint: str, peers: Sequence[str]) -> float:
        """Speed-up of an endpoint over the fastest of those `peers` that were measured in the same way."""
        rates = self.rates(image_set, connections, endpoint)
        measured = [peer for peer in peers if self.has(image_set, connections, peer)]
        return min(median_ratio(rates, self.rates(image_set, connections, peer)) for peer in measured)


def run_load(server: Server, requests: Sequence[bytes], connections: int, seconds: float) -> LoadResult:
    """Warm a running server up and measure one load."""
    with wrk.request_files(requests) as files:
        wrk.run_load(server.port, files, connections, WARM_UP_S)
        server.wait_until_idle()
        used_s = server.cpu_seconds()
        result = wrk.run_load(server.port, files, connections, seconds)
        return replace(result, server_ms=1e3 * (server.cpu_seconds() - used_s) / max(1, result.n_good))
