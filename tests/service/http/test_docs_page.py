"""The page /docs: complete, without scripts and other origins, and readable at any width."""

import re

import pytest
from api_client import asgi_app, http_server
from browser import browser  # noqa: F401 - a fixture
from starlette.testclient import TestClient

from graft.service.http.openapi import build_routes

KEY = "0123456789abcdef"
ROUTES = [route for route in build_routes().values() if route.tag]


@pytest.fixture(scope="module")
def html() -> str:
    with asgi_app(None, api_key=KEY) as app, TestClient(app) as client:
        return client.get("/docs").text


def test_every_operation_and_model_has_an_entry(html):
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    assert {route.name for route in ROUTES} <= set(ids)
    assert {f"model-{route.response_model.__name__}" for route in ROUTES if route.response_model} <= set(ids)


def test_every_link_within_the_page_has_a_target(html):
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(re.findall(r' id="([^"]+)"', html))


def test_page_has_no_script_and_no_other_origin(html):
    assert re.findall(r"<script|<style|\sstyle=|\son\w+=|//[\w-]+\.[\w.-]+", html) == []


def test_links_are_relative_so_that_the_page_works_behind_any_prefix(html):
    links = set(re.findall(r'(?:href|src)="([^"#]+)', html))
    assert links == {"page/icon.svg", "page/page.css", "page/docs.css", "./", "docs.json"}


def test_page_says_whether_a_key_is_needed(html):
    assert "Authorization: Bearer KEY" in html
    assert html.count("Needs no API key.") == 4
    with asgi_app(None) as app, TestClient(app) as client:
        assert "Bearer" not in client.get("/docs").text.replace("WWW-Authenticate", "")


def test_page_is_revalidated_with_its_etag():
    with asgi_app(None) as app, TestClient(app) as client:
        first = client.get("/docs")
        assert first.headers["Content-Type"] == "text/html; charset=utf-8"
        assert client.get("/docs", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
        assert "script-src 'self'" in first.headers["Content-Security-Policy"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_into_the_window_without_errors(browser, model, width, scheme):  # noqa: F811
    errors, requests = [], []
    with http_server(model) as port:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.on("console", lambda line: errors.append(line.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/redoc")
        assert page.url == f"http://127.0.0.1:{port}/docs"
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.get_by_role("navigation", name="Contents").get_by_role("link", name="/v1/explain").click()
        assert page.url.endswith("/docs#explain")
        page.locator("article", has=page.locator("#explain")).get_by_text("Errors").click()
        assert page.get_by_text("bad_method").first.is_visible()
        context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(f"http://127.0.0.1:{port}/")] == []
