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
class Target:
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
    promises: list[Target] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON record, with date, machine and library versions."""
        promises = [{**asdict(promise), "held": promise.held} for promise in self.promises]
        return {**asdict(self), "promises": promises, "machine": machine_info()}


def machine_info() -> dict[str, Any]:
    """Date, hardware and library versions of this run."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """CPU name and the instruction sets that matter for 8-bit and 16-bit inference."""
    lines = dict(line.split(":", 1) for line in cpuinfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    instruction_sets = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in fields["flags"].split()
    ]
    family = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', 'unknown')} ({family}; {', '.join(instruction_sets)})"


def to_markdown(record: dict[str, Any]) -> str:
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
        lines += ["", "| target | measured | required | |", "|---|---|---|---|", *map(_target_row, record["promises"])]
    for table in record["tables"]:
        lines += ["", f"**{table['title']}**", "", _format_row(table["columns"]), "|---" * len(table["columns"]) + "|"]
        lines += [_format_row(row) for row in table["rows"]]
    if record["notes"]:
        lines += ["", *(f"- {note}" for note in record["notes"])]
    return "\n".join(lines) + "\n"


def _target_row(target: dict[str, Any]) -> str:
    requirement = f"{'at most' if target['at_most'] else 'at least'} {format_number(target['limit'])}"
    return _format_row((target["what"], target["found"], requirement, "met" if target["held"] else "**missed**"))


def _format_row(cells: Sequence[str | float]) -> str:
    return f"| {' | '.join(cell if isinstance(cell, str) else format_number(cell) for cell in cells)} |"


def format_number(value: float) -> str:
    """Format a number with three significant digits."""
    if math.isnan(value):  # not measured
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def log(message: str) -> None:
    """Print a progress message to stderr."""
    print(f"{datetime.datetime.now():%H:%M:%S} {message}", file=sys.stderr, flush=True)


def median_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Median of the ratios per round; the two values of a round were measured right after each other.

    A ratio is infinite where the baseline is 0, such as a server without a successful response.
    """
    return statistics.median(value / base if base else math.inf for value, base in zip(values, baseline, strict=True))
