"""What a long time leaves behind: memory, threads, processes, descriptors, files, and faults in the log.

    .venv/bin/python benchmarks/soak.py PACKAGE [IMAGES.zip] [--seconds 180] [--leaky] [--json]

Starts `bentoml serve` with the package and asks /v1/classify at half of what it can do: 70 % photos (those of
../shared/data/imagenet-100.zip unless others are given), 20 % files of tests/support/hostile_corpus.py, 10 % callers who hang up in the
middle of the upload or of the answer. Prints a Markdown table, or one JSON object; ends with 1 if anything has grown. With
--leaky the same service keeps ten kilobytes of every request, and the table must say so.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from decoders import PHOTOS, photos

sys.path.insert(
    0, str(Path(__file__).parent.parent / "tests" / "support")
)  # before this folder, where files have the same names
from hostile_corpus import corpus
from server_process import SERVICE
from soak_run import LOAD, Findings, mixed, soak

LEAKY = "leaky_service:Leaky"


def table(findings: Findings) -> str:
    first, last = findings.looks[0], findings.looks[-1]
    n_requests = findings.after.requests - findings.before.requests
    lines = [
        f"{n_requests:,} requests in {findings.seconds:g} s, {findings.n_right:,} of them answered as they had to be, or their"
        f" callers gone; {findings.n_refused} refused; {first.mib:.0f} MiB in the beginning, {last.mib:.0f} in the end",
        "",
        "| what | found | at most | |",
        "|---|---|---|---|",
    ]
    for what, found, most, held in findings.rows():
        lines.append(f"| {what} | {found:.3g} | {most:g} | {'held' if held else '**broken**'} |")
    lines += [f"\nwrong: {findings.wrong}"] if findings.wrong else []
    lines += [f"\nin the log: {fault}" for fault in findings.faults[:5]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--leaky", action="store_true", help="serve with a leak, which must be found")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    asks = mixed(photos(arguments.images), corpus())
    findings = soak(arguments.package, asks, arguments.seconds, LOAD, LEAKY if arguments.leaky else SERVICE)
    print(json.dumps({**asdict(findings), "rows": findings.rows()}) if arguments.json else table(findings))
    raise SystemExit(bool(findings.broken()))


if __name__ == "__main__":
    main()
