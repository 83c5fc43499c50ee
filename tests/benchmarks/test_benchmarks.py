"""What the benchmarks' tables say follows from what was measured, and every one of them can be started and is described."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bench import joined, missed
from fitting import AGAIN, COLD, PROBE, Fit, promises
from measuring.agreement import Agreement, compare
from measuring.installed import applies, closure
from measuring.pictures import of_a_phone, variants
from measuring.servers import Server, alone, running, stopping
from measuring.tables import Promise, Report, Table, markdown, number, ratio
from measuring.wrk import multipart, outcome, raw
from packaging.requirements import Requirement
from serving import FORM, LARGE, RAW, SMALL, TWIN, Size, Turns, times_best
from start import locked

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SAID = '{"n": 210, "seconds": 2.0, "p50_ms": 8.5, "p99_ms": 20.0, "failed": 10, "lost": 3}'


def photo(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_each_says_what_it_measures(path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, path, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith(f"usage: {path.name}")


def test_the_readme_names_every_file():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    files = [path for ending in ("py", "lua") for path in BENCHMARKS.rglob(f"*.{ending}") if path.name != "__init__.py"]
    assert [path.name for path in files if f"`{path.name}`" not in text] == []


def test_peers_have_the_same_libraries_as_we():
    own, theirs = (
        dict(line.split(" ")[0].split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line)
        for path in (ROOT / "requirements.lock", BENCHMARKS / "peers" / "requirements.lock")
    )
    shared = ("bentoml", "pillow", "safetensors", "starlette", "timm", "torch", "torchvision", "uvicorn")
    assert {name: theirs[name] for name in shared} == {name: own[name] for name in shared}


def test_each_turn_is_compared_with_itself():
    # A machine that was twice as fast in the second turn, for both.
    assert ratio([10.0, 20.0, 12.0], [5.0, 10.0, 4.0]) == 2.0
    assert ratio([10.0], [0.0]) == float("inf")


def test_a_target_that_is_just_reached_is_held():
    assert Promise("ratio", 4.0, 4.0).held
    assert not Promise("ratio", 3.99, 4.0).held
    assert Promise("seconds", 2.0, 2.0, at_most=True).held
    assert not Promise("seconds", 2.01, 2.0, at_most=True).held
    assert not Promise("what was not measured", float("nan"), 2.0, at_most=True).held


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00123, "0.00123"), (3.14159, "3.14"), (99.94, "99.9"), (1234.5, "1,234"), (float("nan"), "-")],
)
def test_numbers_have_three_digits(value: float, text: str):
    assert number(value) == text


def test_a_report_shows_targets_before_tables():
    report = Report("serving", "Serving", [Promise("of the floor", 0.9, 0.85), Promise("p50", 1.4, 1.3, at_most=True)])
    report.tables = [Table("photos", ("server", "images/s"), (("Graft", 201.4), ("another", 40.26)))]
    report.notes = ["A note."]
    record = report.record()
    assert missed([record]) == ["p50"]
    assert markdown(record).splitlines()[4:] == [
        "| target | found | wanted | |",
        "|---|---|---|---|",
        "| of the floor | 0.9 | at least 0.85 | held |",
        "| p50 | 1.4 | at most 1.3 | **missed** |",
        "",
        "**photos**",
        "",
        "| server | images/s |",
        "|---|---|",
        "| Graft | 201 |",
        "| another | 40.3 |",
        "",
        "- A note.",
    ]


def test_results_of_other_benchmarks_stay(tmp_path: Path):
    (tmp_path / "growth.md").write_text("| images | seconds |\n", encoding="utf-8")
    (tmp_path / "start.md").write_text("## Starting\n", encoding="utf-8")
    (tmp_path / "serving.md").write_text("## Serving\n", encoding="utf-8")
    titles = [line for line in joined(tmp_path).splitlines() if line.startswith("## ")]
    assert titles == ["## Serving", "## Starting", "## Growth: a hundred times the images"]
    assert "| images | seconds |" in joined(tmp_path)


def test_only_good_answers_count_as_answers():
    found = outcome(f"Running 2s test\n{SAID}\n", processor_s=0.5)
    assert (found.rate, found.broken, found.processor) == (100.0, 13, 0.25)
    assert (found.p50_ms, found.p99_ms) == (8.5, 20.0)


def test_requests_are_whole():
    assert raw("/a", b"12345").endswith(b"Content-Length: 5\r\n\r\n12345")
    head, _, body = multipart("/a", b"12345").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.startswith(b'--7f3aa1c0de\r\nContent-Disposition: form-data; name="image"')
    assert body.endswith(b"\r\n\r\n12345\r\n--7f3aa1c0de--\r\n")


def test_answers_agree_by_their_top_label_and_by_how_far_they_are_apart():
    ours = [{"ants": 0.9, "bees": 0.1}, {"ants": 0.51, "bees": 0.49}]
    theirs = [{"bees": 0.1, "ants": 0.9}, {"ants": 0.48, "bees": 0.52}]
    assert compare(ours, theirs) == Agreement(2, 1, pytest.approx(0.03))


def test_there_are_as_many_different_photos_as_wanted():
    originals = [photo(40, 30), photo(30, 50)]
    found = variants(originals, 9)
    assert found[:2] == originals
    assert len(set(found)) == 9
    sizes = [Image.open(io.BytesIO(each)).size for each in found]
    assert sizes == [(40, 30), (30, 50), (40, 30), (30, 50), (32, 24), (24, 40), (30, 40), (50, 30), (40, 30)]


def test_a_phones_photo_has_12_megapixels_and_grain():
    large = of_a_phone(photo(40, 30))
    assert Image.open(io.BytesIO(large)).size == (4000, 3000)
    assert 2e6 < len(large) < 8e6


def loaded(rates: dict[str, tuple[float, float]]) -> Turns:
    """What two rounds found with 8 connections, by target."""
    turns = Turns([], {SMALL: [], LARGE: []}, None, Size())
    for target, both in rates.items():
        said = [SAID.replace("210", str(round(2 * rate + 10))) for rate in both]
        turns.found[SMALL, 8, target] = [outcome(each, 0.0) for each in said]
    turns.floors[SMALL] = {"threads": [300.0, 310.0], "processes": [320.0, 290.0]}
    return turns


def test_the_best_peer_is_the_one_to_beat():
    turns = loaded({FORM: (200.0, 240.0), "slow": (10.0, 12.0), "fast": (50.0, 60.0)})
    assert times_best(turns, SMALL, 8, FORM, ["slow", "fast"]) == 4.0


def test_the_floor_is_the_faster_way_by_its_median():
    turns = loaded({})
    assert turns.floor(SMALL) in ([300.0, 310.0], [320.0, 290.0])
    turns.floors[SMALL]["processes"] = [320.0, 320.0]
    assert turns.floor(SMALL) == [320.0, 320.0]


def test_a_slow_server_is_asked_for_longer():
    turns = loaded({})
    turns.found[LARGE, 1, "slow"] = [outcome(SAID.replace("210", "30"), 0.0)]  # 10 a second
    assert turns._seconds((LARGE, 8, "slow")) == pytest.approx(4.8)
    assert turns._seconds((LARGE, 32, "slow")) == 10.0
    assert turns._seconds((SMALL, 8, RAW)) == turns._seconds((SMALL, 8, TWIN)) == 4.0


def test_the_probe_is_held_against_fastai_as_it_is_and_against_its_best_epoch():
    fits = [
        Fit(COLD, 40.0, 50.0, (0.95,), float("nan"), True),
        Fit(PROBE, 8.0, 12.0, (0.95,), float("nan"), True),
        Fit(PROBE, 10.0, 12.0, (0.95,), float("nan"), True),
        Fit(AGAIN, 5.0, 6.0, (0.95,), float("nan"), True),
        Fit("fastai fine_tune(4)", 270.0, 500.0, (0.90, 0.93, 0.91), 5.0, True),
    ]
    found = promises(fits, [0.92, 0.88, 0.95])
    assert [promise.found for promise in found] == pytest.approx([30.0, 6.75, 0.02, 0.92])
    assert [promise.held for promise in found] == [True, False, True, True]


def test_what_an_extra_needs_counts_only_with_the_extra():
    needed = Requirement('httptools; extra == "standard"')
    assert applies(needed, frozenset({"standard"}))
    assert not applies(needed, frozenset())
    assert not applies(Requirement('colorama; sys_platform == "win32"'), frozenset())
    assert {"pillow", "timm", "torch", "torchvision"} <= set(closure(["timm", "pillow"]))


def test_a_lock_files_requirements_are_its_names(tmp_path: Path):
    (tmp_path / "some.lock").write_text("a2wsgi==1.10 \\\n    --hash=sha256:aa\n    # via b\nb-c==2 ; x < '3' \\\n")
    assert locked(tmp_path / "some.lock") == ["a2wsgi", "b-c"]


def test_of_all_servers_only_one_runs(tmp_path: Path):
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
    both = [Server(name, command, "/", folder=tmp_path) for name in ("one", "other")]
    with running(both):
        mains = [psutil.Process(server.main.pid) for server in both]
        assert [main.status() for main in mains] == ["stopped", "stopped"]
        with alone(both[0]):
            assert [main.status() == "stopped" for main in mains] == [False, True]
        assert [main.status() for main in mains] == ["stopped", "stopped"]
    assert not any(main.is_running() for main in mains)


def test_a_server_rests_once_it_has_done_what_it_was_asked(tmp_path: Path):
    busy_at_first = "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass\ntime.sleep(60)"
    server = Server("busy", [sys.executable, "-c", busy_at_first], "/", folder=tmp_path)
    with stopping(server):
        begun = time.monotonic()
        server.rest()
        assert time.monotonic() - begun > 0.9


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path):
    broken = Server("broken", [sys.executable, "-c", "raise SystemExit('no model')"], "/", folder=tmp_path)
    with pytest.raises(RuntimeError, match="broken did not become ready:\nno model"), running([broken]):
        pass
