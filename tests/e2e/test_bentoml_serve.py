"""Tests `bentoml serve`: start, invalid packages and settings, bad requests, stop."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from resealed_packages import CONTENTS, resealed

from graft.training.pipelines.demo import running_server
from graft.training.pipelines.serve import environment

ROOT = Path(__file__).parents[2]


def test_server_is_ready_and_alive(server):
    assert httpx.get(f"{server}/readyz").status_code == 200
    assert httpx.get(f"{server}/livez").status_code == 200
    assert "graft_model_info" in httpx.get(f"{server}/metrics").text


def test_served_model_is_the_packaged_one(server, fitted):
    described = httpx.get(f"{server}/v1/model").json()
    assert described["sha256"] == fitted.artifact.manifest.sha256
    assert described["golden_difference"] <= 1e-4


@pytest.mark.parametrize("route", ["/classify", "/v1/classify"])
@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "image/png", 422, "empty_image"),
        (b"hello", "image/png", 415, "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n", "image/png", 422, "corrupt_image"),
        (b"hello", "text/plain", 415, "unsupported_media_type"),
        (b"{", "application/json", 400, "bad_json"),
        (b"cos\nsystem\n(S'true'\ntR.", "application/vnd.bentoml+pickle", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "bad_multipart"),
        (b"0" * (10 * 2**20 + 1), "image/png", 413, "body_too_large"),
    ],
)
def test_invalid_bodies_get_a_problem_response_on_both_routes(server, route, body, content_type, status, code):
    response = httpx.post(f"{server}{route}", content=body, headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("route", ["/classify", "/v1/classify"])
def test_url_in_the_image_field_is_never_fetched(server, route, listener):
    url, visits = f"http://{listener[0]}", listener[1]
    as_form = httpx.post(f"{server}{route}", files={"image": (None, url)})
    as_json = httpx.post(f"{server}{route}", json={"image": url})
    as_text = httpx.post(f"{server}{route}", content=url.encode(), headers={"Content-Type": "application/json"})
    assert [as_form.status_code, as_json.status_code, as_text.status_code] == [422, 422, 400]
    assert visits == []


def test_chunked_body_is_limited(server):
    chunks = (b"0" * 2**20 for _ in range(11))
    response = httpx.post(f"{server}/v1/classify", content=chunks, headers={"Content-Type": "image/png"})
    assert (response.status_code, response.json()["limit"]["setting"]) == (413, "GRAFT_MAX_BODY_BYTES")


def test_missing_package_ends_the_start_with_instructions(tmp_path):
    with bentoml_serve(tmp_path / "nothing") as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert "is not a package" in output
    assert "graft fit" in output


def test_damaged_package_is_not_served(fitted, tmp_path):
    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    with (package / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    with bentoml_serve(package) as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert "model.onnx" in output


def test_contents_that_clients_must_not_get_end_the_start(fitted, tmp_path):
    change, name, reason = CONTENTS["the thumbnails are SVG"]
    package = resealed(fitted.package, tmp_path / "package", change)
    with bentoml_serve(package) as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert [line for line in output.splitlines() if line.startswith("error: ")] == [
        f"error: {package / name} has a thumbnail that {reason}."
    ]


def test_another_package_than_the_trusted_one_ends_the_start(fitted):
    sha256 = fitted.artifact.manifest.sha256
    with bentoml_serve(fitted.package, GRAFT_PACKAGE_SHA256="ab" * 32) as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert sha256 in line
    assert "ab" * 32 in line


def test_misspelled_setting_ends_the_start(fitted):
    with bentoml_serve(fitted.artifact.path, GRAFT_MAX_BODY_BYTE="1") as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 2
    assert "Did you mean GRAFT_MAX_BODY_BYTES?" in output


def test_failed_golden_check_ends_the_start(fitted, tmp_path):
    import numpy as np

    from graft.service.artifact import file_record
    from graft.service.inference.golden import GoldenSamples
    from graft.service.manifest import GOLDEN, MANIFEST

    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    manifest = fitted.artifact.manifest
    golden = GoldenSamples.load(package / GOLDEN, manifest.fidelity)
    flipped = {name: logits[:, ::-1].astype(np.float32) for name, logits in golden.logits.items()}
    GoldenSamples(golden.encoded, flipped).save(package / GOLDEN)
    files = {**manifest.files, GOLDEN: file_record(package / GOLDEN)}
    (package / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).with_digest().to_bytes())
    with bentoml_serve(package) as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert "golden.npz" in output


@pytest.mark.slow
def test_sigterm_ends_all_processes(fitted):
    with running_server(fitted.artifact.path) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        processes = _server_processes(url)
    assert len(processes) >= 5  # the command, the worker, the fork server and the decode workers
    psutil.wait_procs(processes, timeout=10)
    assert [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_requests_through_bentoml_tracing_get_the_same_predictions(fitted, server, clothes, monkeypatch):
    monkeypatch.setenv("GRAFT_TRACING", "true")
    with running_server(fitted.artifact.path) as traced_url:
        responses = [httpx.post(f"{url}/v1/classify", content=clothes[0][1]).json() for url in (server, traced_url)]
        assert responses[0]["predictions"] == responses[1]["predictions"]
        assert httpx.get(f"{traced_url}/nothing").json()["code"] == "not_found"


def test_bentoml_schema_is_served_but_no_other_bentoml_route(server):
    assert {route["name"] for route in httpx.get(f"{server}/schema.json").json()["routes"]} == {"classify", "classify_batch"}
    assert [httpx.get(f"{server}{path}").status_code for path in ("/static_content/index.css", "/assets/", "/favicon.ico")] == [
        404,
        404,
        404,
    ]


@pytest.mark.slow
def test_bentoml_serve_in_the_repository_serves_the_latest_run(fitted, workplace):
    """Plain `bentoml serve` with bentofile.yaml in a folder with the runs of `graft fit`."""
    for name in ("bentofile.yaml", "service"):
        if not (workplace / name).exists():
            (workplace / name).symlink_to(ROOT / name)
    settings = {k: v for k, v in environment(fitted.artifact.path, 0).items() if k != "GRAFT_PACKAGE"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "bentoml", "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=workplace, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            assert _wait_until_ready(f"http://127.0.0.1:{port}/readyz")
            digest = httpx.get(f"http://127.0.0.1:{port}/v1/model").json()["sha256"]
            assert digest == fitted.artifact.manifest.sha256
        finally:
            server.send_signal(signal.SIGTERM)


@contextmanager
def bentoml_serve(
    package: Path,
    port: int = 0,
    prefix: tuple[str, ...] = (),
    **settings: str,
) -> Iterator[subprocess.Popen[str]]:
    command = [*prefix, sys.executable, "-m", "bentoml", "serve", "graft.service.app:Graft", "--port", str(port)]
    env = {**environment(package, port), **settings}
    server = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def _wait_until_ready(url: str) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return True
        except httpx.HTTPError:
            time.sleep(0.1)
    return False


def _server_processes(url: str) -> list[psutil.Process]:
    """All processes of the server at a URL."""
    port = url.rpartition(":")[2]
    [command] = [
        process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [])[-2:] == ["--port", port]
    ]
    return [command, *command.children(recursive=True)]


def test_bentoml_client_sends_a_batch(server, clothes, tmp_path):
    import bentoml

    images = [clothes[0][1], clothes[1][1], clothes[0][1][:90]]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, encoded in zip(paths, images, strict=True):
        path.write_bytes(encoded)
    with bentoml.SyncHTTPClient(server) as client:
        results = client.classify_batch(images=paths, top_k=1)["results"]
    assert [result["answer"]["predictions"][0]["label"] for result in results[:2]] == [clothes[0][0], clothes[1][0]]
    assert results[2]["error"]["code"] == "corrupt_image"


def test_a_taken_port_ends_the_start_with_one_line(fitted):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with bentoml_serve(fitted.artifact.path, port=port) as server:
            output, _ = server.communicate(timeout=60)
    assert server.returncode == 2
    assert output.startswith(f"error: --port {port}: another program already listens on port {port} of 127.0.0.1.")
    assert output.count("\n") == 1


# Starts a command as `nice -n 19` does, without root's right to raise a priority again; other users never have it.
NICED = """
import ctypes, os, sys
CAP_SYS_NICE, PR_CAPBSET_DROP = 23, 24
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_NICE)
os.nice(19)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
def test_a_niced_server_on_any_port_becomes_ready_and_prints_its_address(fitted):
    with bentoml_serve(fitted.artifact.path, prefix=(sys.executable, "-c", NICED)) as server:
        lines = iter(server.stdout.readline, "")
        ready = next(line for line in lines if line.startswith(("ready: ", "error: ")))
        url = ready.removeprefix("ready: ").strip()
        assert httpx.get(f"{url}/readyz").status_code == 200
    assert not url.endswith(":0")
