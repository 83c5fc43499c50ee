"""The demo page in a real browser with the real routes: image inputs, results, and problems."""

import browser as browsing
import pytest
from browser import (
    choose_file,
    classify_on_page,
    displayed_predictions,
    expected_predictions,
    explanation,
    neighbors,
    percent_text,
    png,
    problem_box,
    with_fields,
)
from PIL import Image
from playwright.sync_api import Error, Page, Route, expect

site, browser, visit = browsing.site, browsing.browser, browsing.visit
noise = browsing.noise
MAX_PIXELS = {"name": "max_pixels", "value": 64_000_000, "setting": "GRAFT_MAX_PIXELS"}
HOSTILE = '<img src=x onerror="window.broken = true"><b>ants</b>'
DROPPED = """([content, name, type]) => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([Uint8Array.from(content)], name, { type }));
  return dropped;
}"""
COPY_IMAGE = """async (content) => {
  const blob = new Blob([Uint8Array.from(content)], { type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""


def test_header_describes_the_model(visit, model):
    manifest = model.manifest
    page, test = visit(), manifest.scores["test"]
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    facts = page.locator("#facts")
    for fact in (manifest.version, manifest.backbone.name, "10", "CPU", percent_text(test.accuracy)):
        expect(facts).to_contain_text(fact)
    expect(facts).to_contain_text(f"{percent_text(test.low)} to {percent_text(test.high)}, {test.n} images")
    expect(page.locator("#labels li")).to_have_text(list(manifest.labels))
    expect(page.locator("#limits")).to_have_text("JPEG, PNG, WebP, GIF, or BMP; at most 10 MiB and 64 megapixels.")


def test_picked_image_is_classified(visit, model, shirt):
    page = visit()
    choose_file(page, shirt)
    assert displayed_predictions(page) == expected_predictions(model, shirt)


def test_dropped_image_is_classified(visit, model, shirt):
    page = visit()
    dropped = page.evaluate_handle(DROPPED, [list(shirt), "photo.png", "image/png"])
    page.dispatch_event("footer", "dragover", {"dataTransfer": dropped})
    expect(page.locator(".drop-overlay")).to_be_visible()
    page.dispatch_event("footer", "drop", {"dataTransfer": dropped})
    expect(page.locator(".drop-overlay")).to_be_hidden()
    assert displayed_predictions(page) == expected_predictions(model, shirt)


def test_pasted_image_is_classified(visit, model, shirt):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(COPY_IMAGE, list(shirt))
    page.keyboard.press("Control+V")
    assert displayed_predictions(page) == expected_predictions(model, shirt)


def test_dropped_image_is_scrolled_into_view(visit, shirt):
    page = visit(viewport={"width": 360, "height": 740})
    page.locator("footer").scroll_into_view_if_needed()
    expect(page.locator("#stage")).not_to_be_in_viewport()
    page.dispatch_event("footer", "drop", {"dataTransfer": page.evaluate_handle(DROPPED, [list(shirt), "a.png", "image/png"])})
    expect(page.locator("#stage")).to_be_in_viewport()


def test_pasted_text_is_rejected_and_keeps_the_result(visit, shirt):
    page = classify_on_page(visit(permissions=["clipboard-read", "clipboard-write"]), shirt)
    page.evaluate("navigator.clipboard.writeText('https://example.org/cat.jpg')")
    page.keyboard.press("Control+V")
    problem_box(page, "Missing image")
    assert len(displayed_predictions(page)) == 5


def test_dropped_url_is_not_fetched(visit):
    page = visit()
    dropped = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.setData('text/uri-list', 'http://x.test/'); return d; }"
    )
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    problem_box(page, "URLs are not fetched")


def test_camera_takes_a_photo_and_stops(visit):
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Use camera").click()
    expect(page.locator("#video")).not_to_have_js_property("videoWidth", 0)
    page.evaluate("window.tracks = document.getElementById('video').srcObject.getTracks()")
    page.get_by_role("button", name="Take the picture").click()
    assert len(displayed_predictions(page)) == 5
    expect(page.locator(".measured")).to_contain_text("JPEG")
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended"]


def test_denied_camera_shows_the_reason(visit):
    refuse = (
        "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('Permission denied', 'NotAllowedError'); }"
    )
    page = visit(lambda page: page.add_init_script(refuse))
    page.get_by_role("button", name="Use camera").click()
    expect(problem_box(page, "Camera not available")).to_contain_text("Permission denied")


def test_camera_button_is_hidden_without_a_camera(visit):
    page = visit(lambda page: page.add_init_script("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"))
    expect(page.get_by_role("heading", level=1)).to_have_text("fashion-mnist")
    expect(page.locator("#camera")).to_be_hidden()


def test_newer_image_aborts_the_pending_request(visit, model, shirt, noise):
    held: list[Route] = []

    def prepare(page: Page) -> None:
        page.route("**/v1/classify", lambda route: route.continue_() if held else held.append(route))

    page = visit(prepare)
    with page.expect_event("requestfailed") as failed:
        choose_file(page, noise)
        while not held:
            page.wait_for_timeout(10)
        expect(page.locator("#waiting")).to_be_visible()
        choose_file(page, shirt)
    assert failed.value.failure == "net::ERR_ABORTED"
    assert displayed_predictions(page) == expected_predictions(model, shirt)
    expect(page.get_by_role("alert")).to_be_empty()


def test_prediction_set_is_shown_with_its_coverage(visit, model, shirt):
    page = visit()
    choose_file(page, shirt)
    expect(page.locator(".set .chips li")).to_have_text(list(model.classify(shirt, 5).prediction_set))
    expect(page.locator(".set p")).to_contain_text("Prediction set (90% coverage):")


def test_result_is_announced(visit, model, shirt):
    page = visit()
    choose_file(page, shirt)
    [(label, chance), *_] = expected_predictions(model, shirt)
    expect(page.get_by_role("status")).to_contain_text(f"{label}, {chance}. Prediction set (90% coverage):")


def test_outlier_shows_a_warning(visit, model, noise):
    page = visit()
    choose_file(page, noise)
    answer = model.classify(noise, 5)
    warning = page.locator(".abstention")
    expect(warning).to_contain_text("The model abstains")
    expect(warning).to_contain_text("unlike the training images")
    expect(warning).to_contain_text(f"{answer.outlier_score:.2f}, above {model.manifest.calibration.outlier_threshold:.2f}")
    expect(page.get_by_role("status")).to_contain_text("The model abstains")
    expect(page.locator(".set p")).to_contain_text("does not hold for outliers")


def test_unsure_result_shows_a_warning(visit, model, shirt):
    unsure = {"abstain": True, "abstain_reason": "unsure", "prediction_set": list(model.manifest.labels)}
    page = visit(lambda page: page.route("**/v1/classify", with_fields(unsure)))
    choose_file(page, shirt)
    expect(page.locator(".abstention")).to_contain_text("The model is unsure")
    expect(page.locator(".abstention")).to_contain_text(f"more than {100 * model.manifest.calibration.max_error:.1f}%")
    expect(page.get_by_role("status")).to_contain_text("Unsure. The most probable label is")
    expect(page.locator(".set p")).to_have_text("No label can be ruled out:")


@pytest.mark.parametrize(("given", "sentence"), [(["bag"], "Predicted labels:"), ([], "No predicted labels")])
def test_multilabel_model_shows_predicted_labels(visit, model, shirt, given, sentence):
    described = {"multilabel": True, "calibration": model.manifest.calibration.model_dump() | {"coverage": None}}

    def prepare(page: Page) -> None:
        page.route("**/v1/model", with_fields(described))
        page.route("**/v1/classify", with_fields({"prediction_set": given}))

    page = visit(prepare)
    choose_file(page, shirt)
    expect(page.locator(".set p")).to_contain_text(sentence)
    expect(page.locator(".set .chips li")).to_have_text(given)


def test_many_labels_are_collapsed(visit):
    labels = [f"label {number}" for number in range(100)]
    page = visit(lambda page: page.route("**/v1/model", with_fields({"labels": labels})))
    expect(page.locator("#labels li:not(.more)")).to_have_count(16)
    page.get_by_role("button", name="and 84 more").press("Enter")
    expect(page.locator("#labels li")).to_have_text(labels)
    expect(page.locator("#labels li").nth(16)).to_be_focused()


def test_warnings_and_details_are_shown(visit):
    page = visit()
    choose_file(page, png(Image.new("RGB", (9, 7))))
    expect(page.locator(".warnings li")).to_have_text("tiny: fewer than 16 pixels on a side")
    expect(page.locator(".measured")).to_contain_text("9 × 7 PNG, 1 KiB")
    expect(page.locator(".measured")).to_contain_text("decode")


def test_replaced_package_reloads_the_description(visit, shirt):
    page = visit(lambda page: page.route("**/v1/model", with_fields({"sha256": "0" * 64}), times=1))
    expect(page.locator("#facts")).to_contain_text("sha256 000000000000")
    choose_file(page, shirt)
    assert len(displayed_predictions(page)) == 5
    expect(page.locator("#facts")).not_to_contain_text("sha256 000000000000")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("made", "title"),
    [
        (lambda shirt: b"hello", "Unsupported image format"),
        (lambda shirt: b"", "Empty image"),
        (cut, "Corrupt image"),
    ],
)
def test_invalid_file_shows_the_problem(visit, shirt, made, title):
    page = visit()
    choose_file(page, made(shirt), "photo.jpg", "image/jpeg")
    expect(problem_box(page, title)).to_contain_text("Request")
    expect(page.locator(".bars")).to_have_count(0)


def test_undisplayable_file_is_not_shown_as_a_broken_image(visit):
    page = visit()
    choose_file(page, b"hello")
    expect(page.locator("#unshown")).to_be_visible()
    expect(page.locator("#picture")).to_be_hidden()


def test_problem_shows_the_limit_and_its_setting(visit):
    page = visit()
    choose_file(page, png(Image.new("1", (9000, 9000))))
    box = problem_box(page, "Image too large")
    expect(box).to_contain_text("max_pixels = 64,000,000")
    expect(box).to_contain_text("GRAFT_MAX_PIXELS")


def test_file_over_the_limit_is_not_sent(visit):
    limits = [{"name": "max_body_bytes", "value": 2**20, "setting": "GRAFT_MAX_BODY_BYTES"}, MAX_PIXELS]
    page, sent = visit(lambda page: page.route("**/v1/limits", with_fields({"limits": limits}))), []
    expect(page.locator("#limits")).to_contain_text("1 MiB")
    page.on("request", lambda request: sent.append(request.url) if "/v1/" in request.url else None)
    choose_file(page, bytes(2**20 + 1))
    expect(problem_box(page, "File too large")).to_contain_text("GRAFT_MAX_BODY_BYTES")
    assert sent == []


def test_valid_image_after_an_invalid_one_is_classified(visit, model, shirt):
    page = visit()
    choose_file(page, b"hello")
    problem_box(page, "Unsupported image format")
    choose_file(page, shirt)
    assert displayed_predictions(page) == expected_predictions(model, shirt)
    expect(page.get_by_role("alert")).to_be_empty()


def test_request_can_be_retried(visit, model, shirt):
    page = visit(lambda page: page.route("**/v1/classify", lambda route: route.abort(), times=1))
    choose_file(page, shirt)
    problem_box(page, "Service unreachable")
    page.get_by_role("button", name="Try again").click()
    assert displayed_predictions(page) == expected_predictions(model, shirt)


def test_response_of_a_proxy_is_recognized(visit, shirt):
    gateway = {"status": 502, "body": "<h1>Bad gateway</h1>", "content_type": "text/html"}
    page = visit(lambda page: page.route("**/v1/classify", lambda route: route.fulfill(**gateway)))
    choose_file(page, shirt)
    expect(problem_box(page, "Invalid response")).to_contain_text("502")


def test_hostile_names_are_shown_as_text(visit, shirt):
    hostile = {"predictions": [{"label": HOSTILE, "probability": 0.9}], "prediction_set": [HOSTILE], "warnings": [HOSTILE]}
    near = {"neighbors": neighbors(path=HOSTILE, labels=[HOSTILE])}

    def prepare(page: Page) -> None:
        page.route("**/v1/model", with_fields({"name": HOSTILE, "labels": [HOSTILE, "b"], "version": HOSTILE}))
        page.route("**/v1/classify", with_fields(hostile))
        page.route("**/v1/similar?*", lambda route: route.fulfill(json=near))
        page.route("**/v1/explain?*", lambda route: route.fulfill(json=explanation(label=HOSTILE)))

    page = classify_on_page(visit(prepare), shirt)
    for place in ("#name", ".bars .label", ".set .chips li", ".warnings li"):
        expect(page.locator(place).first).to_have_text(HOSTILE)
    expect(page.locator("#neighbors .label").first).to_have_text(HOSTILE)
    expect(page.locator("#heat-label option")).to_have_text(HOSTILE)
    assert page.locator("img[src=x], main b").count() == 0
    assert page.evaluate("window.broken") is None


def test_trusted_types_block_html_from_scripts(browser, site):
    page = browser.new_page()
    page.goto(site)
    with pytest.raises(Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>ants</b>'")
    page.close()
