"""Overload test: responses, rejections and their latencies at 1, 2, 4 and 8 times the capacity.

    .venv/bin/python benchmarks/overload.py PACKAGE [IMAGES.zip] [--seconds 20] [--json]

Starts `bentoml serve` with the package and sends photos to /v1/classify, by default those of ../shared/data/imagenet-100.zip
(40 KB). First, 16 closed-loop clients measure the capacity. Then requests arrive at random (open loop), however many are
waiting already, from one process on the same machine; latency counts from the arrival. Prints Markdown tables or one JSON
object; the exit code is 1 if a target was missed. On a shared machine only ratios mean something.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from decoders import PHOTOS, read_photos

from graft.service.settings import Settings
from graft.training.pipelines.demo import running_server

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from load_generator import LoadGenerator, Outcome, Phase, RequestSpec, build_post, start_load_generator

LOAD_FACTORS = (1, 2, 4, 8)
LIGHT_LOAD = 0.3  # fraction of the capacity
N_CLIENTS = 16
WARM_UP_S = 2.0  # start of each load, not counted
MIN_GOODPUT_RATIO, MAX_REJECTION_MS, MAX_RECOVERY_S = 0.9, 100.0, 2.0
MAX_LATENCY_S = Settings().queue_deadline_s


@dataclass(frozen=True)
class LoadSummary:
    """Results of one load after the warm-up.

    Attributes:
        factor: offered load as a multiple of the capacity.
        offered, good, rejected: requests, successful responses and rejections per second.
        good_ms, rejected_ms: median and 99th percentile of their latency.
        n_errors: requests without a response, with any other response, or rejected without a Retry-After of 1 to 3.
    """

    factor: float
    offered: float
    good: float
    rejected: float
    good_ms: tuple[float, float]
    rejected_ms: tuple[float, float]
    n_errors: int


def is_rejection(outcome: Outcome) -> bool:
    return (outcome.status, outcome.code) == (503, "overloaded") and outcome.retry_after in ("1", "2", "3")


def summarize(factor: float, outcomes: Sequence[Outcome], seconds: float) -> LoadSummary:
    """Summarize a load of `seconds` seconds; a response counts at the time when it arrived."""
    in_window = [outcome for outcome in outcomes if WARM_UP_S <= outcome.due + outcome.seconds < seconds]
    good = [outcome for outcome in in_window if outcome.status == 200]
    rejected = [outcome for outcome in in_window if is_rejection(outcome)]
    duration_s = seconds - WARM_UP_S
    offered = sum(WARM_UP_S <= outcome.due < seconds for outcome in outcomes) / duration_s
    n_errors = sum(not (outcome.status == 200 or is_rejection(outcome)) for outcome in outcomes)
    return LoadSummary(
        factor,
        offered,
        len(good) / duration_s,
        len(rejected) / duration_s,
        latency_percentiles(good),
        latency_percentiles(rejected),
        n_errors,
    )


def latency_percentiles(outcomes: Iterable[Outcome]) -> tuple[float, float]:
    """Median and 99th percentile of the latency in milliseconds; 0 without outcomes."""
    milliseconds = [1e3 * outcome.seconds for outcome in outcomes]
    return (statistics.median(milliseconds), float(np.percentile(milliseconds, 99))) if milliseconds else (0.0, 0.0)


def recovery_time(outcomes: Sequence[Outcome], end: float, light_load_ms: float, timeout_s: float) -> float:
    """Seconds from the end of the load until the median latency is at most twice that at light load."""
    for offset_s in np.arange(0.0, timeout_s - 1.0, 0.1):
        window = [outcome for outcome in outcomes if end + offset_s <= outcome.due < end + offset_s + 1.0]
        if all(outcome.status == 200 for outcome in window) and 0 < latency_percentiles(window)[0] <= 2 * light_load_ms:
            return float(offset_s)
    return timeout_s


@dataclass(frozen=True)
class Results:
    """All measurements.

    Attributes:
        capacity: responses per second to closed-loop clients.
        light_load_ms: median latency at light load.
        recovery_s: seconds from the end of the highest load until the latency is normal again.
    """

    capacity: float
    light_load_ms: float
    loads: tuple[LoadSummary, ...]
    recovery_s: float

    def targets(self) -> list[tuple[str, float, str, bool]]:
        """Name, value, limit, and whether the target was met."""
        goodput = self.loads[-1].good / max(load.good for load in self.loads[:-1])
        rejection_ms = max(load.rejected_ms[1] for load in self.loads)
        latency_s = max(load.good_ms[1] for load in self.loads) / 1e3
        n_errors = sum(load.n_errors for load in self.loads)
        return [
            (
                f"goodput at {LOAD_FACTORS[-1]}x load / highest goodput at lower loads",
                goodput,
                f"at least {MIN_GOODPUT_RATIO}",
                goodput >= MIN_GOODPUT_RATIO,
            ),
            ("latency of rejections, p99, ms", rejection_ms, f"at most {MAX_REJECTION_MS:g}", rejection_ms <= MAX_REJECTION_MS),
            (
                "latency of successful responses, p99, s",
                latency_s,
                f"at most {MAX_LATENCY_S:g}, the deadline",
                latency_s <= MAX_LATENCY_S,
            ),
            ("lost, failed, or rejected without Retry-After", n_errors, "0", n_errors == 0),
            (
                "seconds until latency is normal again",
                self.recovery_s,
                f"at most {MAX_RECOVERY_S:g}",
                self.recovery_s <= MAX_RECOVERY_S,
            ),
        ]


def measure(clients: LoadGenerator, requests: Sequence[RequestSpec], seconds: float) -> Results:
    """Run all loads, the lowest first."""
    clients.closed_loop(requests, N_CLIENTS, 2 * WARM_UP_S).result()
    outcomes = clients.closed_loop(requests, N_CLIENTS, seconds / 2).result().outcomes
    capacity = summarize(1, outcomes, seconds / 2).good
    light_load = Phase(LIGHT_LOAD * capacity, 8.0)
    light_load_ms = latency_percentiles(clients.open_loop(requests, [light_load]).result().outcomes)[0]
    loads = [
        summarize(factor, clients.open_loop(requests, [Phase(factor * capacity, seconds)]).result().outcomes, seconds)
        for factor in LOAD_FACTORS[:-1]
    ]
    last_outcomes = clients.open_loop(requests, [Phase(LOAD_FACTORS[-1] * capacity, seconds), light_load]).result().outcomes
    loads.append(summarize(LOAD_FACTORS[-1], last_outcomes, seconds))
    return Results(
        capacity, light_load_ms, tuple(loads), recovery_time(last_outcomes, seconds, light_load_ms, light_load.seconds)
    )


def tables(results: Results) -> str:
    lines = [
        f"capacity: {results.capacity:.0f} responses per second; median latency at light load: {results.light_load_ms:.0f} ms",
        "",
        "| load | offered/s | successful/s | successful p50, p99 ms | rejected/s | rejected p50, p99 ms | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for load in results.loads:
        good, rejected = (", ".join(f"{value:.0f}" for value in pair) for pair in (load.good_ms, load.rejected_ms))
        rates = f"| {load.offered:.0f} | {load.good:.1f} | {good} | {load.rejected:.0f} | {rejected} |"
        lines.append(f"| {load.factor:g}x {rates} {load.n_errors} |")
    lines += ["", "| target | measured | required | |", "|---|---|---|---|"]
    for name, value, limit, met in results.targets():
        lines.append(f"| {name} | {value:.3g} | {limit} | {'met' if met else '**missed**'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each load")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asks = [RequestSpec("photo", build_post("/v1/classify", photo)) for photo in read_photos(arguments.images)]
    with running_server(arguments.package) as url, start_load_generator(int(url.rpartition(":")[2])) as clients:
        findings = measure(clients, asks, arguments.seconds)
    targets = findings.targets()
    print(json.dumps({**asdict(findings), "promises": targets}) if arguments.json else tables(findings))
    raise SystemExit(not all(met for *_, met in targets))


if __name__ == "__main__":
    main()
