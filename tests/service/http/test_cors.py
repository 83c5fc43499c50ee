"""CORS: preflights without a key, headers of every response, and pages of another origin in Chromium."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from api_client import TIMEOUT_S, BlockingEngine, asgi_app, assert_problem, http_server, to_base64
from browser import browser  # noqa: F401 - a fixture
from playwright.sync_api import Error
from server_process import SERVICE
from starlette.testclient import TestClient

from graft.service.http.cors import check_bentoml_config
from graft.service.inference.model import Model
from graft.service.settings import Settings, SettingsError
from graft.training.pipelines.serve import environment
from graft.training.runtime.import_root import IMPORT_ROOT

APP = "https://app.example.com"
OTHER = "https://other.example.com"
KEY = "correct horse battery staple"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
EXPOSED = "X-Request-ID, Retry-After, Allow, WWW-Authenticate, ETag"


@pytest.fixture(scope="module")
def client(model) -> Iterator[TestClient]:
    """A service with a key that one origin may call."""
    with asgi_app(model, api_key=KEY, cors_origins=(APP,), max_body_bytes=10_000) as app, TestClient(app) as client:
        yield client


def test_preflight_is_answered_before_the_key_is_asked_for(client):
    response = client.options("/v1/classify", headers={"Origin": APP, **PREFLIGHT})
    assert (response.status_code, response.content) == (204, b"")
    cors = {name: value for name, value in response.headers.items() if name.startswith("access-control")}
    assert cors == {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "*, Authorization",
        "access-control-max-age": "7200",
        "access-control-expose-headers": EXPOSED,
    }
    assert response.headers["Vary"] == "Origin"


def test_preflight_of_a_get_route(client):
    response = client.options("/v1/labels", headers={"Origin": APP, "Access-Control-Request-Method": "GET"})
    assert (response.status_code, response.headers["Access-Control-Allow-Methods"]) == (204, "GET, HEAD")


def test_preflight_of_another_origin_is_refused(client):
    response = client.options("/v1/classify", headers={"Origin": OTHER, **PREFLIGHT})
    assert_problem(response, 403, "origin_not_allowed")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(("path", "method"), [("/nothing", "POST"), ("/v1/classify", "DELETE"), ("/v1/labels", "POST")])
def test_preflight_of_an_unknown_route_or_method_needs_the_key_like_any_request(client, path, method):
    response = client.options(path, headers={"Origin": APP, "Access-Control-Request-Method": method})
    assert_problem(response, 401, "unauthorized")


def test_options_without_a_preflight_is_no_method(client):
    response = client.options("/v1/classify", headers={"Origin": APP, "Authorization": f"Bearer {KEY}"})
    assert_problem(response, 405, "method_not_allowed")


def assert_readable(response, origin: str = APP) -> None:
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["Access-Control-Expose-Headers"] == EXPOSED
    assert response.headers["Vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers


def test_every_response_is_readable_for_the_allowed_origin(client, shirt):
    headers = {"Origin": APP, "Authorization": f"Bearer {KEY}"}
    responses = [
        client.post("/v1/classify", content=shirt, headers=headers),
        client.get("/v1/labels", headers=headers),
        client.get("/docs.json", headers=headers),
        client.post("/v1/classify", content=shirt, headers={"Origin": APP}),
        client.get("/nothing", headers=headers),
        client.post("/v1/classify", content=bytes(10_001), headers=headers),
        client.post("/v1/classify", content=b"", headers=headers),
    ]
    assert [response.status_code for response in responses] == [200, 200, 200, 401, 404, 413, 422]
    for response in responses:
        assert_readable(response)


def test_rejection_of_an_overloaded_service_is_readable(model, shirt):
    engine = BlockingEngine(model)
    with http_server(Model(model.artifact, engine), cors_origins=(APP,), max_waiting=1) as port:
        url = f"http://127.0.0.1:{port}/v1/classify"
        first = threading.Thread(target=httpx.post, args=[url], kwargs={"content": shirt, "timeout": TIMEOUT_S})
        first.start()
        assert engine.started.wait(TIMEOUT_S)
        response = httpx.post(url, content=shirt, headers={"Origin": APP})
        engine.release.set()
        first.join(TIMEOUT_S)
    assert_problem(response, 503, "overloaded")
    assert_readable(response)
    assert response.headers["Retry-After"] in ("1", "2", "3")


def test_response_to_another_origin_is_not_readable_and_says_that_it_varies(client):
    for headers in ({"Origin": OTHER}, {}):
        response = client.get("/v1/labels", headers=headers | {"Authorization": f"Bearer {KEY}"})
        assert response.status_code == 200
        assert response.headers["Vary"] == "Origin"
        assert "access-control-allow-origin" not in response.headers


def test_any_origin_can_be_allowed(model, shirt):
    with asgi_app(model, cors_origins=("*",)) as app, TestClient(app) as client:
        response = client.post("/v1/classify", content=shirt, headers={"Origin": OTHER, "Sec-Fetch-Site": "cross-site"})
        assert (response.status_code, response.headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert client.options("/v1/classify", headers={"Origin": "null", **PREFLIGHT}).status_code == 204


def test_by_default_no_response_is_readable_elsewhere(model):
    with asgi_app(model) as app, TestClient(app) as client:
        response = client.get("/v1/labels", headers={"Origin": APP})
        assert [name for name in response.headers if name.startswith("access-control") or name == "vary"] == []
        problem = assert_problem(
            client.options("/v1/classify", headers={"Origin": APP, **PREFLIGHT}), 403, "origin_not_allowed"
        )
    assert "GRAFT_CORS_ORIGINS" in problem["detail"]


def test_cors_of_bentoml_ends_the_start_with_the_name_of_our_setting(monkeypatch):
    from bentoml._internal.configuration.containers import BentoMLContainer

    check_bentoml_config()
    monkeypatch.setitem(BentoMLContainer.config.api_server.http.cors.get(), "enabled", True)
    monkeypatch.setitem(BentoMLContainer.config.api_server.http.cors.get(), "access_control_allow_origins", [APP, OTHER])
    with pytest.raises(SettingsError, match=f"set GRAFT_CORS_ORIGINS={APP},{OTHER} instead"):
        check_bentoml_config()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["services.graft.http", "services.http"])
def test_configuration_of_bentoml_with_cors_ends_the_start(fitted, tmp_path, place):
    settings = {"BENTOML_CONFIG_OPTIONS": f"{place}.cors.enabled=true {place}.cors.access_control_allow_origins={APP}"}
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--port", "0"]
    env = environment(fitted.artifact.path, 0) | settings
    done = subprocess.run(command, cwd=IMPORT_ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"error: BentoML's http.cors does not apply to Graft; set GRAFT_CORS_ORIGINS={APP} instead." in done.stderr


ORIGINS = {
    "https://A.example.com/": ("https://a.example.com",),
    "http://a:80, https://b:8443": ("http://a", "https://b:8443"),
    "*": ("*",),
}


@pytest.mark.parametrize("text", ORIGINS)
def test_origins_are_read_as_browsers_write_them(text):
    assert Settings.from_environment({"GRAFT_CORS_ORIGINS": text}).cors_origins == ORIGINS[text]


@pytest.mark.parametrize(
    "text", ["null", "a.example.com", "https://*.example.com", "https://a/b", "https://ä.example.com", "file://"]
)
def test_text_that_is_no_origin_is_rejected(text):
    with pytest.raises(SettingsError, match="GRAFT_CORS_ORIGINS="):
        Settings.from_environment({"GRAFT_CORS_ORIGINS": text})


PAGE = "<!doctype html><title>An app of another origin</title>"
# Each returns what the page can read: the top label, or the error of fetch.
CALLS = {
    "JSON": """async ([url, image]) => {
        const body = JSON.stringify({ image });
        const headers = { "Content-Type": "application/json", "X-Request-ID": "mine" };
        const response = await fetch(url, { method: "POST", headers, body });
        return [(await response.json()).predictions[0].label, response.headers.get("X-Request-ID")];
    }""",
    "FormData": """async ([url, image]) => {
        const body = new FormData();
        body.append("file", await (await fetch(`data:image/png;base64,${image}`)).blob(), "photo.png");
        const response = await fetch(url, { method: "POST", body });
        return [(await response.json()).predictions[0].label, response.headers.get("X-Request-ID") && "mine"];
    }""",
    "data URL": """async ([url, image]) => {
        const response = await fetch(url, { method: "POST", body: `data:image/png;base64,${image}` });
        return [(await response.json()).predictions[0].label, "mine"];
    }""",
}
OPAQUE = """async ([url, image]) => {
    const body = new FormData();
    body.append("image", `data:image/png;base64,${image}`);
    return (await fetch(url, { method: "POST", mode: "no-cors", body })).type;
}"""


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def foreign_origin(tmp_path_factory) -> Iterator[str]:
    """An origin with a page of its own."""
    folder: Path = tmp_path_factory.mktemp("app")
    (folder / "index.html").write_text(PAGE)
    handler = lambda *arguments: QuietHandler(*arguments, directory=str(folder))  # noqa: E731
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def foreign_page(browser, foreign_origin):  # noqa: F811
    context = browser.new_context()
    page = context.new_page()
    page.goto(foreign_origin)
    yield page
    context.close()


@pytest.mark.parametrize("call", CALLS)
def test_page_of_an_allowed_origin_reads_its_predictions(foreign_page, foreign_origin, model, shirt, call):
    with http_server(model, cors_origins=(foreign_origin,)) as port:
        found = foreign_page.evaluate(CALLS[call], [f"http://127.0.0.1:{port}/v1/classify", to_base64(shirt)])
    assert found == [model.classify(shirt, 1).ranked[0].label, "mine"]


@pytest.mark.parametrize("call", CALLS)
def test_page_of_another_origin_reads_nothing(foreign_page, model, shirt, call):
    with http_server(model, cors_origins=(APP,)) as port, pytest.raises(Error, match="Failed to fetch"):
        foreign_page.evaluate(CALLS[call], [f"http://127.0.0.1:{port}/v1/classify", to_base64(shirt)])


def test_page_of_another_origin_makes_nothing_compute(foreign_page, model, shirt):
    engine = BlockingEngine(model)
    engine.release.set()
    with http_server(Model(model.artifact, engine)) as port:
        kind = foreign_page.evaluate(OPAQUE, [f"http://127.0.0.1:{port}/v1/classify", to_base64(shirt)])
    assert (kind, engine.n_calls) == ("opaque", 0)
