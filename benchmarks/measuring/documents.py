"""Writes the tables of the documentation from `results/*.json`, between markers, so that no number is copied by hand.

A marker is a pair of comments, `<!-- benchmark: NAME -->` and `<!-- end of benchmark -->`; NAME is a key of `TABLES`.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from measuring.tables import format_number

ROOT = Path(__file__).parents[2]
RESULTS_DIR = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/benchmarks.md", "docs/operating.md", "docs/data-formats.md")
MARKER = re.compile(
    r"(?P<start><!-- benchmark: (?P<name>[a-z0-9-]+) -->\n).*?(?P<end>^<!-- end of benchmark -->$)", re.DOTALL | re.MULTILINE
)
PROBE, FIRST_RUN = "graft fit --strategy probe", "probe, first run (exports the backbone)"
RAW, FORM = "/v1/classify, raw", "/v1/classify, form"
HYMENOPTERA = "hymenoptera, 224 pixels"
PHOTOS = ("photos of 40 KB", "photos of 12 megapixels")
COMPARABLE_ACCURACY = 0.01  # a peer that is less accurate than the best by more than this is not the one to compare with
Results = dict[str, dict[str, Any]]  # the records of the benchmarks, by name
Row = dict[str, Any]


def read_results(folder: Path = RESULTS_DIR) -> Results:
    """The latest record of each benchmark. Raises FileNotFoundError if one has none."""
    names = ("serving", "fitting", "start", "growth", "int8")
    return {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def write_documents(root: Path = ROOT, results: Results | None = None) -> list[str]:
    """Write the tables between the markers of all documents; return the names of those that changed."""
    results, changed = results or read_results(), []
    for name in DOCUMENTS:
        text = (root / name).read_text(encoding="utf-8")
        if (filled := fill(text, results)) != text:
            (root / name).write_text(filled, encoding="utf-8")
            changed.append(name)
    return changed


def fill(text: str, results: Results) -> str:
    """A text with the tables of these results between its markers. Raises KeyError for an unknown name."""
    return MARKER.sub(lambda match: f"{match['start']}\n{TABLES[match['name']](results)}\n\n{match['end']}", text)


def machines(results: Results) -> str:
    """When, and on which machine, each benchmark ran."""
    return markdown(
        ("benchmark", "date and machine"), [(name, _machine(record["machine"])) for name, record in results.items()]
    )


def summary(results: Results) -> str:
    """The table of the README: Graft and the strongest peer for each question."""
    fits = {row["tool"]: row for row in rows(results["fitting"], HYMENOPTERA)}
    peer = strongest_trainer(fits.values())
    probe, first = fits[PROBE], fits[FIRST_RUN]
    lines = [
        (
            "training on 243 photos of ants and bees; accuracy on 153 test photos",
            f"{probe['seconds']:.0f} s ({first['seconds']:.0f} s with an empty cache), {percent(probe['accuracy'])}",
            f"{peer['tool']}: {peer['seconds']:.0f} s, {percent(peer['accuracy'])}",
        )
    ]
    for photos in PHOTOS:
        graft, best = server_rate(results, photos, FORM), strongest_server(results, photos)
        name, rate = best["server"].removesuffix(", form"), best["images/s"]
        lines.append((f"{photos} per second, 8 clients", f"{graft:.0f}", f"{name}: {rate:.0f}"))
    lines.append(("install size for serving", *_install_sizes(results)))
    return markdown(("", "Graft", "best of the others"), [*lines, _large_fit(results["growth"])])


def int8(results: Results) -> str:
    """The f32 and the int8 model on test, whether int8 may be served, and the speed of the network in each precision."""
    found = results["int8"]["measured"].values()
    names = tuple(dict.fromkeys(name for one in found for name in one["images_per_second"]))
    lines = [
        (
            one["data"],
            one["strategy"],
            *(f"{percent(one['accuracy'][index])} / {one['log_loss'][index]:.3f}" for index in (0, 1)),
            percent(one["agreement"]),
            "yes" if one["served"] else "no",
            *(format_number(one["images_per_second"][name]) for name in names),
        )
        for one in found
    ]
    columns = ("set", "strategy", "f32: accuracy / log-loss", "int8", "same label", "may be served")
    return markdown((*columns, *(f"{name}, images/s" for name in names)), lines)


def training(results: Results) -> str:
    """Seconds and accuracy of all tools, Graft first, then the strongest peer."""
    fits = rows(results["fitting"], HYMENOPTERA)
    best = strongest_trainer(fits)["tool"]
    order = sorted(fits, key=lambda row: (not is_graft(row["tool"]), row["tool"] != best, row["seconds"]))
    lines = [(row["tool"], format_number(row["seconds"]), percent(row["accuracy"])) for row in order]
    return markdown(("tool", "seconds", "accuracy"), lines)


def serving(results: Results) -> str:
    """Images per second and processor time with 8 connections, Graft first, then the peers, the fastest first."""
    small, large = (
        {row["server"]: row for row in rows(results["serving"], photos) if row["connections"] == 8} for photos in PHOTOS
    )
    peers = sorted((name for name in small if not is_graft(name)), key=lambda name: -small[name]["images/s"])
    shown = {RAW: "Graft, image as the body", FORM: "Graft, form"} | {name: name for name in peers}
    lines = [
        (text, *(format_number(rates[name][column]) for column in ("images/s", "CPU ms an image") for rates in (small, large)))
        for name, text in shown.items()
    ]
    [floors] = (table for table in results["serving"]["tables"] if table["title"].startswith("Floor"))
    floor = ("the floor: decoding and inference without HTTP", *(format_number(max(row[1:])) for row in floors["rows"]), "", "")
    columns = [f"{photos}, {unit}" for unit in ("images/s", "processor ms an image") for photos in PHOTOS]
    return markdown(("server", *columns), [*lines, floor])


def missed(results: Results) -> str:
    """All targets that were missed."""
    promises = [
        promise for name in ("fitting", "serving", "start") for promise in results[name]["promises"] if not promise["held"]
    ]
    lines = [
        (
            promise["what"],
            format_number(promise["found"]),
            f"{'at most' if promise['at_most'] else 'at least'} {format_number(promise['limit'])}",
        )
        for promise in promises
    ]
    lines += [(what, format_number(found), limit) for what, found, limit, held in results["growth"]["promises"] if not held]
    return markdown(("missed target", "measured", "required"), lines) if lines else "No target was missed."


def startup(results: Results) -> str:
    """Start and size."""
    seconds = {
        row["what"]: row["seconds"] for row in rows(results["start"], "From `bentoml serve` to the first correct response")
    }
    empty = seconds["an empty BentoML service"]
    start = ("seconds from `bentoml serve` to the first correct answer", format_number(seconds["Graft"]))
    lines = [
        (*start, f"{format_number(empty)} for an empty BentoML service"),
        ("install size for serving", *_install_sizes(results)),
    ]
    return markdown(("what", "Graft", "others"), lines)


def growth(results: Results) -> str:
    """Time and memory by number of images."""
    commands = {
        "check": "`graft check`",
        "fit": "`graft fit --strategy probe`",
        "fit again": "the same again",
        "predict": "`graft predict`",
    }
    runs = results["growth"]["runs"]
    lines = []
    for n_images in sorted({run["n_images"] for run in runs}):
        found = {run["verb"]: run for run in runs if run["n_images"] == n_images}
        lines.append((f"{n_images:,}", *(_cost(found[verb]) for verb in commands)))
    return f"{results['growth']['images']}\n\n" + markdown(("images", *commands.values()), lines)


def capacity(results: Results) -> str:
    """What one server can take, for operators."""
    wanted = [(PHOTOS[0], 1), (PHOTOS[0], 8), (PHOTOS[1], 8)]
    lines = [
        (photos, str(n), f"{row['images/s']:.0f}", f"{row['p50 ms']:.0f} ms", f"{row['p99 ms']:.0f} ms")
        for photos, n in wanted
        for row in rows(results["serving"], photos)
        if (row["server"], row["connections"]) == (RAW, n)
    ]
    return markdown(("images", "clients", "images/s", "p50", "p99"), lines)


TABLES: dict[str, Callable[[Results], str]] = {
    "machines": machines,
    "summary": summary,
    "training": training,
    "serving": serving,
    "missed": missed,
    "start": startup,
    "growth": growth,
    "int8": int8,
    "capacity": capacity,
}


def rows(record: dict[str, Any], title: str) -> list[Row]:
    """The rows of a table of a record, by column. Raises ValueError if there is no such table."""
    [table] = (table for table in record["tables"] if table["title"] == title)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def is_graft(name: str) -> bool:
    """Whether a row is Graft's own and not a peer's."""
    return name.startswith(("graft ", "probe, ", "/"))


def strongest_trainer(fits: Iterable[Row]) -> Row:
    """The fastest of the peers that are as accurate as the most accurate one, up to `COMPARABLE_ACCURACY`."""
    peers = [row for row in fits if not is_graft(row["tool"])]
    best = max(row["accuracy"] for row in peers)
    return min((row for row in peers if row["accuracy"] >= best - COMPARABLE_ACCURACY), key=lambda row: row["seconds"])


def strongest_server(results: Results, photos: str) -> Row:
    """The peer with the most images per second: 8 connections, forms, as all peers take them."""
    found = [row for row in rows(results["serving"], photos) if row["connections"] == 8]
    return max(
        (row for row in found if not is_graft(row["server"]) and not row["server"].endswith(", raw")),
        key=lambda row: row["images/s"],
    )


def server_rate(results: Results, photos: str, server: str) -> float:
    """Images per second of a server with 8 connections."""
    [rate] = (row["images/s"] for row in rows(results["serving"], photos) if (row["server"], row["connections"]) == (server, 8))
    return float(rate)


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *lines))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _machine(machine: dict[str, Any] | str) -> str:
    if isinstance(machine, str):  # of growth.py
        return machine
    return f"{machine['when'][:10]}, {machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB"


def _install_sizes(results: Results) -> tuple[str, str]:
    sizes = {row["what"]: row for row in rows(results["start"], "Packages needed for serving")}
    graft = sizes.pop("Graft")
    lines = []
    for kind in (" + torch", ""):
        of_kind = [row for row in sizes.values() if row["what"].endswith(" + torch") == bool(kind)]
        if of_kind:
            lines.append(_install_size(min(of_kind, key=lambda row: row["MB without CUDA libraries"])))
    return f"{graft['MB']:.0f} MB", "; ".join(reversed(lines))


def _install_size(row: Row) -> str:
    if row["MB"] == row["MB without CUDA libraries"]:
        return f"{row['what']}: {row['MB']:.0f} MB"
    return f"{row['what']}: {row['MB without CUDA libraries'] / 1000:.1f} GB without CUDA, {row['MB'] / 1000:.1f} GB with it"


def _large_fit(record: dict[str, Any]) -> tuple[str, str, str]:
    largest = max((run for run in record["runs"] if run["verb"] == "fit"), key=lambda run: run["n_images"])
    memory = f"{largest['anonymous_mb'] / 1000:.1f} GB of memory ({largest['resident_mb'] / 1000:.1f} GB with mapped files)"
    what = f"training on {largest['n_images']:,} images made from 396 photos"
    return what, f"{largest['seconds'] / 60:.0f} min, {memory}", "not measured"


def _cost(run: dict[str, Any]) -> str:
    milliseconds = 1e3 * run["seconds"] / run["n_images"]
    return f"{milliseconds:.1f} ms per image, {run['anonymous_mb']:.0f} / {run['resident_mb']:.0f} MB"
