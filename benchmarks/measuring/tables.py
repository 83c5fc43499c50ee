"""Formats benchmark results as JSON and Markdown: targets first, then tables with ratios before absolute values."""

import datetime
import math
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("bentoml", "openvino", "torch", "timm", "pillow", "numpy")


@dataclass(frozen=True)
class Promise:
    """A target and the measured value.

    Attributes:
        limit: the minimum value or, if `at_most`, the maximum.
    """

    what: str
    found: float
    limit: float
    at_most: bool = False

    @property
    def held(self) -> bool:
        return self.found <= self.limit if self.at_most else self.found >= self.limit


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]


@dataclass
class Report:
    """Results of one benchmark.

    Attributes:
        name: stem of the benchmark's file, which also sets its position in RESULTS.md.
        title: heading of the section.
        promises: the targets.
        notes: how the values were measured.
        measured: all raw measurements.
    """

    name: str
    title: str
    promises: list[Promise] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The JSON record, with date, machine and library versions."""
        promises = [{**asdict(promise), "held": promise.held} for promise in self.promises]
        return {**asdict(self), "promises": promises, "machine": machine()}


def machine() -> dict[str, Any]:
    """Date, hardware and library versions of this run."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """CPU name and the instruction sets that matter for 8-bit and 16-bit inference."""
    lines = dict(line.split(":", 1) for line in facts.read_text(encoding="utf-8").splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    instruction_sets = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in fields["flags"].split()
    ]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', 'unknown')} ({family}; {', '.join(instruction_sets)})"


def markdown(record: dict[str, Any]) -> str:
    """The section of one benchmark."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {release}" for name, release in machine["libraries"].items())
    lines = [
        f"## {record['title']}",
        "",
        f"{machine['when']}, {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB; Python"
        f" {machine['python']}, {versions}. Took {record['seconds'] / 60:.0f} minutes.",
    ]
    if record["promises"]:
        lines += ["", "| target | measured | required | |", "|---|---|---|---|", *map(_promised, record["promises"])]
    for table in record["tables"]:
        lines += ["", f"**{table['title']}**", "", _row(table["columns"]), "|---" * len(table["columns"]) + "|"]
        lines += [_row(row) for row in table["rows"]]
    if record["notes"]:
        lines += ["", *(f"- {note}" for note in record["notes"])]
    return "\n".join(lines) + "\n"


def _promised(promise: dict[str, Any]) -> str:
    requirement = f"{'at most' if promise['at_most'] else 'at least'} {number(promise['limit'])}"
    return _row((promise["what"], promise["found"], requirement, "met" if promise["held"] else "**missed**"))


def _row(cells: Sequence[str | float]) -> str:
    return f"| {' | '.join(cell if isinstance(cell, str) else number(cell) for cell in cells)} |"


def number(value: float) -> str:
    """Format a number with three significant digits."""
    if math.isnan(value):  # not measured
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def say(what: str) -> None:
    """Print a progress message to stderr."""
    print(f"{datetime.datetime.now():%H:%M:%S} {what}", file=sys.stderr, flush=True)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios per round; the two values of a round were measured right after each other.

    A ratio is infinite where the baseline is 0, such as a server without a successful response.
    """
    return statistics.median(value / base if base else math.inf for value, base in zip(ours, theirs, strict=True))
