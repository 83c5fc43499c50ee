"""What a benchmark found, as one JSON object and as Markdown: promises first, then tables whose first numbers are ratios."""

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
    """A target and what was found.

    Attributes:
        limit: that the number must reach or, if `at_most`, must not pass.
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
    """What one benchmark found.

    Attributes:
        name: of the benchmark's file, which also says where this stands among the others.
        title: the question.
        notes: what a reader should know of how it was measured.
        measured: every number behind the tables.
    """

    name: str
    title: str
    promises: list[Promise] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """As JSON holds it, with when, where and with which versions."""
        promises = [{**asdict(promise), "held": promise.held} for promise in self.promises]
        return {**asdict(self), "promises": promises, "machine": machine()}


def machine() -> dict[str, Any]:
    """What a number means little without."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, with the instructions that an engine can use for 8 or 16 bits."""
    lines = dict(line.split(":", 1) for line in facts.read_text(encoding="utf-8").splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in lines.items()}
    short = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if flag in values["flags"].split()]
    family = f"family {values.get('cpu family', '?')} model {values.get('model', '?')}"
    return f"{values.get('model name', 'unknown')} ({family}; {', '.join(short)})"


def markdown(record: dict[str, Any]) -> str:
    """One benchmark's section."""
    where = record["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["libraries"].items())
    lines = [
        f"## {record['title']}",
        "",
        f"{where['when']}, {where['cores']} cores of {where['processor']}, {where['memory_gib']} GiB; Python"
        f" {where['python']}, {versions}. Took {record['seconds'] / 60:.0f} minutes.",
    ]
    if record["promises"]:
        lines += ["", "| target | found | wanted | |", "|---|---|---|---|", *map(_promised, record["promises"])]
    for table in record["tables"]:
        lines += ["", f"**{table['title']}**", "", _row(table["columns"]), "|---" * len(table["columns"]) + "|"]
        lines += [_row(row) for row in table["rows"]]
    if record["notes"]:
        lines += ["", *(f"- {note}" for note in record["notes"])]
    return "\n".join(lines) + "\n"


def _promised(promise: dict[str, Any]) -> str:
    wanted = f"{'at most' if promise['at_most'] else 'at least'} {number(promise['limit'])}"
    return _row((promise["what"], promise["found"], wanted, "held" if promise["held"] else "**missed**"))


def _row(cells: Sequence[str | float]) -> str:
    return f"| {' | '.join(cell if isinstance(cell, str) else number(cell) for cell in cells)} |"


def number(value: float) -> str:
    """With three digits that say something."""
    if math.isnan(value):  # nothing was measured
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def say(what: str) -> None:
    """To a person who waits."""
    print(f"{datetime.datetime.now():%H:%M:%S} {what}", file=sys.stderr, flush=True)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of what each turn says: two numbers of one turn were taken one right after the other.

    Infinite where `theirs` has none, such as a server that answered nobody.
    """
    return statistics.median(mine / other if other else math.inf for mine, other in zip(ours, theirs, strict=True))
