"""The demo page's files: media types, security headers, caching, and no third-party origins."""

import re
from collections.abc import Iterator

import pytest
from api_client import asgi_app
from httpx import Headers
from starlette.testclient import TestClient

from graft.service.http import website

KINDS = {
    "/": "text/html; charset=utf-8",
    "/page/page.css": "text/css; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; media-src blob:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
PATHS = [route.path for route in website.routes()]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with asgi_app(None) as app, TestClient(app) as client:
        yield client


@pytest.mark.parametrize("path", KINDS)
def test_media_types(client, path):
    assert client.get(path).headers["Content-Type"] == KINDS[path]


@pytest.mark.parametrize("path", PATHS)
def test_every_file_has_the_security_headers(client, path):
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=(self)" in headers["Permissions-Policy"]
    assert "microphone=()" in headers["Permissions-Policy"]


@pytest.mark.parametrize("path", PATHS)
def test_matching_etag_gets_304(client, path):
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("etags", "status"), [('"other", W/{}', 304), ("*", 304), ('"other"', 200), ("", 200), ("W/", 200), ("\u00e9", 200)]
)
def test_if_none_match_variants(client, etags, status):
    tag = client.get("/").headers["ETag"]
    assert client.get("/", headers={"If-None-Match": etags.format(tag).encode("latin-1")}).status_code == status


def test_etags_are_unique(client):
    assert len({client.get(path).headers["ETag"] for path in PATHS}) == len(PATHS)


def test_head_is_get_without_the_body(client):
    whole, head = client.get("/"), client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert without_id(head.headers) == without_id(whole.headers)


def without_id(headers: Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-id"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_rejected(client, method):
    assert client.request(method, "/").status_code == 405


@pytest.mark.parametrize("path", ["/page/", "/page/index.html", "/page/../website.py", "/page/%2e%2e/website.py"])
def test_other_paths_are_not_found(client, path):
    assert client.get(path).status_code == 404


def test_every_linked_file_is_served(client):
    html = client.get("/").text + client.get("/docs").text
    linked = {"/" + name for name in re.findall(r'(?:href|src)="(page/[^"]+)"', html)}
    scripts = [path for path in PATHS if path.endswith(".js")]
    imported = {f"/page/{name}" for script in scripts for name in re.findall(r'from "\./([^"]+)"', client.get(script).text)}
    assert linked | imported | {"/"} == set(PATHS)


def test_page_has_no_inline_code(client):
    html = client.get("/").text
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html) == []


@pytest.mark.parametrize("path", PATHS)
def test_files_name_no_other_origin(client, path):
    found = set(re.findall(r"""(?:https?:)?//[\w-]+\.[\w.-]+""", client.get(path).text))
    assert found <= {"http://www.w3.org"}  # the SVG namespace, which is not fetched


def test_formats_come_from_the_service_not_from_the_page(client):
    assert client.get("/v1/limits").json()["formats"] == ["JPEG", "PNG", "WebP", "GIF", "BMP"]
    assert "WebP" not in client.get("/").text + client.get("/page/page.js").text
