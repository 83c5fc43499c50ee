"""The try-it page in a real browser, in front of the real routes: images in, answers and problems out."""

import browser as browsing
import pytest
from browser import answered, changed, explanation, neighbours, pick, png, problem, said, shown, worded
from PIL import Image
from playwright.sync_api import Error, Page, Route, expect

site, browser, visit = browsing.site, browsing.browser, browsing.visit
shirt, noise = browsing.shirt, browsing.noise
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


def test_what_comes_while_somebody_reads_further_down_is_brought_into_view(visit, shirt):
    page = visit(viewport={"width": 360, "height": 740})
    page.locator("footer").scroll_into_view_if_needed()
    expect(page.locator("#stage")).not_to_be_in_viewport()
    page.dispatch_event("footer", "drop", {"dataTransfer": page.evaluate_handle(DROPPED, [list(shirt), "a.png", "image/png"])})
    expect(page.locator("#stage")).to_be_in_viewport()


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
    held: list[Route] = []

    def prepare(page: Page) -> None:
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

    def prepare(page: Page) -> None:
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
    limits = [{"name": "max_body_bytes", "value": 2**20, "setting": "GRAFT_MAX_BODY_BYTES"}, MAX_PIXELS]
    page, sent = visit(lambda page: page.route("**/v1/limits", changed({"limits": limits}))), []
    expect(page.locator("#limits")).to_contain_text("1 MiB")
    page.on("request", lambda request: sent.append(request.url) if "/v1/" in request.url else None)
    pick(page, bytes(2**20 + 1))
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


def test_hostile_names_are_shown_as_the_text_they_are(visit, shirt):
    hostile = {"predictions": [{"label": HOSTILE, "probability": 0.9}], "prediction_set": [HOSTILE], "warnings": [HOSTILE]}
    near = {"neighbours": neighbours(path=HOSTILE, labels=[HOSTILE])}

    def prepare(page: Page) -> None:
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
    with pytest.raises(Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>ants</b>'")
    page.close()
