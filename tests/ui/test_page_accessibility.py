"""Accessibility of the page: keyboard, screen reader, color schemes, window widths, and reduced motion."""

import browser as browsing
import pytest
from browser import (
    choose_file,
    classify_on_page,
    displayed_predictions,
    expected_predictions,
    neighbors,
    problem_box,
    with_fields,
)
from playwright.sync_api import Page, expect

site, browser, visit = browsing.site, browsing.browser, browsing.visit
noise = browsing.noise
# The WCAG 2.2 contrast of every element with text against the first opaque background color.
CONTRASTS = """() => {
  const parse = (color) => {
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const beneath = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const [a, b] = [light(parse(getComputedStyle(e).color)), light(beneath(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40)];
    });
}"""


def test_page_works_with_the_keyboard(visit, model, shirt):
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
    assert displayed_predictions(page) == expected_predictions(model, shirt)
    expect(page.locator("#heat-controls")).to_be_visible()
    met = []
    while "Copy" not in met and len(met) < 20:
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText"))
    assert met == ["Use camera", "Heat map", "Opacity", "Target label", "Method", "curl", "Copy"]


def test_arrow_keys_switch_tabs(visit):
    page = visit()
    page.get_by_role("tab", name="curl").focus()
    for key, name in [("ArrowRight", "Python"), ("End", "JavaScript"), ("ArrowRight", "curl"), ("ArrowLeft", "JavaScript")]:
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=name, selected=True)).to_be_focused()
        expect(page.get_by_role("tabpanel", name=name)).to_be_visible()
    expect(page.get_by_role("tab", selected=True)).to_have_count(1)
    expect(page.get_by_role("tabpanel")).to_have_count(1)


def test_every_control_and_landmark_has_a_name(visit, shirt):
    page = classify_on_page(visit(), shirt)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    wanted = {"button", "combobox", "slider", "tab", "tabpanel", "tablist", "link", "region", "group", "list", "image"}
    nameless = {role for role, name in told if role in wanted - {"list"} and not name}
    assert nameless == set()
    assert {"banner", "main", "contentinfo", "alert", "status"} <= {role for role, _ in told}
    assert {"button", "combobox", "slider", "tab", "image"} <= {role for role, _ in told}


def test_heading_levels_are_not_skipped(visit, shirt):
    page = classify_on_page(visit(), shirt)
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "(all) => all.filter((h) => h.checkVisibility()).map((h) => +h.tagName[1])"
    )
    assert levels == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(visit, shirt, noise, scheme):
    page = classify_on_page(visit(color_scheme=scheme, reduced_motion="reduce"), shirt)
    seen = page.evaluate(CONTRASTS)
    choose_file(page, noise)
    expect(page.locator(".abstention")).to_be_visible()
    seen += page.evaluate(CONTRASTS)
    choose_file(page, b"hello")
    problem_box(page, "Unsupported image format")
    seen += page.evaluate(CONTRASTS)
    assert len(seen) > 100
    assert [(round(contrast, 2), text) for contrast, text in seen if contrast < 4.5] == []


def test_dark_color_scheme(visit):
    tones = [
        visit(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor") for scheme in ("light", "dark")
    ]
    assert tones == ["rgb(246, 246, 242)", "rgb(15, 19, 17)"]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_horizontal_scrolling(visit, shirt, width):
    long = "un" * 60
    long_answer = {"predictions": [{"label": long, "probability": 0.5}], "prediction_set": [long]}

    def prepare(page: Page) -> None:
        page.route("**/v1/model", with_fields({"name": long}))
        page.route("**/v1/classify", with_fields(long_answer))
        page.route("**/v1/similar?*", lambda route: route.fulfill(json={"neighbors": neighbors(path=long, labels=[long])}))

    page = classify_on_page(visit(prepare, viewport={"width": width, "height": 740}), shirt)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_reduced_motion_disables_animations(visit, shirt):
    page = classify_on_page(visit(reduced_motion="reduce"), shirt)
    assert page.evaluate("document.getAnimations().length") == 0
