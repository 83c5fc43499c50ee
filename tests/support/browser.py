"""Shared by the tests of the page: Chromium, the page served with the real routes, and helpers to use it.

Responses with heat maps and thumbnails are stubbed here, with the fields of the API; all other responses come from the
service. After every test, `visit` also checks that the page sent no request to another origin, that no script failed, and
that nothing violated the content security policy.
"""

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from api_client import http_server
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

TIMEOUT_MS = 30_000
HEATMAP = [[1.0, 0.0, 0.0], [0.0, 0.0, -0.5]]  # top left is evidence for the label, bottom right against it
# Chromium logs an error for every response of 400 and above; some tests cause such responses on purpose.
IGNORED_ERROR = "Failed to load resource"

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def site(model) -> Iterator[str]:
    """URL of the page, served with the real routes."""
    with http_server(model) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium with a fake camera."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("chromium is not installed")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site) -> Iterator[Visit]:
    """Opens the page: `visit(color_scheme="dark")`; `prepare` is called with it before it loads."""
    requested: list[str] = []
    errors: list[str] = []
    contexts = []

    def open_page(prepare: Callable[[Page], None] = lambda page: None, **context: Any) -> Page:
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.route("**/v1/explain?*", lambda route: route.fulfill(json=explanation()))
        page.route("**/v1/similar?*", lambda route: route.fulfill(json={"neighbors": neighbors()}))
        prepare(page)
        page.goto(site)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requested if not url.startswith((site, f"blob:{site}", "data:image/jpeg;base64,"))] == []
    assert [error for error in errors if not error.startswith(IGNORED_ERROR)] == []


@pytest.fixture(scope="module")
def noise() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    return png(Image.fromarray(pixels))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def explanation(label: str = "shirt", method: str = "cam", **region: float) -> dict[str, Any]:
    return {
        "label": label,
        "probability": 0.5,
        "method": method,
        "map": HEATMAP,
        "region": {"left": 0, "top": 0, "width": 28, "height": 28} | region,
        "image": {"width": 28, "height": 28, "format": "PNG"},
    }


def neighbors(**overrides: Any) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "JPEG")
    thumbnail = base64.b64encode(file.getvalue()).decode()
    neighbor = {"labels": ["shirt"], "thumbnail": thumbnail}
    return [neighbor | {"path": f"train/shirt/{n}.png", "distance": n / 10} | overrides for n in range(1, 6)]


def choose_file(page: Page, content: bytes, name: str = "photo.png", mime_type: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": mime_type, "buffer": content})


def classify_on_page(page: Page, content: bytes) -> Page:
    """Upload an image and wait for the predictions, neighbors and heat map."""
    choose_file(page, content)
    expect(page.locator(".bars li").first).to_be_visible()
    expect(page.locator("#neighbors li")).to_have_count(5)
    expect(page.locator("#heat-controls")).to_be_visible()
    return page


def displayed_predictions(page: Page) -> list[tuple[str, str]]:
    """The displayed labels and percentages."""
    expect(page.locator(".bars li").first).to_be_visible()
    labels, numbers = page.locator(".bars .label"), page.locator(".bars .number")
    return list(zip(labels.all_text_contents(), numbers.all_text_contents(), strict=True))


def percent_text(probability: float) -> str:
    return "<0.1%" if probability < 0.001 else ">99.9%" if probability > 0.999 else f"{100 * probability:.1f}%"


def expected_predictions(model: Any, content: bytes) -> list[tuple[str, str]]:
    return [(label, percent_text(probability)) for label, probability in model.classify(content, 5).ranked]


def problem_box(page: Page, title: str) -> Locator:
    box = page.get_by_role("alert")
    expect(box).to_contain_text(title)
    return box


def with_fields(fields: dict[str, Any]) -> Callable[[Page], None]:
    """A route handler that returns the real response with some fields changed."""

    def answer(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | fields)

    return answer


def require_key(route: Route) -> None:
    """A route handler that requires the API key `a-secret`."""
    if route.request.headers.get("authorization") == "Bearer a-secret":
        return route.fallback()
    fields = {"title": "API key required", "status": 401, "detail": "Send one.", "code": "unauthorized", "request_id": "r1"}
    return route.fulfill(status=401, json=fields, content_type="application/problem+json")
