"""The BentoML service as an operator meets it: started, refused, asked badly, stopped."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from graft.training.pipelines.demo import serving
from graft.training.pipelines.serve import environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[str, list[str]]]:
    """A local address that counts who connects to it."""
    visits: list[str] = []
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def watch() -> None:
            while True:
                try:
                    visitor, address = door.accept()
                except OSError:
                    return
                visits.append(str(address))
                visitor.close()

        threading.Thread(target=watch, daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}/cat.jpg", visits
        door.shutdown(socket.SHUT_RDWR)


def test_it_is_ready_and_alive(server):
    assert httpx.get(f"{server}/readyz").status_code == 200
    assert httpx.get(f"{server}/livez").status_code == 200
    assert "graft_model_info" in httpx.get(f"{server}/metrics").text


def test_the_model_that_answers_is_the_one_that_was_packed(server, fitted):
    described = httpx.get(f"{server}/v1/model").json()
    assert described["sha256"] == fitted.artifact.manifest.sha256
    assert described["drift"] <= 1e-4


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
def test_bad_bodies_get_a_problem_on_both_routes(server, route, body, content_type, status, code):
    answer = httpx.post(f"{server}{route}", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("route", ["/classify", "/v1/classify"])
def test_a_url_in_the_image_field_is_never_fetched(server, route, listener):
    url, visits = listener
    as_form = httpx.post(f"{server}{route}", files={"image": (None, url)})
    as_json = httpx.post(f"{server}{route}", json={"image": url})
    as_text = httpx.post(f"{server}{route}", content=url.encode(), headers={"Content-Type": "application/json"})
    assert [as_form.status_code, as_json.status_code, as_text.status_code] == [422, 422, 400]
    assert visits == []


def test_a_chunked_body_is_counted_too(server):
    pieces = (b"0" * 2**20 for _ in range(11))
    answer = httpx.post(f"{server}/v1/classify", content=pieces, headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["limit"]["setting"]) == (413, "GRAFT_MAX_BODY_BYTES")


def test_without_a_package_it_says_how_to_make_one_and_ends(tmp_path):
    with bentoml_serve(tmp_path / "nothing") as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert "is not a package" in output
    assert "graft fit" in output


def test_a_damaged_package_never_serves(fitted, tmp_path):
    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    with (package / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    with bentoml_serve(package) as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert "model.onnx" in output


def test_a_misspelt_setting_ends_it_at_the_start(fitted):
    with bentoml_serve(fitted.artifact.path, GRAFT_MAX_BODY_BYTE="1") as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 2
    assert "Did you mean GRAFT_MAX_BODY_BYTES?" in output


def test_golden_answers_that_no_longer_hold_end_it(fitted, tmp_path):
    import numpy as np

    from graft.service.artifact import GOLDEN, MANIFEST, record
    from graft.service.inference.model import Golden

    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    golden = Golden.load(package / GOLDEN)
    Golden(golden.encoded, golden.logits[:, ::-1].astype(np.float32)).save(package / GOLDEN)
    manifest = fitted.artifact.manifest
    files = {**manifest.files, GOLDEN: record(package / GOLDEN)}
    (package / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).sealed().content())
    with bentoml_serve(package) as server:
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 3
    assert "golden.npz" in output


def test_sigterm_ends_it_and_everything_it_started(fitted):
    with serving(fitted.artifact.path) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        family = _family(url)
    assert len(family) >= 5  # the command, the worker, and the decoders with the one that forks them
    psutil.wait_procs(family, timeout=10)
    assert [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []


def test_with_tracing_requests_take_bentomls_road_to_the_same_answer(fitted, server, clothes, monkeypatch):
    monkeypatch.setenv("GRAFT_TRACING", "true")
    with serving(fitted.artifact.path) as traced:
        answers = [httpx.post(f"{url}/v1/classify", content=clothes[0][1]).json() for url in (server, traced)]
        assert answers[0]["predictions"] == answers[1]["predictions"]
        assert httpx.get(f"{traced}/nothing").json()["code"] == "not_found"


def test_bentomls_client_finds_its_schema_and_nothing_else_of_bentomls(server):
    assert {route["name"] for route in httpx.get(f"{server}/schema.json").json()["routes"]} == {"classify", "classify_batch"}
    assert [httpx.get(f"{server}{path}").status_code for path in ("/static_content/index.css", "/assets/", "/favicon.ico")] == [
        404,
        404,
        404,
    ]


def test_bentoml_serve_in_the_repository_serves_the_latest_run(fitted, workplace):
    """Literally `bentoml serve`, with bentofile.yaml, in a folder where `graft fit` has left its runs."""
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
            assert _eventually(f"http://127.0.0.1:{port}/readyz")
            served = httpx.get(f"http://127.0.0.1:{port}/v1/model").json()["sha256"]
            assert served == fitted.artifact.manifest.sha256
        finally:
            server.send_signal(signal.SIGTERM)


@contextmanager
def bentoml_serve(package: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bentoml", "serve", "graft.service.app:Graft", "--port", "0"]
    given = {**environment(package, 0), **settings}
    server = subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def _eventually(url: str) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return True
        except httpx.HTTPError:
            time.sleep(0.1)
    return False


def _family(url: str) -> list[psutil.Process]:
    """The processes of the server at a URL."""
    port = url.rpartition(":")[2]
    [command] = [
        process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [])[-2:] == ["--port", port]
    ]
    return [command, *command.children(recursive=True)]


def test_bentomls_own_client_asks_about_several_images_at_once(server, clothes, tmp_path):
    import bentoml

    sent = [clothes[0][1], clothes[1][1], clothes[0][1][:90]]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, encoded in zip(paths, sent, strict=True):
        path.write_bytes(encoded)
    with bentoml.SyncHTTPClient(server) as client:
        results = client.classify_batch(images=paths, top_k=1)["results"]
    assert [result["answer"]["predictions"][0]["label"] for result in results[:2]] == [clothes[0][0], clothes[1][0]]
    assert results[2]["error"]["code"] == "corrupt_image"
