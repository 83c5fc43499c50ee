"""What a service does with more than it can: answers, refusals and their seconds at 1, 2, 4 and 8 times its capacity.

    .venv/bin/python benchmarks/overload.py PACKAGE [IMAGES.zip] [--seconds 20] [--json]

Starts `bentoml serve` with the package and asks /v1/classify about the photos of ../shared/data/imagenet-100.zip (40 KB)
unless others are given. First 16 callers who ask again and again: that is its capacity. Then callers who come at random,
however many are waiting already, from one process beside the server; their seconds count from when they came. Prints Markdown
tables, or one JSON object; ends with 1 if a promise was broken. On a machine that others use too, only ratios mean something.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from decoders import PHOTOS, photos

from graft.service.settings import Settings
from graft.training.pipelines.demo import serving

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from load_generator import Ask, Crowd, Outcome, Phase, crowd, post

TIMES = (1, 2, 4, 8)
CALM = 0.3  # of the capacity
CALLERS = 16
WARM_UP_S = 2.0  # at the beginning of each load, which does not count
LEAST_GOODPUT, MOST_REFUSAL_MS, MOST_RECOVERY_S = 0.9, 100.0, 2.0
MOST_ANSWER_S = Settings().queue_deadline_s


@dataclass(frozen=True)
class Load:
    """What one load brought, once it had been there for a while.

    Attributes:
        times: the capacity.
        offered, good, refused: requests, answers and refusals, a second.
        good_ms, refused_ms: their median and their 99th percentile.
        broken: requests without an answer, with another one than these two, or refused without a Retry-After of 1 to 3.
    """

    times: float
    offered: float
    good: float
    refused: float
    good_ms: tuple[float, float]
    refused_ms: tuple[float, float]
    broken: int


def is_refusal(outcome: Outcome) -> bool:
    return (outcome.status, outcome.code) == (503, "overloaded") and outcome.retry_after in ("1", "2", "3")


def load(times: float, outcomes: Sequence[Outcome], seconds: float) -> Load:
    """What came of a load of so many seconds; an answer belongs to the moment when it came."""
    during = [outcome for outcome in outcomes if WARM_UP_S <= outcome.due + outcome.seconds < seconds]
    good = [outcome for outcome in during if outcome.status == 200]
    refused = [outcome for outcome in during if is_refusal(outcome)]
    span = seconds - WARM_UP_S
    offered = sum(WARM_UP_S <= outcome.due < seconds for outcome in outcomes) / span
    broken = sum(not (outcome.status == 200 or is_refusal(outcome)) for outcome in outcomes)
    return Load(times, offered, len(good) / span, len(refused) / span, spread(good), spread(refused), broken)


def spread(outcomes: Iterable[Outcome]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds; 0 of nothing."""
    milliseconds = [1e3 * outcome.seconds for outcome in outcomes]
    return (statistics.median(milliseconds), float(np.percentile(milliseconds, 99))) if milliseconds else (0.0, 0.0)


def recovery(after: Sequence[Outcome], end: float, calm_ms: float, patience: float) -> float:
    """Seconds from the end of the load until callers wait at most twice as long as where there is little to do."""
    for step in np.arange(0.0, patience - 1.0, 0.1):
        window = [outcome for outcome in after if end + step <= outcome.due < end + step + 1.0]
        if all(outcome.status == 200 for outcome in window) and 0 < spread(window)[0] <= 2 * calm_ms:
            return float(step)
    return patience


@dataclass(frozen=True)
class Findings:
    """Everything that was measured.

    Attributes:
        capacity: answers a second to callers who wait for each.
        calm_ms: the median answer where there is little to do.
        recovery_s: from the end of the greatest load until that is so again.
    """

    capacity: float
    calm_ms: float
    loads: tuple[Load, ...]
    recovery_s: float

    def promises(self) -> list[tuple[str, float, str, bool]]:
        """What, how much, the limit, and whether it was held."""
        goodput = self.loads[-1].good / max(load.good for load in self.loads[:-1])
        refusal_ms = max(load.refused_ms[1] for load in self.loads)
        answer_s = max(load.good_ms[1] for load in self.loads) / 1e3
        broken = sum(load.broken for load in self.loads)
        return [
            (
                f"good answers at {TIMES[-1]}x over the most at less",
                goodput,
                f"at least {LEAST_GOODPUT}",
                goodput >= LEAST_GOODPUT,
            ),
            ("refusals, p99, ms", refusal_ms, f"at most {MOST_REFUSAL_MS:g}", refusal_ms <= MOST_REFUSAL_MS),
            ("good answers, p99, s", answer_s, f"at most {MOST_ANSWER_S:g}, the deadline", answer_s <= MOST_ANSWER_S),
            ("lost, failed, or refused without Retry-After", broken, "0", broken == 0),
            ("seconds until normal again", self.recovery_s, f"at most {MOST_RECOVERY_S:g}", self.recovery_s <= MOST_RECOVERY_S),
        ]


def measure(callers: Crowd, asks: Sequence[Ask], seconds: float) -> Findings:
    """All loads, the lightest first."""
    callers.keep(asks, CALLERS, 2 * WARM_UP_S).result()
    kept = callers.keep(asks, CALLERS, seconds / 2).result().outcomes
    capacity = load(1, kept, seconds / 2).good
    calm = Phase(CALM * capacity, 8.0)
    calm_ms = spread(callers.offer(asks, [calm]).result().outcomes)[0]
    loads = [
        load(times, callers.offer(asks, [Phase(times * capacity, seconds)]).result().outcomes, seconds) for times in TIMES[:-1]
    ]
    last = callers.offer(asks, [Phase(TIMES[-1] * capacity, seconds), calm]).result().outcomes
    loads.append(load(TIMES[-1], last, seconds))
    return Findings(capacity, calm_ms, tuple(loads), recovery(last, seconds, calm_ms, calm.seconds))


def tables(findings: Findings) -> str:
    lines = [
        f"capacity: {findings.capacity:.0f} answers a second; {findings.calm_ms:.0f} ms each where there is little to do",
        "",
        "| load | offered/s | good/s | good p50, p99 ms | refused/s | refused p50, p99 ms | broken |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in findings.loads:
        good, refused = (", ".join(f"{value:.0f}" for value in pair) for pair in (found.good_ms, found.refused_ms))
        rates = f"| {found.offered:.0f} | {found.good:.1f} | {good} | {found.refused:.0f} | {refused} |"
        lines.append(f"| {found.times:g}x {rates} {found.broken} |")
    lines += ["", "| what | found | promised | |", "|---|---|---|---|"]
    for what, found, promised, held in findings.promises():
        lines.append(f"| {what} | {found:.3g} | {promised} | {'held' if held else '**broken**'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asks = [Ask("photo", post("/v1/classify", photo)) for photo in photos(arguments.images)]
    with serving(arguments.package) as url, crowd(int(url.rpartition(":")[2])) as callers:
        findings = measure(callers, asks, arguments.seconds)
    promises = findings.promises()
    print(json.dumps({**asdict(findings), "promises": promises}) if arguments.json else tables(findings))
    raise SystemExit(not all(held for *_, held in promises))


if __name__ == "__main__":
    main()
