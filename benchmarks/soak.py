"""Soak test: growth of memory, threads, processes, file descriptors and files, and errors in the log.

    .venv/bin/python benchmarks/soak.py PACKAGE [IMAGES.zip] [--seconds 180] [--leaky] [--json]

Starts `bentoml serve` with the package and sends requests to /v1/classify at half of its capacity: 70% photos (by default
those of ../shared/data/imagenet-100.zip), 20% files of tests/support/hostile_corpus.py, 10% from clients that disconnect
during the upload or the response. Prints a Markdown table or one JSON object; the exit code is 1 if anything has grown.
With --leaky, the service keeps 10 KB of every request, and the test must report it.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from decoders import PHOTOS, read_photos

# First, so that its modules take precedence over those of this folder.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from hostile_corpus import corpus
from server_process import SERVICE
from soak_run import LOAD, SoakResult, request_mix, soak

LEAKY = "leaky_service:Leaky"


def table(result: SoakResult) -> str:
    first, last = result.snapshots[0], result.snapshots[-1]
    n_requests = result.after.requests - result.before.requests
    lines = [
        f"{n_requests:,} requests in {result.seconds:g} s, {result.n_right:,} of them as expected (or the client"
        f" disconnected), {result.n_rejected} rejected; {first.mib:.0f} MiB at the start, {last.mib:.0f} MiB at the end",
        "",
        "| target | measured | at most | |",
        "|---|---|---|---|",
    ]
    for name, value, limit, met in result.checks():
        lines.append(f"| {name} | {value:.3g} | {limit:g} | {'met' if met else '**missed**'} |")
    lines += [f"\nunexpected: {result.unexpected}"] if result.unexpected else []
    lines += [f"\nin the log: {fault}" for fault in result.log_errors[:5]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--leaky", action="store_true", help="serve with a deliberate memory leak, which must be detected")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asks = request_mix(read_photos(arguments.images), corpus())
    findings = soak(arguments.package, asks, arguments.seconds, LOAD, LEAKY if arguments.leaky else SERVICE)
    print(json.dumps({**asdict(findings), "rows": findings.checks()}) if arguments.json else table(findings))
    raise SystemExit(bool(findings.missed()))


if __name__ == "__main__":
    main()
