"""The try-it page as files: what is sent, under which headers, and that nothing in it points elsewhere."""

import re
from collections.abc import Iterator

import pytest
from api_client import mounted
from httpx import Headers
from starlette.testclient import TestClient

from graft.service.http import website
from graft.service.imaging.preprocess import FORMATS

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
ADDRESSES = [route.path for route in website.routes()]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with mounted(None) as app, TestClient(app) as client:
        yield client


@pytest.mark.parametrize("address", KINDS)
def test_every_file_says_what_it_is(client, address):
    assert client.get(address).headers["Content-Type"] == KINDS[address]


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_file_goes_out_under_the_same_guard(client, address):
    headers = client.get(address).headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=(self)" in headers["Permissions-Policy"]
    assert "microphone=()" in headers["Permissions-Policy"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_who_has_a_file_is_not_sent_it_again(client, address):
    first = client.get(address)
    again = client.get(address, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("tags", "status"), [('"other", W/{}', 304), ("*", 304), ('"other"', 200), ("", 200), ("W/", 200), ("\u00e9", 200)]
)
def test_tags_are_compared_as_browsers_and_proxies_write_them(client, tags, status):
    tag = client.get("/").headers["ETag"]
    assert client.get("/", headers={"If-None-Match": tags.format(tag).encode("latin-1")}).status_code == status


def test_each_file_has_a_tag_of_its_own(client):
    assert len({client.get(address).headers["ETag"] for address in ADDRESSES}) == len(ADDRESSES)


def test_head_is_get_without_the_body(client):
    whole, head = client.get("/"), client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert without_id(head.headers) == without_id(whole.headers)


def without_id(headers: Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "x-request-id"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_but_reading_is_possible(client, method):
    assert client.request(method, "/").status_code == 405


@pytest.mark.parametrize("address", ["/page/", "/page/index.html", "/page/../website.py", "/page/%2e%2e/website.py"])
def test_nothing_else_lies_there(client, address):
    assert client.get(address).status_code == 404


def test_whatever_the_page_asks_for_is_served(client):
    named = {"/" + name for name in re.findall(r'(?:href|src)="(page/[^"]+)"', client.get("/").text)}
    scripts = [address for address in ADDRESSES if address.endswith(".js")]
    imported = {f"/page/{name}" for script in scripts for name in re.findall(r'from "\./([^"]+)"', client.get(script).text)}
    assert named | imported | {"/"} == set(ADDRESSES)


def test_nothing_of_the_page_is_written_inline(client):
    html = client.get("/").text
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", html) == []


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_file_names_another_origin(client, address):
    found = set(re.findall(r"""(?:https?:)?//[\w-]+\.[\w.-]+""", client.get(address).text))
    assert found <= {"http://www.w3.org"}  # SVG's name, which nobody fetches


def test_the_page_names_every_format_that_is_accepted(client):
    shown = client.get("/").text
    assert [kind for kind in FORMATS if not re.search(rf"\b{kind}\b", shown, re.IGNORECASE)] == []
