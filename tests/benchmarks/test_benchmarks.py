"""Tests the calculations behind the benchmark tables, and that each benchmark starts and is documented."""

import io
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
from PIL import Image
from server_process import poll_until

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import accuracy
from bench import join_results, missed_targets
from fitting import CACHED, FIRST_RUN, PROBE, SKLEARN, FitResult, targets
from measuring.agreement import Agreement, compare
from measuring.installed import dependency_closure, marker_applies
from measuring.loads import FORM, LARGE, RAW, SMALL, Config, Endpoint, Measurements
from measuring.peers import PEERS, PeerSettings, find_fastest, peer_server
from measuring.pictures import phone_photo, random_crop, variants
from measuring.servers import Server, exclusive_server, started_server, suspended_servers
from measuring.serving_report import GRAFT, ServingResults, floor_over_best, peer_targets
from measuring.tables import Report, Table, Target, format_number, median_ratio, to_markdown
from measuring.wrk import multipart_request, parse_output, raw_request
from packaging.requirements import Requirement
from serving import CONNECTIONS, SLOW_CONNECTIONS
from start import locked_packages

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
WRK_OUTPUT = '{"n": 210, "seconds": 2.0, "p50_ms": 8.5, "p99_ms": 20.0, "failed": 10, "lost": 3}'


def photo(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_each_script_has_help(path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, path, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: {path.name}")


def test_readme_lists_every_file():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    files = [path for ending in ("py", "lua") for path in BENCHMARKS.rglob(f"*.{ending}") if path.name != "__init__.py"]
    assert [path.name for path in files if f"`{path.name}`" not in text] == []


def test_peers_use_the_same_library_versions():
    graft_versions, peer_versions = (
        dict(line.split(" ")[0].split("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line)
        for path in (ROOT / "requirements.lock", BENCHMARKS / "peers" / "requirements.lock")
    )
    shared = (
        "bentoml",
        "onnxruntime",
        "openvino",
        "pillow",
        "safetensors",
        "starlette",
        "timm",
        "torch",
        "torchvision",
        "uvicorn",
    )
    assert {name: peer_versions[name] for name in shared} == {name: graft_versions[name] for name in shared}


def test_ratios_are_computed_per_round():
    # The machine was twice as fast in the second round, for both.
    assert median_ratio([10.0, 20.0, 12.0], [5.0, 10.0, 4.0]) == 2.0
    assert median_ratio([10.0], [0.0]) == float("inf")


def test_target_that_is_just_reached_is_met():
    assert Target("ratio", 4.0, 4.0).held
    assert not Target("ratio", 3.99, 4.0).held
    assert Target("seconds", 2.0, 2.0, at_most=True).held
    assert not Target("seconds", 2.01, 2.0, at_most=True).held
    assert not Target("not measured", float("nan"), 2.0, at_most=True).held


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00123, "0.00123"), (3.14159, "3.14"), (99.94, "99.9"), (1234.5, "1,234"), (float("nan"), "-")],
)
def test_numbers_have_three_significant_digits(value: float, text: str):
    assert format_number(value) == text


def test_report_shows_targets_before_tables():
    report = Report("serving", "Serving", [Target("ratio to the floor", 0.9, 0.85), Target("p50", 1.4, 1.3, at_most=True)])
    report.tables = [Table("photos", ("server", "images/s"), (("Graft", 201.4), ("another", 40.26)))]
    report.notes = ["A note."]
    record = report.to_dict()
    assert missed_targets([record]) == ["p50"]
    assert to_markdown(record).splitlines()[4:] == [
        "| target | measured | required | |",
        "|---|---|---|---|",
        "| ratio to the floor | 0.9 | at least 0.85 | met |",
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


def test_results_of_other_benchmarks_are_kept(tmp_path: Path):
    (tmp_path / "growth.md").write_text("| images | seconds |\n", encoding="utf-8")
    (tmp_path / "start.md").write_text("## Starting\n", encoding="utf-8")
    (tmp_path / "serving.md").write_text("## Serving\n", encoding="utf-8")
    titles = [line for line in join_results(tmp_path).splitlines() if line.startswith("## ")]
    assert titles == ["## Serving", "## Starting", "## Scaling: from 1,000 to 100,000 images"]
    assert "| images | seconds |" in join_results(tmp_path)


def test_only_successful_responses_count():
    result = parse_output(f"Running 2s test\n{WRK_OUTPUT}\n", cpu_s=0.5)
    assert (result.rate, result.broken, result.processor, result.n_good) == (100.0, 13, 0.25, 200)
    assert (result.p50_ms, result.p99_ms) == (8.5, 20.0)


def test_requests_are_complete():
    assert raw_request("/a", b"12345").endswith(b"Content-Length: 5\r\n\r\n12345")
    head, _, body = multipart_request("/a", b"12345").partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.startswith(b'--7f3aa1c0de\r\nContent-Disposition: form-data; name="image"')
    assert body.endswith(b"\r\n\r\n12345\r\n--7f3aa1c0de--\r\n")


def test_agreement_counts_top_labels_and_the_largest_difference():
    reference = [{"ants": 0.9, "bees": 0.1}, {"ants": 0.51, "bees": 0.49}]
    other = [{"bees": 0.1, "ants": 0.9}, {"ants": 0.48, "bees": 0.52}]
    assert compare(reference, other) == Agreement(2, 1, pytest.approx(0.03))


def test_variants_are_distinct_photos():
    originals = [photo(40, 30), photo(30, 50)]
    photos = variants(originals, 9)
    assert photos[:2] == originals
    assert len(set(photos)) == 9
    sizes = [Image.open(io.BytesIO(encoded)).size for encoded in photos]
    assert sizes == [(40, 30), (30, 50), (40, 30), (30, 50), (32, 24), (24, 40), (30, 40), (50, 30), (40, 30)]


def test_phone_photo_has_12_megapixels_and_noise():
    large = phone_photo(photo(40, 30))
    assert Image.open(io.BytesIO(large)).size == (4000, 3000)
    assert 2e6 < len(large) < 8e6


def measurements_with(rates: dict[str, tuple[float, float]]) -> Measurements:
    """Measurements of two rounds with 8 connections, by endpoint; a name ends with `, raw` if it takes image bodies."""
    only_8 = {SMALL: (8,), LARGE: ()}
    endpoints = [Endpoint(name, RAW if name.endswith(", raw") else FORM, None, bytes, only_8) for name in rates]
    measurements = Measurements(endpoints, {SMALL: [], LARGE: []}, None, Config())
    for endpoint, round_rates in rates.items():
        outputs = [WRK_OUTPUT.replace("210", str(round(2 * rate + 10))) for rate in round_rates]
        measurements.results[SMALL, 8, endpoint] = [parse_output(output, 0.0) for output in outputs]
    measurements.floors[SMALL] = {"threads": [300.0, 310.0], "processes": [320.0, 290.0]}
    return measurements


def test_speedup_is_relative_to_the_best_peer():
    measurements = measurements_with({"Graft": (200.0, 240.0), "slow": (10.0, 12.0), "fast": (50.0, 60.0)})
    assert measurements.speedup_over_best(SMALL, 8, "Graft", ["slow", "fast"]) == 4.0
    assert measurements.speedup_over_best(SMALL, 8, "Graft", ["slow", "not measured with 8 connections"]) == 20.0


def test_forms_are_compared_with_forms_and_image_bodies_with_image_bodies():
    rates = {
        GRAFT[RAW]: (200.0, 200.0),
        GRAFT[FORM]: (150.0, 150.0),
        "expert, raw": (160.0, 160.0),
        "expert, form": (100.0, 100.0),
    }
    results = ServingResults(measurements_with(rates), {}, {}, (1.0, 2.0))
    assert (results.peers(RAW), results.peers(FORM)) == (["expert, raw"], ["expert, form"])


def test_experts_count_as_peers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("measuring.serving_report.TARGET_CONNECTIONS", (8,))
    rates = {
        GRAFT[RAW]: (120.0, 120.0),
        GRAFT[FORM]: (110.0, 110.0),
        "OpenVINO expert, raw": (150.0, 150.0),
        "OpenVINO expert, form": (100.0, 100.0),
        "FastAPI + torch": (50.0, 50.0),
    }
    results = ServingResults(measurements_with(rates), {}, {}, (1.0, 2.0))
    raw, form = peer_targets(results)
    assert (raw.what, raw.found, raw.held) == (f"{SMALL}, 8 connections, raw: speed-up over the best peer", 0.8, False)
    assert (form.found, form.held) == (pytest.approx(1.1), False)


def test_report_says_which_speedup_is_possible():
    measurements = measurements_with({GRAFT[FORM]: (150.0, 150.0), "expert": (150.0, 155.0), "slow": (10.0, 10.0)})
    assert floor_over_best(ServingResults(measurements, {}, {}, (1.0, 2.0)), SMALL) == 2.0


def test_trials_alternate_and_last_as_many_rounds_as_the_comparison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    rates = iter(
        [50.0, 60.0, 90.0, 70.0, 40.0, 65.0]
    )  # the second settings have the higher median, the first the highest value
    measured: list[str] = []
    monkeypatch.setattr("measuring.peers.suspended_servers", lambda servers: nullcontext())
    monkeypatch.setattr("measuring.peers.exclusive_server", nullcontext)
    settings = PEERS["FastAPI + torch"].settings

    def measure(server: Server) -> float:
        measured.append(server.environment["PEER_THREADS"] + " threads, workers: " + server.command[-1])
        return next(rates)

    best, medians = find_fastest("FastAPI + torch", tmp_path, tmp_path, 2, 3, measure)
    assert measured == ["1 threads, workers: 2", "1 threads, workers: 1"] * 3
    assert (best, medians) == (settings[1], {str(settings[0]): 50.0, str(settings[1]): 65.0})


def test_server_of_a_peer_gets_its_settings(tmp_path: Path):
    server = peer_server("OpenVINO expert", PeerSettings(2, 1, parallel=3, streams=2), tmp_path, tmp_path)
    wanted = {"PEER_THREADS": "2", "OMP_NUM_THREADS": "2", "PEER_PARALLEL": "3", "PEER_STREAMS": "2"}
    assert {name: server.environment.get(name) for name in wanted} == wanted
    assert server.command[-2:] == ["--workers", "1"]


def test_settings_of_peers_are_told_apart():
    for peer in PEERS.values():
        assert len({str(settings) for settings in peer.settings}) == len(peer.settings)
    assert str(PeerSettings(1, 2, 1)) == "workers: 2, threads: 1, no batches"


def test_each_number_of_connections_is_measured_for_all_endpoints_in_a_row():
    endpoints = [Endpoint("fast", FORM, None, bytes, CONNECTIONS[FORM]), Endpoint("slow", FORM, None, bytes, SLOW_CONNECTIONS)]
    measurements = Measurements(endpoints, {SMALL: [], LARGE: []}, None, Config())
    cells = [(number, endpoint.name) for number, endpoint in measurements.cells(LARGE)]
    assert cells == [(8, "fast"), (8, "slow"), (32, "fast")]


def test_random_crops_are_different_photos_of_the_same_size_every_time():
    original = photo(90, 60)
    crops = [random_crop(original, seed) for seed in range(5)]
    assert len({Image.open(io.BytesIO(crop)).tobytes() for crop in crops}) == 5
    assert {Image.open(io.BytesIO(crop)).size for crop in crops} == {(90, 60)}
    assert random_crop(original, 3) == crops[3]


def test_floor_is_the_way_with_the_higher_median():
    measurements = measurements_with({})
    assert measurements.floor(SMALL) in ([300.0, 310.0], [320.0, 290.0])
    measurements.floors[SMALL]["processes"] = [320.0, 320.0]
    assert measurements.floor(SMALL) == [320.0, 320.0]


def test_slow_server_gets_a_longer_load():
    measurements = measurements_with({})
    measurements.results[LARGE, 1, "slow"] = [parse_output(WRK_OUTPUT.replace("210", "30"), 0.0)]  # 10 per second
    assert measurements._load_seconds((LARGE, 8, "slow")) == pytest.approx(4.8)
    assert measurements._load_seconds((LARGE, 32, "slow")) == 8.0
    assert measurements._load_seconds((SMALL, 8, "unknown")) == 3.0


def test_probe_is_compared_with_logistic_regression_and_the_best_epoch_of_fastai():
    results = [
        FitResult(FIRST_RUN, 40.0, 50.0, (0.95,), float("nan"), True),
        FitResult(PROBE, 8.0, 12.0, (0.95,), float("nan"), True),
        FitResult(PROBE, 10.0, 12.0, (0.95,), float("nan"), True),
        FitResult(CACHED, 5.0, 6.0, (0.95,), float("nan"), True),
        FitResult("fastai fine_tune(4)", 270.0, 500.0, (0.90, 0.93, 0.91), 5.0, True),
        FitResult(SKLEARN, 16.0, 20.0, (0.96,), 15.0, True),
        FitResult(SKLEARN, 20.0, 20.0, (0.96,), 15.0, True),
    ]
    measured = targets(results, [0.92, 0.88, 0.95])
    assert [target.found for target in measured] == pytest.approx([2.0, 0.45, -0.01, 30.0, 6.75, 0.02, 0.92])
    assert [target.held for target in measured] == [True, False, False, True, False, True, True]


def test_requirements_of_an_extra_count_only_with_the_extra():
    requirement = Requirement('httptools; extra == "standard"')
    assert marker_applies(requirement, frozenset({"standard"}))
    assert not marker_applies(requirement, frozenset())
    assert not marker_applies(Requirement('colorama; sys_platform == "win32"'), frozenset())
    assert {"pillow", "timm", "torch", "torchvision"} <= set(dependency_closure(["timm", "pillow"]))


def test_package_names_are_read_from_a_lock_file(tmp_path: Path):
    (tmp_path / "some.lock").write_text("a2wsgi==1.10 \\\n    --hash=sha256:aa\n    # via b\nb-c==2 ; x < '3' \\\n")
    assert locked_packages(tmp_path / "some.lock") == ["a2wsgi", "b-c"]


def test_only_one_server_runs_at_a_time(tmp_path: Path):
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
    servers = [Server(name, command, "/", folder=tmp_path) for name in ("one", "other")]
    with suspended_servers(servers):
        mains = [psutil.Process(server.process.pid) for server in servers]
        assert [main.status() for main in mains] == ["stopped", "stopped"]
        with exclusive_server(servers[0]):
            assert [main.status() == "stopped" for main in mains] == [False, True]
        assert [main.status() for main in mains] == ["stopped", "stopped"]
    assert not any(main.is_running() for main in mains)


def test_wait_until_idle_returns_after_the_work_is_done(tmp_path: Path):
    begun, done = tmp_path / "begun", tmp_path / "done"
    work = f"from pathlib import Path; import time; Path({str(begun)!r}).touch(); end = time.process_time() + 1"
    program = f"{work}\nwhile time.process_time() < end: pass\nPath({str(done)!r}).touch(); time.sleep(60)"
    server = Server("busy", [sys.executable, "-c", program], "/", folder=tmp_path)
    with started_server(server):
        poll_until(begun.exists)
        server.wait_until_idle()
        assert done.exists()


def test_server_that_fails_to_start_reports_its_output(tmp_path: Path):
    broken = Server("broken", [sys.executable, "-c", "raise SystemExit('no model')"], "/", folder=tmp_path)
    with pytest.raises(RuntimeError, match="broken did not become ready:\nno model"), suspended_servers([broken]):
        pass


def test_runs_of_one_set_and_strategy_are_one_row():
    values = ("probe", 0.9, 0.8, 0.95, 0.85, 0.5, 10.0), ("finetune", 0.8, 0.7, 0.9, 0.75, 0.7, 30.0)
    outcomes = [accuracy.Outcome("birds", "auto", seed, *found) for seed, found in enumerate(values)]
    outcomes.append(accuracy.Outcome("birds", "probe", 0, *values[0]))
    first, second = accuracy.to_rows(outcomes)
    assert first == ("birds", "auto", "finetune, probe", "85.0", "80.0 to 95.0", "80.0", pytest.approx(0.6), 20)
    assert second[:3] == ("birds", "probe", "probe")
    assert len(first) == len(accuracy.COLUMNS)


@pytest.mark.slow
def test_checks_of_a_gpu_run_on_a_cpu_too(tmp_path: Path):
    """Those that need no GPU to make sense; a machine with one runs all of them."""
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--dry-run", "--only", "1", "2", "3", "5"]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "gpu.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    verdicts = {title: found["verdict"] for title, found in json.loads((tmp_path / "gpu.json").read_text()).items()}
    assert set(verdicts.values()) == {"PASS"}
    assert {title[0] for title in verdicts} == {"1", "2", "3", "5"}
