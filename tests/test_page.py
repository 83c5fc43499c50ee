"""The try-it page in a real browser, in front of the real routes.

What a heat map and thumbnails look like on the wire is answered here, with the fields of the contract; all else is the
service's own answer. Every test ends with three more: nothing was asked of another origin, no script failed, and the page's
security policy had nothing to refuse.
"""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import uvicorn
from asking import mounted
from PIL import Image
from starlette.applications import Starlette

from service import website

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

PATIENCE_MS = 30_000
HOSTILE = '<img src=x onerror="window.broken = true"><b>ants</b>'
MAP = [[1.0, 0.0, 0.0], [0.0, 0.0, -0.5]]  # the top left speaks for the label, the bottom right against it
# Chromium itself writes a line about every answer from 400 on; those answers are what some tests ask for.
NO_ERROR = "Failed to load resource"
# Of every element with text of its own: the contrast with the first opaque colour beneath, as WCAG 2.2 reckons it.
CONTRASTS = """() => {
  const parse = (colour) => {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const beneath = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(beneath(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40)];
    });
}"""
DROPPED = """([content, name, type]) => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([Uint8Array.from(content)], name, { type }));
  return dropped;
}"""
COPY_IMAGE = """async (content) => {
  const blob = new Blob([Uint8Array.from(content)], { type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def site(model) -> Iterator[str]:
    """The address of the page, before the real routes."""
    with mounted(model) as below, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        app = Starlette(routes=[*website.routes(), *below.routes])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{door.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, with a camera that shows a test picture."""
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site) -> Iterator[Visit]:
    """Opens the page: `visit(color_scheme="dark")`; `prepare` gets it before it is loaded."""
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def opened(prepare: Callable[[Any], None] = lambda page: None, **context: Any) -> Any:
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.route("**/v1/explain?*", lambda route: route.fulfill(json=explanation()))
        page.route("**/v1/similar?*", lambda route: route.fulfill(json={"neighbours": neighbours()}))
        prepare(page)
        page.goto(site)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((site, f"blob:{site}", "data:image/jpeg;base64,"))] == []
    assert [error for error in errors if not error.startswith(NO_ERROR)] == []


@pytest.fixture(scope="module")
def shirt(clothes) -> bytes:
    return clothes[6][1]


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
        "map": MAP,
        "region": {"left": 0, "top": 0, "width": 28, "height": 28} | region,
        "image": {"width": 28, "height": 28, "format": "PNG"},
    }


def neighbours(**changed: Any) -> list[dict[str, Any]]:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "JPEG")
    thumbnail = base64.b64encode(file.getvalue()).decode()
    near = {"labels": ["shirt"], "thumbnail": thumbnail}
    return [near | {"path": f"train/shirt/{n}.png", "distance": n / 10} | changed for n in range(1, 6)]


def pick(page: Any, content: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})


def answered(page: Any, content: bytes) -> Any:
    """The page with the answer to an image, and all that is shown beside it."""
    pick(page, content)
    expect(page.locator(".bars li").first).to_be_visible()
    expect(page.locator("#neighbours li")).to_have_count(5)
    expect(page.locator("#heat-controls")).to_be_visible()
    return page


def shown(page: Any) -> list[tuple[str, str]]:
    """The labels with their percentages, as they stand there."""
    expect(page.locator(".bars li").first).to_be_visible()
    labels, numbers = page.locator(".bars .label"), page.locator(".bars .number")
    return list(zip(labels.all_text_contents(), numbers.all_text_contents(), strict=True))


def worded(chance: float) -> str:
    return "<0.1%" if chance < 0.001 else ">99.9%" if chance > 0.999 else f"{100 * chance:.1f}%"


def said(model: Any, content: bytes) -> list[tuple[str, str]]:
    return [(label, worded(chance)) for label, chance in model.classify(content, 5).ranked]


def problem(page: Any, title: str) -> Any:
    box = page.get_by_role("alert")
    expect(box).to_contain_text(title)
    return box


# The model and the ways in


def test_the_head_says_what_is_served(visit, model):
    manifest = model.manifest
    page, test = visit(), manifest.scores["test"]
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    facts = page.locator("#facts")
    for fact in (manifest.version, manifest.backbone.name, "10", "CPU", worded(test.accuracy)):
        expect(facts).to_contain_text(fact)
    expect(facts).to_contain_text(f"{worded(test.low)} to {worded(test.high)}, {test.n} images")
    expect(page.locator("#labels li")).to_have_text(list(manifest.labels))
    expect(page.locator("#limits")).to_have_text("JPEG, PNG, WebP, GIF or BMP; at most 10 MiB and 64 megapixels.")


def test_a_picked_image_gets_the_models_own_answer(visit, model, shirt):
    page = visit()
    pick(page, shirt)
    assert shown(page) == said(model, shirt)


def test_a_dropped_image_gets_the_models_own_answer(visit, model, shirt):
    page = visit()
    dropped = page.evaluate_handle(DROPPED, [list(shirt), "photo.png", "image/png"])
    page.dispatch_event("footer", "dragover", {"dataTransfer": dropped})
    expect(page.locator(".curtain")).to_be_visible()
    page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
    expect(page.locator(".curtain")).to_be_hidden()
    assert shown(page) == said(model, shirt)


def test_a_pasted_image_gets_the_models_own_answer(visit, model, shirt):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(COPY_IMAGE, list(shirt))
    page.keyboard.press("Control+V")
    assert shown(page) == said(model, shirt)


def test_pasted_text_is_told_from_an_image_and_leaves_the_answer_alone(visit, shirt):
    page = answered(visit(permissions=["clipboard-read", "clipboard-write"]), shirt)
    page.evaluate("navigator.clipboard.writeText('https://example.org/cat.jpg')")
    page.keyboard.press("Control+V")
    problem(page, "There is no image")
    assert len(shown(page)) == 5


def test_a_dropped_address_is_not_fetched(visit):
    page = visit()
    dropped = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.setData('text/uri-list', 'http://x.test/'); return d; }"
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    problem(page, "Addresses are not fetched")


def test_the_camera_takes_a_picture_and_is_switched_off(visit):
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Use camera").click()
    expect(page.locator("#video")).not_to_have_js_property("videoWidth", 0)
    page.evaluate("window.tracks = document.getElementById('video').srcObject.getTracks()")
    page.get_by_role("button", name="Take the picture").click()
    assert len(shown(page)) == 5
    expect(page.locator(".measured")).to_contain_text("JPEG")
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended"]


def test_a_camera_that_is_not_allowed_is_explained(visit):
    refuse = (
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('Permission denied', 'NotAllowedError'); }"
    )
    page = visit(lambda page: page.add_init_script(refuse))
    page.get_by_role("button", name="Use camera").click()
    expect(problem(page, "The camera cannot be used")).to_contain_text("Permission denied")


def test_without_a_camera_none_is_offered(visit):
    page = visit(lambda page: page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"))
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    expect(page.locator("#camera")).to_be_hidden()


def test_a_newer_image_takes_the_place_of_one_that_is_still_asked_about(visit, model, shirt, noise):
    held: list[Any] = []

    def prepare(page: Any) -> None:
        page.route("**/v1/classify", lambda route: route.continue_() if held else held.append(route))

    page = visit(prepare)
    with page.expect_event("requestfailed") as failed:
        pick(page, noise)
        while not held:
            page.wait_for_timeout(10)
        expect(page.locator("#waiting")).to_be_visible()
        pick(page, shirt)
    assert failed.value.failure == "net::ERR_ABORTED"
    assert shown(page) == said(model, shirt)
    expect(page.get_by_role("alert")).to_be_empty()


# The answer


def test_the_prediction_set_is_said_in_a_sentence(visit, model, shirt):
    page = visit()
    pick(page, shirt)
    expect(page.locator(".set .chips li")).to_have_text(list(model.classify(shirt, 5).prediction_set))
    expect(page.locator(".set p")).to_contain_text("With 90% coverage, the right label is")


def test_the_answer_is_announced(visit, model, shirt):
    page = visit()
    pick(page, shirt)
    [(label, chance), *_] = said(model, shirt)
    expect(page.get_by_role("status")).to_contain_text(f"{label}, {chance}. With 90% coverage")


def test_what_the_model_does_not_know_is_warned_about(visit, model, noise):
    page = visit()
    pick(page, noise)
    answer = model.classify(noise, 5)
    warning = page.locator(".abstention")
    expect(warning).to_contain_text("The model abstains")
    expect(warning).to_contain_text("unlike the images it was trained on")
    expect(warning).to_contain_text(f"{answer.outlier_score:.2f}, above {model.manifest.calibration.outlier_threshold:.2f}")
    expect(page.get_by_role("status")).to_contain_text("The model abstains")
    expect(page.locator(".set p")).to_contain_text("does not hold for such an image")


def test_an_undecided_answer_says_so(visit, model, shirt):
    undecided = {"abstain": True, "abstain_reason": "undecided", "prediction_set": list(model.manifest.labels)}
    page = visit(lambda page: page.route("**/v1/classify", changed(undecided)))
    pick(page, shirt)
    expect(page.locator(".abstention")).to_contain_text("It cannot rule out any label")
    expect(page.locator(".set p")).to_have_text("No label can be ruled out:")


@pytest.mark.parametrize(("given", "sentence"), [(["bag"], "It is given these labels:"), ([], "It is given no label")])
def test_several_labels_an_image_are_given_rather_than_covered(visit, model, shirt, given, sentence):
    described = {"multilabel": True, "calibration": model.manifest.calibration.model_dump() | {"coverage": None}}

    def prepare(page: Any) -> None:
        page.route("**/v1/model", changed(described))
        page.route("**/v1/classify", changed({"prediction_set": given}))

    page = visit(prepare)
    pick(page, shirt)
    expect(page.locator(".set p")).to_contain_text(sentence)
    expect(page.locator(".set .chips li")).to_have_text(given)


def test_many_labels_wait_behind_a_button(visit):
    labels = [f"label {number}" for number in range(100)]
    page = visit(lambda page: page.route("**/v1/model", changed({"labels": labels})))
    expect(page.locator("#labels li:not(.more)")).to_have_count(16)
    page.get_by_role("button", name="and 84 more").press("Enter")
    expect(page.locator("#labels li")).to_have_text(labels)
    expect(page.locator("#labels li").nth(16)).to_be_focused()


def test_warnings_and_facts_are_told(visit):
    page = visit()
    pick(page, png(Image.new("RGB", (9, 7))))
    expect(page.locator(".warnings li")).to_have_text("tiny: fewer than 16 pixels on a side")
    expect(page.locator(".measured")).to_contain_text("9 × 7 PNG, 1 KiB")
    expect(page.locator(".measured")).to_contain_text("decode")


def test_another_package_in_the_same_place_is_noticed(visit, shirt):
    page = visit(lambda page: page.route("**/v1/model", changed({"sha256": "0" * 64}), times=1))
    expect(page.locator("#facts")).to_contain_text("sha256 000000000000")
    pick(page, shirt)
    assert len(shown(page)) == 5
    expect(page.locator("#facts")).not_to_contain_text("sha256 000000000000")


def changed(fields: dict[str, Any]) -> Callable[[Any], None]:
    """The real answer of a route, with some fields changed."""

    def answer(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | fields)

    return answer


# Problems


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("made", "title"),
    [
        (lambda shirt: b"hello", "The image is of a kind that is not accepted"),
        (lambda shirt: b"", "The image is empty"),
        (cut, "The image is damaged"),
    ],
)
def test_a_bad_file_is_told_why(visit, shirt, made, title):
    page = visit()
    pick(page, made(shirt), "photo.jpg", "image/jpeg")
    expect(problem(page, title)).to_contain_text("Request")
    expect(page.locator(".bars")).to_have_count(0)


def test_a_file_that_the_browser_cannot_show_is_not_shown_as_a_broken_picture(visit):
    page = visit()
    pick(page, b"hello")
    expect(page.locator("#unshown")).to_be_visible()
    expect(page.locator("#picture")).to_be_hidden()


def test_a_limit_is_named_with_its_setting(visit):
    page = visit()
    pick(page, png(Image.new("1", (9000, 9000))))
    box = problem(page, "The image has too many pixels")
    expect(box).to_contain_text("max_pixels = 64,000,000")
    expect(box).to_contain_text("GRAFT_MAX_PIXELS")


def test_a_file_over_the_limit_is_not_even_sent(visit):
    page, sent = visit(), []
    expect(page.locator("#limits")).to_contain_text("10 MiB")
    page.on("request", lambda request: sent.append(request.url) if "/v1/" in request.url else None)
    pick(page, bytes(10 * 2**20 + 1))
    expect(problem(page, "The file is too large")).to_contain_text("GRAFT_MAX_BODY_BYTES")
    assert sent == []


def test_a_good_image_after_a_bad_one_is_answered(visit, model, shirt):
    page = visit()
    pick(page, b"hello")
    problem(page, "The image is of a kind that is not accepted")
    pick(page, shirt)
    assert shown(page) == said(model, shirt)
    expect(page.get_by_role("alert")).to_be_empty()


def test_an_unreachable_service_can_be_asked_again(visit, model, shirt):
    page = visit(lambda page: page.route("**/v1/classify", lambda route: route.abort(), times=1))
    pick(page, shirt)
    problem(page, "The service cannot be reached")
    page.get_by_role("button", name="Try again").click()
    assert shown(page) == said(model, shirt)


def test_an_answer_of_something_in_between_is_told_from_the_services(visit, shirt):
    gateway = {"status": 502, "body": "<h1>Bad gateway</h1>", "content_type": "text/html"}
    page = visit(lambda page: page.route("**/v1/classify", lambda route: route.fulfill(**gateway)))
    pick(page, shirt)
    expect(problem(page, "The answer cannot be read")).to_contain_text("502")


# The heat map


def overlay(page: Any, x: float, y: float) -> list[int]:
    """Red, green, blue and opacity of the overlay's pixel there, as shares of its width and height."""
    return page.evaluate(
        "([x, y]) => { const c = document.getElementById('overlay');"
        " return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]; }",
        [x, y],
    )


def test_the_heat_map_lies_over_what_speaks_for_the_label(visit, shirt):
    page = answered(visit(), shirt)
    expect(page.locator("#overlay")).to_be_visible()
    assert overlay(page, 0.05, 0.05)[3] == 255
    assert overlay(page, 0.95, 0.95)[3] == 0
    picture, canvas = (page.locator(name).bounding_box() for name in ("#picture", "#overlay"))
    assert picture == canvas


def test_the_heat_map_can_be_switched_off_and_made_fainter(visit, shirt):
    page = answered(visit(), shirt)
    toggle = page.get_by_role("button", name="Heat map", pressed=True)
    page.get_by_label("Opacity").fill("30")
    expect(page.locator("#overlay")).to_have_css("opacity", "0.3")
    toggle.click()
    expect(page.locator("#overlay")).to_be_hidden()
    page.get_by_role("button", name="Heat map", pressed=False).click()
    expect(page.locator("#overlay")).to_be_visible()


def test_what_the_model_does_not_look_at_is_greyed(visit, shirt):
    middle = explanation(left=7, width=14)
    page = answered(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=middle))), shirt)
    red, green, blue, opacity = overlay(page, 0.1, 0.5)
    assert max(red, green, blue) - min(red, green, blue) < 10
    assert opacity == 128
    assert overlay(page, 0.3, 0.1)[3] == 255
    expect(page.locator("#heat-outside")).to_be_visible()


def test_a_region_that_reaches_beyond_the_image_leaves_nothing_grey(visit, shirt):
    wider = explanation(left=-14, width=56)
    page = answered(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=wider))), shirt)
    expect(page.locator("#heat-outside")).to_be_hidden()
    assert overlay(page, 0.99, 0.99)[3] == 0


def test_label_and_method_of_the_heat_map_can_be_chosen(visit, model, shirt):
    asked: list[dict[str, list[str]]] = []

    def explain(route: Any) -> None:
        asked.append(parse_qs(urlsplit(route.request.url).query))
        route.fulfill(json=explanation(**{name: value for name, [value] in asked[-1].items()}))

    page = answered(visit(lambda page: page.route("**/v1/explain?*", explain)), shirt)
    second = said(model, shirt)[1][0]
    page.get_by_label("Evidence for").select_option(second)
    expect(page.locator("#heat-state")).to_be_empty()
    page.get_by_label("found by").select_option("occlusion")
    expect(page.locator("#heat-state")).to_be_empty()
    chosen = [{"label": [second], "method": ["cam"]}, {"label": [second], "method": ["occlusion"]}]
    assert asked == [{}, *chosen]
    expect(page.get_by_label("Evidence for")).to_have_value(second)


def test_where_only_occlusion_works_no_other_method_is_offered(visit, shirt):
    only = explanation(method="occlusion")
    page = answered(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=only))), shirt)
    expect(page.locator("#heat-methods")).to_be_hidden()


@pytest.mark.parametrize("status", [404, 422])
def test_a_model_that_cannot_be_explained_shows_no_heat_map(visit, shirt, status):
    page = visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(status=status, json={"title": "No"})))
    pick(page, shirt)
    assert len(shown(page)) == 5
    expect(page.locator("#neighbours li")).to_have_count(5)
    expect(page.locator("#heat")).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_empty()


def test_a_heat_map_that_failed_can_be_asked_for_again(visit, shirt):
    busy = {"status": 503, "json": {"title": "Too much to do at once", "detail": "Later.", "request_id": "r1"}}
    page = visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(**busy), times=1))
    pick(page, shirt)
    expect(page.locator("#heat-state")).to_contain_text("Too much to do at once")
    page.locator("#heat-state").get_by_role("button", name="Try again").click()
    expect(page.locator("#overlay")).to_be_visible()


# The nearest training images


def test_the_nearest_training_images_are_shown_with_label_and_distance(visit, shirt):
    page = answered(visit(), shirt)
    first = page.locator("#neighbours figure").first
    expect(first.get_by_role("img", name="Training image: shirt")).to_be_visible()
    assert first.locator("img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [40, 30]
    expect(first.locator("figcaption")).to_contain_text("distance 0.10")


def test_without_thumbnails_their_paths_are_listed(visit, shirt):
    bare = {"neighbours": neighbours(thumbnail=None)}
    page = answered(visit(lambda page: page.route("**/v1/similar?*", lambda route: route.fulfill(json=bare))), shirt)
    expect(page.locator("#neighbours img")).to_have_count(0)
    expect(page.locator("#neighbours .path").first).to_have_text("train/shirt/1.png")


def test_a_failed_comparison_leaves_the_answer_alone(visit, shirt):
    page = visit(lambda page: page.route("**/v1/similar?*", lambda route: route.abort(), times=1))
    pick(page, shirt)
    expect(page.locator("#similar-state")).to_contain_text("The service cannot be reached")
    assert len(shown(page)) == 5
    page.locator("#similar-state").get_by_role("button", name="Try again").click()
    expect(page.locator("#neighbours li")).to_have_count(5)


# Strangers


def test_hostile_names_are_shown_as_the_text_they_are(visit, shirt):
    hostile = {"predictions": [{"label": HOSTILE, "probability": 0.9}], "prediction_set": [HOSTILE], "warnings": [HOSTILE]}
    near = {"neighbours": neighbours(path=HOSTILE, labels=[HOSTILE])}

    def prepare(page: Any) -> None:
        page.route("**/v1/model", changed({"name": HOSTILE, "labels": [HOSTILE, "b"], "version": HOSTILE}))
        page.route("**/v1/classify", changed(hostile))
        page.route("**/v1/similar?*", lambda route: route.fulfill(json=near))
        page.route("**/v1/explain?*", lambda route: route.fulfill(json=explanation(label=HOSTILE)))

    page = answered(visit(prepare), shirt)
    for place in ("#name", ".bars .label", ".set .chips li", ".warnings li"):
        expect(page.locator(place).first).to_have_text(HOSTILE)
    expect(page.locator("#neighbours .label").first).to_have_text(HOSTILE)
    expect(page.locator("#heat-label option")).to_have_text(HOSTILE)
    assert page.locator("img[src=x], main b").count() == 0
    assert page.evaluate("window.broken") is None


def test_the_browser_itself_refuses_markup_made_by_script(browser, site):
    page = browser.new_page()
    page.goto(site)
    with pytest.raises(sync_api.Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>ants</b>'")
    page.close()


# A key


def guarded(route: Any) -> None:
    """The service as it would be with the key `a-secret`."""
    if route.request.headers.get("authorization") == "Bearer a-secret":
        return route.fallback()
    fields = {"title": "A key is needed", "status": 401, "detail": "Send one.", "code": "unauthorized", "request_id": "r1"}
    return route.fulfill(status=401, json=fields, content_type="application/problem+json")


def test_a_key_is_asked_for_until_it_is_right(visit, model, shirt):
    page = visit(lambda page: page.route("**/v1/**", guarded))
    dialog = page.get_by_role("dialog", name="This service asks for a key")
    dialog.get_by_label("Key").fill("a-guess")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The last one was not accepted.")
    expect(dialog.get_by_label("Key")).to_be_focused()
    dialog.get_by_label("Key").fill("a-secret")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    pick(page, shirt)
    assert shown(page) == said(model, shirt)


def test_a_key_is_neither_stored_nor_shown(visit):
    page = visit(lambda page: page.route("**/v1/**", guarded))
    page.get_by_label("Key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.locator("#code-curl")).to_contain_text("$GRAFT_API_KEY")
    assert "a-secret" not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#code-curl")).not_to_contain_text("$GRAFT_API_KEY")


def test_who_has_no_key_can_come_back_with_one(visit):
    page = visit(lambda page: page.route("**/v1/**", guarded))
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Enter the key").click()
    page.get_by_label("Key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    expect(page.locator("#locked")).to_be_hidden()


# Code to copy


def code(page: Any, tab: str) -> str:
    page.get_by_role("tab", name=tab).click()
    return page.get_by_role("tabpanel", name=tab).inner_text()


def run(command: list[str], folder: Any) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE_MS / 1000)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_command_gets_the_models_own_answer(visit, model, shirt, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(shirt)
    answer = json.loads(run(["sh", "-c", code(visit(), "curl")], tmp_path))
    assert [prediction["label"] for prediction in answer["predictions"]] == [label for label, _ in said(model, shirt)]


def test_the_python_program_gets_the_models_own_answer(visit, model, shirt, tmp_path):
    pytest.importorskip("requests")
    (tmp_path / "photo.jpg").write_bytes(shirt)
    assert run([sys.executable, "-c", code(visit(), "Python")], tmp_path).startswith(
        f"[{{'label': '{said(model, shirt)[0][0]}'"
    )


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed; the JavaScript program needs it")
def test_the_javascript_program_gets_the_models_own_answer(visit, model, shirt, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(shirt)
    (tmp_path / "ask.mjs").write_text(code(visit(), "JavaScript"), encoding="utf-8")
    assert f"label: '{said(model, shirt)[0][0]}'" in run(["node", "ask.mjs"], tmp_path)


@pytest.mark.parametrize(("tab", "program"), [("curl", "sh"), ("Python", sys.executable), ("JavaScript", "node")])
def test_with_a_key_the_code_sends_what_the_environment_holds(visit, tmp_path, tab, program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    page = visit(lambda page: page.route("**/v1/**", guarded))
    page.get_by_label("Key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.locator("#code-curl")).to_contain_text("$GRAFT_API_KEY")
    assert heard(code(page, tab), tab, program, tmp_path) == "Bearer from-the-environment"


def heard(written: str, tab: str, program: str, folder: Any) -> str:
    """The Authorization header that the code sends, to a server that only listens."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(PATIENCE_MS / 1000)
        origin = written[written.index("http://") :].split("/v1/")[0]
        (folder / "photo.jpg").write_bytes(b"pixels")
        name = {"curl": "ask.sh", "Python": "ask.py", "JavaScript": "ask.mjs"}[tab]
        (folder / name).write_text(written.replace(origin, f"http://127.0.0.1:{door.getsockname()[1]}"), encoding="utf-8")
        environment = os.environ | {"GRAFT_API_KEY": "from-the-environment"}
        with subprocess.Popen(
            [program, name], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            caller, _ = door.accept()
            with caller:
                head = caller.recv(65536).decode("latin-1").split("\r\n\r\n")[0]
    return next(line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith("authorization:"))


def test_copying_says_that_it_did(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.get_by_role("tabpanel", name="curl").inner_text()


def test_where_copying_is_not_allowed_the_code_is_selected(visit):
    page = visit(lambda page: page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })"))
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Selected: press Ctrl+C")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == page.get_by_role("tabpanel", name="curl").inner_text()


# Every kind of visitor


def test_all_of_it_can_be_done_by_keyboard(visit, model, shirt):
    page = visit()
    page.on("filechooser", lambda chooser: None)  # from the first listener on, Chromium hands its dialogs over
    expect(page.locator("#labels li")).to_have_count(10)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the image")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Choose an image")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "photo.png", "mimeType": "image/png", "buffer": shirt})
    assert shown(page) == said(model, shirt)
    expect(page.locator("#heat-controls")).to_be_visible()
    met = []
    while "Copy" not in met and len(met) < 20:
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText"))
    assert met == ["Use camera", "Heat map", "Opacity", "Evidence for", "found by", "curl", "Copy"]


def test_arrow_keys_move_between_the_tabs(visit):
    page = visit()
    page.get_by_role("tab", name="curl").focus()
    for key, name in [("ArrowRight", "Python"), ("End", "JavaScript"), ("ArrowRight", "curl"), ("ArrowLeft", "JavaScript")]:
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=name, selected=True)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
    expect(page.get_by_role("tab", selected=True)).to_have_count(1)
    expect(page.get_by_role("tabpanel")).to_have_count(1)


def test_every_control_and_landmark_has_a_name(visit, shirt):
    page = answered(visit(), shirt)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    wanted = {"button", "combobox", "slider", "tab", "tabpanel", "tablist", "link", "region", "group", "list", "image"}
    nameless = {role for role, name in told if role in wanted - {"list"} and not name}
    assert nameless == set()
    assert {"banner", "main", "contentinfo", "alert", "status"} <= {role for role, _ in told}
    assert {"button", "combobox", "slider", "tab", "image"} <= {role for role, _ in told}


def test_headings_go_down_one_step_at_a_time(visit, shirt):
    page = answered(visit(), shirt)
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "(all) => all.filter((h) => h.checkVisibility()).map((h) => +h.tagName[1])"
    )
    assert levels == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(visit, shirt, noise, scheme):
    page = answered(visit(color_scheme=scheme, reduced_motion="reduce"), shirt)
    seen = page.evaluate(CONTRASTS)
    pick(page, noise)
    expect(page.locator(".abstention")).to_be_visible()
    seen += page.evaluate(CONTRASTS)
    pick(page, b"hello")
    problem(page, "The image is of a kind that is not accepted")
    seen += page.evaluate(CONTRASTS)
    assert len(seen) > 100
    assert [(round(contrast, 2), text) for contrast, text in seen if contrast < 4.5] == []


def test_the_page_is_dark_where_the_visitor_wants_it_dark(visit):
    tones = [
        visit(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor") for scheme in ("light", "dark")
    ]
    assert tones == ["rgb(246, 246, 242)", "rgb(15, 19, 17)"]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(visit, shirt, width):
    long = "un" * 60
    long_answer = {"predictions": [{"label": long, "probability": 0.5}], "prediction_set": [long]}

    def prepare(page: Any) -> None:
        page.route("**/v1/model", changed({"name": long}))
        page.route("**/v1/classify", changed(long_answer))
        page.route("**/v1/similar?*", lambda route: route.fulfill(json={"neighbours": neighbours(path=long, labels=[long])}))

    page = answered(visit(prepare, viewport={"width": width, "height": 740}), shirt)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_nothing_moves_for_who_wants_no_motion(visit, shirt):
    page = answered(visit(reduced_motion="reduce"), shirt)
    assert page.evaluate("document.getAnimations().length") == 0
