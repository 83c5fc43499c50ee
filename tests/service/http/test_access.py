"""Who may call: hosts, origins, and what a page of a foreign origin can do to a service on localhost."""

import json
import socket
from collections.abc import Iterator

import pytest
from api_client import TIMEOUT_S, asgi_app, assert_problem, http_server
from starlette.testclient import TestClient

from graft.service.http import access
from graft.service.http.api_keys import ApiKeys
from graft.service.settings import Settings

KEY = "correct horse battery staple"
LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]


def refused(method: str = "POST", server: str = "127.0.0.1", settings: Settings | None = None, **headers: str) -> str | None:
    """The code of the problem, or None."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "server": (server, 3000), "headers": raw}
    key = settings and settings.api_key and settings.api_key.get_secret_value()
    refusal = access.refusal(scope, method, settings or Settings(), ApiKeys(key, None))
    return refusal and refusal[0]


OWN_HOSTS = [
    "localhost:3000",
    "LOCALHOST",
    "localhost.:3000",
    "birds.localhost:3000",
    "127.0.0.1:3000",
    "127.0.0.1",
    "[::1]:3000",
    "[::ffff:127.0.0.1]",
    "192.168.1.7:3000",
    "host.docker.internal:3000",
    "graft",
    "my-machine:3000",
    "",
]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_own_names_are_answered(host):
    assert refused(host=host) is None


FOREIGN_HOSTS = [
    "example.com",
    "example.com:3000",
    "127.0.0.1.example.com",
    "localhost.example.com",
    "a.local",
    "1.2.3",
    "evil.com.",
]


@pytest.mark.parametrize("address", LOOPBACK)
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_name_that_resolves_to_this_machine_is_refused(host, address):
    assert refused("GET", address, host=host) == "wrong_host"


@pytest.mark.parametrize("address", ["192.168.1.7", "10.0.0.1", "2001:db8::1", "/run/graft.sock"])
def test_any_name_is_answered_on_other_addresses(address):
    assert refused(server=address, host="birds.example.com") is None


def test_any_name_is_answered_with_the_key():
    settings = Settings(api_key=KEY)
    assert refused(settings=settings, host="birds.example.com", authorization=f"Bearer {KEY}") is None


@pytest.mark.parametrize(("allowed", "code"), [("birds.example.com", None), ("*", None), ("example.com", "wrong_host")])
def test_names_can_be_allowed(allowed, code):
    settings = Settings.from_environment({"GRAFT_ALLOWED_HOSTS": f"other.example.com, {allowed}"})
    assert refused(settings=settings, host="Birds.example.com:443") == code


SITE = {"host": "localhost:3000"}
ALLOWED_POSTS = {
    "a program": SITE,
    "this page": SITE | {"origin": "http://localhost:3000", "sec_fetch_site": "same-origin"},
    "this page in an older browser": SITE | {"origin": "http://localhost:3000"},
    "this page, and a proxy that rewrites Host": SITE | {"origin": "https://a.example.com", "sec_fetch_site": "same-origin"},
    "the address bar": SITE | {"sec_fetch_site": "none"},
}
FOREIGN_POSTS = {
    "another site": SITE | {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
    "another port": SITE | {"origin": "http://localhost:5173", "sec_fetch_site": "same-site"},
    "a local file": SITE | {"origin": "null", "sec_fetch_site": "cross-site"},
    "another site in an older browser": SITE | {"origin": "https://evil.example"},
    "a local file in an older browser": SITE | {"origin": "null"},
    "no origin": SITE | {"sec_fetch_site": "cross-site"},
}


@pytest.mark.parametrize("headers", ALLOWED_POSTS.values(), ids=ALLOWED_POSTS)
def test_posts_of_this_origin_and_of_programs_are_answered(headers):
    assert refused(**headers) is None


@pytest.mark.parametrize("headers", FOREIGN_POSTS.values(), ids=FOREIGN_POSTS)
def test_posts_of_other_origins_are_refused(headers):
    assert refused(**headers) == "origin_not_allowed"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("headers", FOREIGN_POSTS.values(), ids=FOREIGN_POSTS)
def test_other_origins_may_send_requests_that_compute_nothing(method, headers):
    assert refused(method, **headers) is None


def test_allowed_origin_may_post():
    settings = Settings.from_environment({"GRAFT_CORS_ORIGINS": "http://localhost:5173"})
    assert refused(settings=settings, **FOREIGN_POSTS["another port"]) is None
    assert refused(settings=settings, **FOREIGN_POSTS["another site"]) == "origin_not_allowed"


def test_origin_matters_with_a_key_too():
    headers = FOREIGN_POSTS["another site"] | {"authorization": f"Bearer {KEY}"}
    assert refused(settings=Settings(api_key=KEY), **headers) == "origin_not_allowed"


@pytest.fixture(scope="module")
def port(model) -> Iterator[int]:
    with http_server(model) as port:
        yield port


def send(port: int, head: str, body: bytes = b"") -> tuple[int, dict]:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        lines = f"{head}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(lines.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    head_bytes, _, content = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split()[1]), json.loads(content)


def test_rebound_name_reads_nothing(port):
    for path in ("/v1/labels", "/v1/model", "/metrics", "/nothing"):
        status, problem = send(port, f"GET {path} HTTP/1.1\r\nHost: evil.example:{port}")
        assert (status, problem["code"]) == (421, "wrong_host")
    assert problem["detail"].endswith("allow it with GRAFT_ALLOWED_HOSTS=evil.example.")


def test_form_of_a_foreign_page_computes_nothing(port, model, shirt):
    before = model.engine
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site"
    status, problem = send(port, head, shirt)
    assert (status, problem["code"]) == (403, "origin_not_allowed")
    assert problem["detail"] == (
        "Web pages of https://evil.example may not call this service; allow an origin with GRAFT_CORS_ORIGINS."
    )
    assert model.engine is before


def test_probes_answer_to_any_name(model):
    with asgi_app(model) as app, TestClient(app, base_url="http://127.0.0.1:3000") as client:
        assert client.get("/readyz", headers={"Host": "example.com"}).status_code == 200
        assert_problem(client.get("/v1/labels", headers={"Host": "example.com"}), 421, "wrong_host")
