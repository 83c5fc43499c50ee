"""All benchmarks against other tools, one after the other, and `benchmarks/RESULTS.md`, which shows what every one found.

    .venv/bin/python benchmarks/bench.py [NAME...] [--quick] [--join]

`make bench` runs serving, fitting and start (about 35 minutes on two cores). Each leaves `results/NAME.json` and
`results/NAME.md`; those that do so by themselves, such as growth.py, are only shown. With `--join` nothing is measured.
Ends with 1 if a target was missed. With `--quick`, which only shows that everything works, nothing is kept.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring.tables import markdown, say

HERE = Path(__file__).parent
RESULTS, SUMMARY = HERE / "results", HERE / "RESULTS.md"
NAMES = ("serving", "fitting", "start")
TITLES = {"growth": "Growth: a hundred times the images", "gpu": "On a GPU"}  # of those that print no title of their own
HEAD = """# What was measured

Made by `make bench` and its like; benchmarks/README.md says what each measures, and against what. On shared machines absolute
numbers mean little: read the ratios. Every number behind these tables lies in `results/`.
"""


def run(name: str, quick: bool) -> dict[str, Any]:
    """One benchmark's record. Raises CalledProcessError if it failed; it said why."""
    say(f"{name}.py")
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *(["--quick"] if quick else [])]
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def keep(record: dict[str, Any], folder: Path) -> None:
    """Leaves what one found, for machines and for people."""
    folder.mkdir(exist_ok=True)
    (folder / f"{record['name']}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{record['name']}.md").write_text(markdown(record), encoding="utf-8")


def joined(folder: Path) -> str:
    """All that was found, whenever that was, `make bench`'s own first."""
    rank = {name: number for number, name in enumerate(NAMES)}
    paths = sorted(folder.glob("*.md"), key=lambda path: (rank.get(path.stem, len(rank)), path.stem))
    return "\n".join([HEAD, *(section(path) for path in paths)])


def section(path: Path) -> str:
    """One benchmark's Markdown, with a title if it has none."""
    text = path.read_text(encoding="utf-8")
    return text if text.startswith("## ") else f"## {TITLES.get(path.stem, path.stem)}\n\n{text}"


def missed(records: Sequence[dict[str, Any]]) -> list[str]:
    """The targets that were not reached."""
    return [promise["what"] for record in records for promise in record["promises"] if not promise["held"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)} (default: all)", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument("--join", action="store_true", help="only write RESULTS.md anew")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(NAMES)}")
    records = []
    for name in [] if arguments.join else arguments.names or NAMES:
        records.append(record := run(name, arguments.quick))
        print(markdown(record), flush=True)
        if not arguments.quick:  # at once: what comes after it may fail
            keep(record, RESULTS)
    if not arguments.quick:
        SUMMARY.write_text(joined(RESULTS), encoding="utf-8")
    for what in missed(records):
        say(f"missed: {what}")
    raise SystemExit(bool(missed(records)) and not arguments.quick)


if __name__ == "__main__":
    main()
