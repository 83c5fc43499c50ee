"""Runs all benchmarks against other tools and writes `benchmarks/RESULTS.md` with the results of each.

    .venv/bin/python benchmarks/bench.py [NAME...] [--quick] [--docs-only]

`make bench` runs serving, fitting and start (about 35 minutes on two cores), `make bench-serving` only the first (12 minutes).
Each writes `results/NAME.json` and `results/NAME.md`. Benchmarks that write these files themselves, such as growth.py, are only
included in RESULTS.md. From the results follow RESULTS.md and the tables in README.md and docs/, between markers
(measuring/documents.py). `--docs-only` writes them without measuring. The exit code is 1 if a target was missed. `--quick` is a
smoke test and saves nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring.documents import write_documents
from measuring.tables import log, to_markdown

HERE = Path(__file__).parent
RESULTS_DIR, RESULTS_FILE = HERE / "results", HERE / "RESULTS.md"
NAMES = ("serving", "fitting", "start")
TITLES = {
    "near_copies": "Near-duplicates that are found",
    "growth": "Scaling: from 1,000 to 100,000 images",
}  # for benchmarks without a heading of their own
HEADER = """# Benchmark results

Created by `make bench` and single benchmarks; benchmarks/README.md describes what each measures and compares with. On shared
machines, absolute numbers mean little: read the ratios. All raw measurements are in `results/`.
"""


def run(name: str, quick: bool) -> dict[str, Any]:
    """Run one benchmark and return its record. Raises CalledProcessError if it failed; the error is on stderr."""
    log(f"{name}.py")
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *(["--quick"] if quick else [])]
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.strip().splitlines()[-1])


def save(record: dict[str, Any], folder: Path) -> None:
    """Write the record of one benchmark as JSON and Markdown."""
    folder.mkdir(exist_ok=True)
    (folder / f"{record['name']}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{record['name']}.md").write_text(to_markdown(record), encoding="utf-8")


def join_results(folder: Path) -> str:
    """Join the latest results of all benchmarks, those of `make bench` first."""
    rank = {name: position for position, name in enumerate(NAMES)}
    paths = sorted(folder.glob("*.md"), key=lambda path: (rank.get(path.stem, len(rank)), path.stem))
    return "\n".join([HEADER, *(section(path) for path in paths)])


def section(path: Path) -> str:
    """The Markdown of one benchmark, with a heading added if it has none."""
    text = path.read_text(encoding="utf-8")
    return text if text.startswith("## ") else f"## {TITLES.get(path.stem, path.stem)}\n\n{text}"


def missed_targets(records: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the missed targets."""
    return [target["what"] for record in records for target in record["promises"] if not target["held"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)} (default: all)", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="smoke test with few measurements")
    parser.add_argument(
        "--docs-only",
        action="store_true",
        help="only write RESULTS.md and the tables of the documentation from the saved results",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: unknown; choose from {', '.join(NAMES)}")
    records = []
    for name in [] if arguments.docs_only else arguments.names or NAMES:
        records.append(record := run(name, arguments.quick))
        print(to_markdown(record), flush=True)
        if not arguments.quick:  # right away: the next benchmark may fail
            save(record, RESULTS_DIR)
    if not arguments.quick:
        RESULTS_FILE.write_text(join_results(RESULTS_DIR), encoding="utf-8")
        for name in write_documents():
            log(f"wrote {name}")
    for target in missed_targets(records):
        log(f"missed: {target}")
    raise SystemExit(bool(missed_targets(records)) and not arguments.quick)


if __name__ == "__main__":
    main()
