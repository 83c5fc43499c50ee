"""The page's panels: heat map, nearest training images, code samples, and the API key dialog."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import browser as browsing
import pytest
from browser import (
    TIMEOUT_MS,
    choose_file,
    classify_on_page,
    displayed_predictions,
    expected_predictions,
    explanation,
    neighbors,
    require_key,
)
from playwright.sync_api import Page, Route, expect

site, browser, visit = browsing.site, browsing.browser, browsing.visit


def overlay(page: Page, x: float, y: float) -> list[int]:
    """RGBA of the overlay's pixel at a position, given as fractions of its width and height."""
    return page.evaluate(
        "([x, y]) => { const c = document.getElementById('overlay');"
        " return [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]; }",
        [x, y],
    )


def test_heat_map_and_neighbors_of_the_service_are_shown(browser, site, model, shirt):
    page = browser.new_page()
    page.goto(site)
    classify_on_page(page, shirt)
    nearest = model.neighbors.nearest(model.engine(model.decode(shirt).pixels[None]).vectors[0], 1)[0]
    first = page.locator("#neighbors li").first
    expect(first).to_contain_text(model.manifest.labels[nearest.labels[0]])
    expect(first.locator("img")).to_have_js_property("complete", True)
    assert page.evaluate(
        "() => { const c = document.getElementById('overlay');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((value) => value > 0); }"
    )
    page.close()


def test_heat_map_is_aligned_with_the_image(visit, shirt):
    page = classify_on_page(visit(), shirt)
    expect(page.locator("#overlay")).to_be_visible()
    assert overlay(page, 0.05, 0.05)[3] == 255
    assert overlay(page, 0.95, 0.95)[3] == 0
    picture, canvas = (page.locator(name).bounding_box() for name in ("#picture", "#overlay"))
    assert picture == canvas


@pytest.mark.parametrize(("bias", "top_left", "elsewhere"), [(0.5, 255, 136), (-0.9, 255, 0)])
def test_bias_is_added_to_the_map(visit, shirt, bias, top_left, elsewhere):
    shifted = explanation() | {"bias": bias}
    page = classify_on_page(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=shifted))), shirt)
    assert overlay(page, 0.05, 0.05)[3] == top_left
    assert overlay(page, 0.95, 0.05)[3] == pytest.approx(elsewhere, abs=5)  # the interpolation overshoots a little


def test_map_without_positive_values_shows_a_note(visit, shirt):
    against = explanation() | {"map": [[-1.0, -2.0]]}
    page = classify_on_page(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=against))), shirt)
    expect(page.locator("#heat-state")).to_have_text("No part of this image supports shirt.")
    assert overlay(page, 0.5, 0.5)[3] == 0


def test_heat_map_toggle_and_opacity(visit, shirt):
    page = classify_on_page(visit(), shirt)
    toggle = page.get_by_role("button", name="Heat map", pressed=True)
    page.get_by_label("Opacity").fill("30")
    expect(page.locator("#overlay")).to_have_css("opacity", "0.3")
    toggle.click()
    expect(page.locator("#overlay")).to_be_hidden()
    page.get_by_role("button", name="Heat map", pressed=False).click()
    expect(page.locator("#overlay")).to_be_visible()


def test_area_outside_the_input_is_gray(visit, shirt):
    middle = explanation(left=7, width=14)
    page = classify_on_page(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=middle))), shirt)
    red, green, blue, opacity = overlay(page, 0.1, 0.5)
    assert max(red, green, blue) - min(red, green, blue) < 10
    assert opacity == 128
    assert overlay(page, 0.3, 0.1)[3] == 255
    expect(page.locator("#heat-outside")).to_be_visible()


def test_region_larger_than_the_image_has_no_gray_area(visit, shirt):
    wider = explanation(left=-14, width=56)
    page = classify_on_page(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=wider))), shirt)
    expect(page.locator("#heat-outside")).to_be_hidden()
    assert overlay(page, 0.99, 0.99)[3] < 5  # gray would be 128


def test_label_and_method_can_be_selected(visit, model, shirt):
    asked: list[dict[str, list[str]]] = []

    def explain(route: Route) -> None:
        asked.append(parse_qs(urlsplit(route.request.url).query))
        route.fulfill(json=explanation(**{name: value for name, [value] in asked[-1].items()}))

    page = classify_on_page(visit(lambda page: page.route("**/v1/explain?*", explain)), shirt)
    second = expected_predictions(model, shirt)[1][0]
    page.get_by_label("Target label").select_option(second)
    expect(page.locator("#heat-state")).to_be_empty()
    page.get_by_label("Method").select_option("occlusion")
    expect(page.locator("#heat-state")).to_be_empty()
    chosen = [{"label": [second], "method": ["cam"]}, {"label": [second], "method": ["occlusion"]}]
    assert asked == [{}, *chosen]
    expect(page.get_by_label("Target label")).to_have_value(second)


def test_method_is_hidden_if_only_occlusion_works(visit, shirt):
    only = explanation(method="occlusion")
    page = classify_on_page(visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(json=only))), shirt)
    expect(page.locator("#heat-methods")).to_be_hidden()


@pytest.mark.parametrize("status", [404, 422])
def test_heat_map_is_hidden_if_unsupported(visit, shirt, status):
    page = visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(status=status, json={"title": "No"})))
    choose_file(page, shirt)
    assert len(displayed_predictions(page)) == 5
    expect(page.locator("#neighbors li")).to_have_count(5)
    expect(page.locator("#heat")).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_empty()


def test_failed_heat_map_can_be_retried(visit, shirt):
    busy = {"status": 503, "json": {"title": "Service overloaded", "detail": "Later.", "request_id": "r1"}}
    page = visit(lambda page: page.route("**/v1/explain?*", lambda route: route.fulfill(**busy), times=1))
    choose_file(page, shirt)
    expect(page.locator("#heat-state")).to_contain_text("Service overloaded")
    page.locator("#heat-state").get_by_role("button", name="Try again").click()
    expect(page.locator("#overlay")).to_be_visible()


def test_failed_selection_removes_the_previous_map(visit, shirt):
    page = classify_on_page(visit(), shirt)
    page.route("**/v1/explain?*", lambda route: route.fulfill(status=422, json={"title": "Invalid method"}))
    page.get_by_label("Method").select_option("occlusion")
    expect(page.locator("#heat-state")).to_contain_text("Invalid method")
    expect(page.locator("#heat-controls")).to_be_visible()
    expect(page.locator("#overlay")).to_have_js_property("width", 0)


def test_neighbors_are_shown_with_label_and_distance(visit, shirt):
    page = classify_on_page(visit(), shirt)
    first = page.locator("#neighbors figure").first
    expect(first.get_by_role("img", name="Training image: shirt")).to_be_visible()
    assert first.locator("img").evaluate("(image) => [image.naturalWidth, image.naturalHeight]") == [40, 30]
    expect(first.locator("figcaption")).to_contain_text("distance 0.10")


def test_neighbors_without_thumbnails_are_listed_by_path(visit, shirt):
    bare = {"neighbors": neighbors(thumbnail=None)}
    page = classify_on_page(visit(lambda page: page.route("**/v1/similar?*", lambda route: route.fulfill(json=bare))), shirt)
    expect(page.locator("#neighbors img")).to_have_count(0)
    expect(page.locator("#neighbors .path").first).to_have_text("train/shirt/1.png")


def test_failed_neighbor_search_keeps_the_result(visit, shirt):
    page = visit(lambda page: page.route("**/v1/similar?*", lambda route: route.abort(), times=1))
    choose_file(page, shirt)
    expect(page.locator("#similar-state")).to_contain_text("Service unreachable")
    assert len(displayed_predictions(page)) == 5
    page.locator("#similar-state").get_by_role("button", name="Try again").click()
    expect(page.locator("#neighbors li")).to_have_count(5)


def test_key_dialog_repeats_until_the_key_is_valid(visit, model, shirt):
    page = visit(lambda page: page.route("**/v1/**", require_key))
    dialog = page.get_by_role("dialog", name="API key required")
    dialog.get_by_label("API key").fill("a-guess")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The previous key was not accepted.")
    expect(dialog.get_by_label("API key")).to_be_focused()
    dialog.get_by_label("API key").fill("a-secret")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    choose_file(page, shirt)
    assert displayed_predictions(page) == expected_predictions(model, shirt)


def test_one_key_serves_all_rejected_requests(visit):
    held: list[Route] = []

    def prepare(page: Page) -> None:
        page.route("**/v1/**", require_key)
        page.route("**/v1/limits", lambda route: require_key(route) if held else held.append(route))

    page = visit(prepare)
    page.get_by_label("API key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    require_key(held[0])  # rejected only now, after the key was entered
    expect(page.locator("#limits")).to_contain_text("10 MiB")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_dismissed_dialog_does_not_reopen_for_pending_requests(visit):
    held: list[Route] = []

    def hold(route: Route) -> None:  # a list's own method is no handler for Playwright
        held.append(route)

    def prepare(page: Page) -> None:
        page.route("**/v1/**", require_key)
        page.route("**/v1/limits", hold)

    page = visit(prepare)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Enter API key")).to_be_visible()
    with page.expect_response("**/v1/limits"):
        require_key(held[0])  # rejected only now
    page.wait_for_timeout(100)  # for a dialog that must not open
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_key_is_neither_stored_nor_shown(visit):
    page = visit(lambda page: page.route("**/v1/**", require_key))
    page.get_by_label("API key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.locator("#code-curl")).to_contain_text("$GRAFT_API_KEY")
    assert "a-secret" not in page.content()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.get_by_role("button", name="Forget API key").click()
    expect(page.locator("#code-curl")).not_to_contain_text("$GRAFT_API_KEY")


def test_key_can_be_entered_after_dismissal(visit):
    page = visit(lambda page: page.route("**/v1/**", require_key))
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Enter API key").click()
    page.get_by_label("API key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    expect(page.locator("#locked")).to_be_hidden()


def code(page: Page, tab: str) -> str:
    page.get_by_role("tab", name=tab).click()
    return page.get_by_role("tabpanel", name=tab).inner_text()


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_MS / 1000)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sample_works(visit, model, shirt, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(shirt)
    answer = json.loads(run(["sh", "-c", code(visit(), "curl")], tmp_path))
    assert [prediction["label"] for prediction in answer["predictions"]] == [
        label for label, _ in expected_predictions(model, shirt)
    ]


def test_python_sample_works(visit, model, shirt, tmp_path):
    pytest.importorskip("requests")
    (tmp_path / "photo.jpg").write_bytes(shirt)
    found = run([sys.executable, "-c", code(visit(), "Python")], tmp_path)
    assert found.startswith(f"[{{'label': '{expected_predictions(model, shirt)[0][0]}'")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed; the JavaScript program needs it")
def test_javascript_sample_works(visit, model, shirt, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(shirt)
    (tmp_path / "classify.mjs").write_text(code(visit(), "JavaScript"), encoding="utf-8")
    assert f"label: '{expected_predictions(model, shirt)[0][0]}'" in run(["node", "classify.mjs"], tmp_path)


@pytest.mark.parametrize(
    ("tab", "program", "file"),
    [("curl", "sh", "classify.sh"), ("Python", sys.executable, "classify.py"), ("JavaScript", "node", "classify.mjs")],
)
def test_samples_read_the_key_from_the_environment(visit, tmp_path, tab, program, file):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    page = visit(lambda page: page.route("**/v1/**", require_key))
    page.get_by_label("API key", exact=True).fill("a-secret")
    page.keyboard.press("Enter")
    expect(page.locator("#code-curl")).to_contain_text("$GRAFT_API_KEY")
    (tmp_path / "photo.jpg").write_bytes(b"pixels")
    with socket.create_server(("127.0.0.1", 0)) as door:
        elsewhere = f"http://127.0.0.1:{door.getsockname()[1]}/"
        (tmp_path / file).write_text(code(page, tab).replace(page.url, elsewhere), encoding="utf-8")
        assert "authorization: bearer from-the-environment" in heard(door, [program, file], tmp_path)


def heard(door: socket.socket, command: list[str], folder: Path) -> list[str]:
    """The header lines, in lower case, of the request that a command sends."""
    door.settimeout(TIMEOUT_MS / 1000)
    environment = os.environ | {"GRAFT_API_KEY": "from-the-environment"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        caller, _ = door.accept()
        with caller:
            return caller.recv(65536).decode("latin-1").lower().splitlines()


def test_copy_button_confirms(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.get_by_role("tabpanel", name="curl").inner_text()


def test_copy_button_selects_the_code_without_permission(visit):
    page = visit(lambda page: page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })"))
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Selected: press Ctrl+C")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == page.get_by_role("tabpanel", name="curl").inner_text()
