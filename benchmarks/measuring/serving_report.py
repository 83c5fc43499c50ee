"""The report of serving.py: targets first, then tables with the strongest peers first."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from measuring.agreement import Agreement
from measuring.loads import FORM, LARGE, RAW, SMALL, Measurements
from measuring.tables import Report, Table, Target, median_ratio

GRAFT = {RAW: "/v1/classify, raw", FORM: "/v1/classify, form"}
MIN_FLOOR_RATIO = {RAW: 0.85, FORM: 0.75}
MIN_SPEEDUP = {SMALL: 1.5, LARGE: 2.0}
MAX_PROCESSOR_RATIO = 0.65
MAX_LATENCY_RATIO, MAX_TAIL_RATIO, MAX_DIFFERENCE = 1.3, 3.0, 0.01
TARGET_CONNECTIONS = (8, 32)


@dataclass(frozen=True)
class ServingResults:
    """Everything that serving.py measured.

    Attributes:
        tried: responses per second of all settings that were tried, by peer.
        agreements: with Graft, by image set and endpoint.
        half_load_ms: median and 99th percentile of the latency at half of the capacity.
    """

    measurements: Measurements
    tried: dict[str, dict[str, float]]
    agreements: dict[str, dict[str, Agreement]]
    half_load_ms: tuple[float, float]

    def peers(self, kind: str) -> list[str]:
        """Names of the endpoints of peers that take this kind of request."""
        return [point.name for point in self.measurements.endpoints if point.kind == kind and point.name != GRAFT[kind]]


def build_report(results: ServingResults) -> Report:
    """Build the report: targets, tables and notes."""
    measurements = results.measurements
    report = Report("serving", "Serving: comparison with other servers and with the floor")
    report.promises = [
        *floor_targets(measurements),
        *peer_targets(results),
        *processor_targets(results),
        *latency_targets(measurements, results.half_load_ms),
        *agreement_targets(results.agreements[SMALL]),
    ]
    report.tables = [
        *(_results_table(results, image_set) for image_set in measurements.image_sets),
        _floor_table(measurements),
        _agreement_table(results.agreements),
        _settings_table(results.tried),
    ]
    report.notes = _notes(results)
    report.measured = {
        "outcomes": {
            " | ".join(map(str, cell)): [asdict(load) for load in loads] for cell, loads in measurements.results.items()
        },
        "floors": measurements.floors,
        "one_s": measurements.single_image_s,
        "tried": results.tried,
        "half_load_ms": results.half_load_ms,
    }
    return report


def floor_targets(measurements: Measurements) -> list[Target]:
    """Throughput relative to the floor."""
    return [
        Target(
            f"{GRAFT[kind]}, {n} connections: ratio to the floor",
            median_ratio(measurements.rates(SMALL, n, GRAFT[kind]), measurements.floor(SMALL)),
            minimum,
        )
        for kind, minimum in MIN_FLOOR_RATIO.items()
        for n in TARGET_CONNECTIONS
    ]


def peer_targets(results: ServingResults) -> list[Target]:
    """Throughput relative to the best peer, with the same requests."""
    measurements = results.measurements
    return [
        Target(
            f"{image_set}, {n} connections, {kind}: speed-up over the best peer",
            measurements.speedup_over_best(image_set, n, GRAFT[kind], results.peers(kind)),
            minimum,
        )
        for image_set, minimum in MIN_SPEEDUP.items()
        for kind in (RAW, FORM)
        for n in TARGET_CONNECTIONS
        if measurements.has(image_set, n, GRAFT[kind])
    ]


def processor_targets(results: ServingResults) -> list[Target]:
    """Processor time relative to the peer that needs the least, with the same requests."""
    measurements = results.measurements
    return [
        Target(
            f"{SMALL}, {n} connections, {kind}: processor time an image / that of the thriftiest peer",
            measurements.processor_ratio(SMALL, n, GRAFT[kind], results.peers(kind)),
            MAX_PROCESSOR_RATIO,
            at_most=True,
        )
        for kind in (RAW, FORM)
        for n in TARGET_CONNECTIONS
    ]


def latency_targets(measurements: Measurements, half_load_ms: tuple[float, float]) -> list[Target]:
    single_ms = [outcome.p50_ms for outcome in measurements.results[SMALL, 1, GRAFT[RAW]]]
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


def agreement_targets(agreements: dict[str, Agreement]) -> list[Target]:
    """All peers give the same answers as Graft."""
    max_difference = max(agreement.max_difference for agreement in agreements.values())
    n_different = sum(agreement.n_images - agreement.n_same_top1 for agreement in agreements.values())
    n_images = max(agreement.n_images for agreement in agreements.values())
    return [
        Target(f"images of {n_images:,} with a different top label than a peer", n_different, 0, at_most=True),
        Target("largest difference in a probability from a peer", max_difference, MAX_DIFFERENCE, at_most=True),
    ]


def _results_table(results: ServingResults, image_set: str) -> Table:
    measurements, rows = results.measurements, []
    for endpoint in measurements.endpoints:
        for n in endpoint.connections[image_set]:
            loads = measurements.results[image_set, n, endpoint.name]
            medians = [
                median(getattr(load, key) for load in loads) for key in ("rate", "server_ms", "p50_ms", "p99_ms", "processor")
            ]
            rows.append(
                (
                    endpoint.name,
                    n,
                    median_ratio(measurements.rates(image_set, n, endpoint.name), measurements.floor(image_set)),
                    measurements.speedup_over_best(image_set, n, endpoint.name, results.peers(endpoint.kind)),
                    *medians,
                    sum(load.broken for load in loads),
                )
            )
    columns = ("server", "connections", "ratio to floor", "speed-up over best peer", "images/s", "CPU ms an image")
    return Table(image_set, (*columns, "p50 ms", "p99 ms", "wrk CPU", "errors"), tuple(rows))


def _floor_table(measurements: Measurements) -> Table:
    rows = tuple(
        (kind, *(median(rates) for rates in rates_by_way.values())) for kind, rates_by_way in measurements.floors.items()
    )
    return Table("Floor (decoding and inference without HTTP), images/s", ("photos", "threads", "processes"), rows)


def _agreement_table(agreements_by_set: dict[str, dict[str, Agreement]]) -> Table:
    rows = tuple(
        (kind, name, f"{agreement.n_same_top1:,} of {agreement.n_images:,}", agreement.max_difference)
        for kind, agreements in agreements_by_set.items()
        for name, agreement in agreements.items()
    )
    return Table(f"Agreement with {GRAFT[FORM]}", ("photos", "server", "same top label", "largest difference"), rows)


def _settings_table(tried: dict[str, dict[str, float]]) -> Table:
    rows = tuple(
        (name, settings, rate / max(rates.values()), rate) for name, rates in tried.items() for settings, rate in rates.items()
    )
    return Table("Settings tried for each peer (8 connections)", ("peer", "settings", "ratio to its best", "images/s"), rows)


def floor_over_best(results: ServingResults, image_set: str) -> float:
    """How many times as fast as the best peer the floor is: no server with the same network can have a larger speed-up."""
    measurements = results.measurements
    return 1 / max(
        median_ratio(measurements.rates(image_set, 8, peer), measurements.floor(image_set)) for peer in results.peers(FORM)
    )


def _notes(results: ServingResults) -> Sequence[str]:
    measurements, (half_p50, half_p99) = results.measurements, results.half_load_ms
    possible = [f"{floor_over_best(results, image_set):.2f} for {image_set}" for image_set in measurements.image_sets]
    return [
        "The experts' servers run the package's own model.onnx behind Starlette and uvicorn; Pillow decodes large JPEGs at a"
        " fraction of their size, as Graft does. They check no limits, write no log and no metrics, and decode in the server's"
        " own process.",
        "The torch peers load the package's safetensors into a plain timm network: eval mode, channels_last,"
        " torch.inference_mode. Pillow decodes each photo at full size, then crops and resizes in one step.",
        "A speed-up compares requests of one kind: forms with forms, image bodies with image bodies. The settings of each peer"
        " were chosen with forms of 40 KB, in as many rounds of the same length as the comparison has.",
        f"The largest possible speed-up is that of the floor over the best peer (form, 8 connections): {', '.join(possible)}.",
        f"At half of the capacity with random arrivals, the latency of /v1/classify is {half_p50:.1f} ms (p50) and"
        f" {half_p99:.1f} ms (p99); one image takes {1e3 * median(measurements.single_image_s):.2f} ms in process.",
        "CPU ms an image: processor time of all processes of the server, user and system, for each answered image.",
        "wrk CPU: CPU use of the load generator, as a fraction of one core.",
    ]
