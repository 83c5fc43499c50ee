"""The service behind a proxy: below a path prefix that the proxy strips, and below one that it keeps."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from api_client import BlockingEngine, assert_problem, http_server
from browser import browser, choose_file  # noqa: F401 - a fixture
from playwright.sync_api import expect

from graft.service.inference.model import Model
from graft.service.settings import Settings, SettingsError

ROOT = "/models/birds"
DROPPED = {"connection", "transfer-encoding", "host", "content-length"}


@pytest.fixture(scope="module")
def kept(model) -> Iterator[str]:
    """The address of a service whose proxy keeps the prefix."""
    with http_server(model, root_path=ROOT) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def stripping_proxy(model) -> Iterator[str]:
    """The address of a proxy that strips the prefix, without the prefix."""
    with http_server(model) as port:

        class Proxy(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in DROPPED}
                url = f"http://127.0.0.1:{port}{self.path.removeprefix(ROOT)}"
                answer = httpx.request(self.command, url, content=body, headers=headers, timeout=60)
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in DROPPED | {"server", "date"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.mark.parametrize(
    "path", ["/v1/labels", "/v1/limits", "/livez", "/readyz", "/metrics", "/docs", "/docs.json", "/", "/page/page.css"]
)
def test_every_route_answers_below_the_prefix_and_without_it(kept, path):
    assert httpx.get(f"{kept}{ROOT}{path}").status_code == 200
    assert httpx.get(f"{kept}{path}").status_code == 200


@pytest.mark.parametrize(
    "path", ["/models", "/models/birds2/v1/labels", f"{ROOT}/nothing", f"{ROOT}{ROOT}/v1/labels", f"{ROOT}//v1/labels"]
)
def test_other_paths_are_not_found(kept, path):
    assert_problem(httpx.get(f"{kept}{path}"), 404, "not_found")


def test_uploads_below_the_prefix_are_classified(kept, model, shirt):
    answer = httpx.post(f"{kept}{ROOT}/v1/classify?top_k=1", content=shirt).json()
    assert answer["predictions"][0]["label"] == model.classify(shirt, 1).ranked[0].label


def test_prefix_alone_leads_to_the_page(kept):
    response = httpx.get(f"{kept}{ROOT}")
    assert (response.status_code, response.headers["Location"]) == (308, "birds/")
    assert httpx.get(f"{kept}{ROOT}", follow_redirects=True).url == f"{kept}{ROOT}/"


def test_metrics_count_by_route_without_the_prefix(kept):
    httpx.get(f"{kept}{ROOT}/v1/labels")
    assert 'route="/v1/labels",status="200"' in httpx.get(f"{kept}/metrics").text


def test_overload_is_noticed_before_the_body_below_the_prefix_too(model, shirt):
    engine = BlockingEngine(model)
    with http_server(Model(model.artifact, engine), root_path=ROOT, max_waiting=1) as port:
        url = f"http://127.0.0.1:{port}{ROOT}/v1/classify"
        first = threading.Thread(target=httpx.post, args=[url], kwargs={"content": shirt, "timeout": 30})
        first.start()
        assert engine.started.wait(30)
        assert_problem(httpx.post(url, content=shirt), 503, "overloaded")
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        engine.release.set()
        first.join()
    assert 'graft_requests_total{code="overloaded",route="/v1/classify",status="503"} 1.0' in metrics


@pytest.mark.parametrize("proxy", ["kept", "stripping_proxy"])
def test_page_classifies_behind_the_proxy(browser, request, model, shirt, proxy):  # noqa: F811
    address = request.getfixturevalue(proxy)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}{ROOT}/")
    choose_file(page, shirt)
    expect(page.locator(".bars .label").first).to_have_text(model.classify(shirt, 1).ranked[0].label)
    page.get_by_role("link", name="API documentation").click()
    expect(page).to_have_url(f"{address}{ROOT}/docs")
    page.wait_for_load_state()
    assert page.evaluate("getComputedStyle(document.querySelector('.method.post')).borderRadius") == "6px"  # docs.css is there
    page.get_by_role("link", name="Try the model").click()
    expect(page).to_have_url(f"{address}{ROOT}/")
    context.close()


@pytest.mark.parametrize(("text", "path"), [("/models/birds", ROOT), ("/models/birds/", ROOT), ("/", ""), ("", "")])
def test_prefix_is_read_with_or_without_a_final_slash(text, path):
    assert Settings.from_environment({"GRAFT_ROOT_PATH": text}).root_path == path


@pytest.mark.parametrize("text", ["models", "/a//b", "/../x", "/a b", "/a?b", "http://a/b", "/" + "a/" * 30])
def test_text_that_is_no_path_is_rejected(text):
    with pytest.raises(SettingsError, match="must be a path, such as /models/birds"):
        Settings.from_environment({"GRAFT_ROOT_PATH": text})
