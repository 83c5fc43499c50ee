"""The tables of measurements in the documentation: they are written from benchmarks/results, and say what the results say."""

import copy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from measuring.documents import (
    DOCUMENTS,
    MARKER,
    TABLES,
    fill,
    missed,
    read_results,
    serving,
    summary,
    training,
    write_documents,
)
from measuring.tables import to_markdown

ROOT = Path(__file__).parents[2]
RESULTS = read_results()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_are_those_of_the_results(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == fill(text, RESULTS), "run `.venv/bin/python benchmarks/bench.py --docs-only`"


def test_every_table_is_shown():
    shown = {match["name"] for name in DOCUMENTS for match in MARKER.finditer((ROOT / name).read_text(encoding="utf-8"))}
    assert shown == set(TABLES)


@pytest.mark.parametrize("name", ["serving", "fitting", "start"])
def test_tables_of_all_results_are_those_of_the_records(name: str):
    text = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert text == to_markdown(RESULTS[name])
    assert text in (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


def results_with(name: str, title: str, rows: list[list[str | float]]) -> dict:
    """The results, with other rows in one table."""
    changed = copy.deepcopy(RESULTS)
    [table] = (table for table in changed[name]["tables"] if table["title"] == title)
    table["rows"] = rows
    return changed


def server_row(name: str, rate: float) -> list[str | float]:
    return [name, 8, 0.5, 1.0, rate, 6.0, 50.0, 80.0, 0.01, 0]


def test_the_strongest_server_is_named_first():
    servers = [
        server_row("/v1/classify, raw", 140.0),
        server_row("/v1/classify, form", 130.0),
        server_row("FastAPI + torch", 77.0),
        server_row("OpenVINO expert, raw", 160.0),
        server_row("OpenVINO expert, form", 151.0),
    ]
    results = results_with("serving", "photos of 40 KB", servers)
    assert "| photos of 40 KB per second, 8 clients | 130 | OpenVINO expert: 151 |" in summary(results)
    results["serving"]["tables"][1]["rows"] = servers
    names = [line.split(" | ")[0].removeprefix("| ") for line in serving(results).splitlines()[2:-1]]
    assert names == [
        "Graft, image as the body",
        "Graft, form",
        "OpenVINO expert, raw",
        "OpenVINO expert, form",
        "FastAPI + torch",
    ]


def test_the_fastest_of_the_accurate_trainers_is_the_one_to_compare_with():
    def fit(name: str, seconds: float, accuracy: float) -> list[str | float]:
        return [name, 1.0, seconds, seconds, accuracy, 1.0]

    rows = [
        fit("graft fit --strategy probe", 10.0, 0.95),
        fit("probe, first run (exports the backbone)", 20.0, 0.95),
        fit("slow and accurate", 200.0, 0.955),
        fit("fast and accurate", 17.0, 0.946),
        fit("faster but worse", 12.0, 0.90),
    ]
    results = results_with("fitting", "hymenoptera, 224 pixels", rows)
    assert "10 s (20 s with an empty cache), 95.0 % | fast and accurate: 17 s, 94.6 % |" in summary(results)
    assert training(results).splitlines()[4].startswith("| fast and accurate | 17 |")


def test_missed_targets_are_shown_and_met_ones_are_not():
    results = copy.deepcopy(RESULTS)
    for record in results.values():
        record["promises"] = []
    assert missed(results) == "No target was missed."
    results["start"]["promises"] = [
        {"what": "slow", "found": 3.0, "limit": 2.0, "at_most": True, "held": False},
        {"what": "fast", "found": 1.0, "limit": 2.0, "at_most": True, "held": True},
    ]
    results["growth"]["promises"] = [["memory", 400.0, "less than 300", False]]
    assert missed(results).splitlines()[2:] == ["| slow | 3 | at most 2 |", "| memory | 400 | less than 300 |"]


def test_only_documents_with_other_numbers_are_written(tmp_path: Path):
    for name in DOCUMENTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert write_documents(tmp_path, RESULTS) == []
    changed = copy.deepcopy(RESULTS)
    changed["growth"]["runs"][-1]["anonymous_mb"] = 12_345.0
    assert write_documents(tmp_path, changed) == ["docs/benchmarks.md", "docs/data-formats.md"]
    assert "12345 / " in (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_unknown_marker_is_an_error():
    with pytest.raises(KeyError, match="no-such-table"):
        fill("<!-- benchmark: no-such-table -->\n<!-- end of benchmark -->\n", RESULTS)
