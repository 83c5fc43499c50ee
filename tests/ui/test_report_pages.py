"""The pages of reports in Chromium: no violation found by axe, at any width and color scheme, and pictures that enlarge."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from made_up_runs import FINDINGS, estimate_around, fake_evaluation, fake_jpeg, fake_predictions, fake_report
from playwright.sync_api import Browser, Page, expect, sync_playwright

from graft.training.architecture.layers import Layer
from graft.training.architecture.summary import Inspection, ModelSummary
from graft.training.config.corruptions import CORRUPTIONS
from graft.training.data.findings import Finding
from graft.training.evaluation.comparison import RunResult, compare_runs
from graft.training.report import notebook, render
from graft.training.report.evaluation_page import EvaluationReport, evaluation_page
from graft.training.robustness.measure import CorruptedExample, Robustness, SeverityResult
from graft.training.robustness.recommendations import recommend
from graft.training.visualization.thumbnails import data_uri, thumbnail

CHROMIUM = shutil.which("chromium")
LONG_PATH = "a folder with a long name/" * 6 + "image-0042.jpg"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def near_duplicates(n: int) -> list[Finding]:
    """Findings of pairs, as a check lists them."""
    pairs = [(f"train/rose/image_{k:04d}.jpg", f"test/rose/image_{k + 500:04d}.jpg") for k in range(n)]
    return [Finding("near-duplicate", "warning", f"near-duplicates: {', '.join(pair)}", pair) for pair in pairs]


def check_page(findings: list[Finding]) -> str:
    pictures = {path: data_uri(thumbnail(fake_jpeg(path))) for finding in findings for path in finding.paths}
    return render.check_page("photos", "9 images: 3 findings", findings, pictures)


def compare_page() -> str:
    def run(strategy: str, n_correct: int) -> RunResult:
        return RunResult(strategy, "lite0", 0, 9.0, {k.to_bytes(2, "big"): float(k < n_correct) for k in range(200)})

    return render.compare_page(
        "photos", "3 strategies", compare_runs([run("probe", 188), run("finetune", 190), run("svm", 90)])
    )


def inspect_page() -> str:
    layers = tuple(Layer(f"features.{k}", "convolution", (64, 14, 14), None, 1_000 * k) for k in range(9))
    return render.inspect_page(Inspection("lenet", "a small network", ModelSummary(layers, (28, 28), 36_000, 144_000), 1.5))


def robustness_page() -> str:
    def result(severity: float) -> SeverityResult:
        return SeverityResult(severity, 100, estimate_around(0.9), estimate_around(0.1))

    curves = {name: tuple(map(result, corruption.all_severities)) for name, corruption in CORRUPTIONS.items()}
    pixels = np.zeros((64, 64, 3), np.uint8)
    examples = {
        name: tuple(CorruptedExample(severity, "a.png", pixels, "a 90%") for severity in corruption.all_severities)
        for name, corruption in CORRUPTIONS.items()
    }
    robustness = Robustness(100, 300, 0, estimate_around(0.9), curves, examples)
    labels = ("rose", "iris", "tulip")
    predictions = fake_predictions(60, 3, False)
    report = EvaluationReport(
        "photos",
        "runs/photos/package",
        "photos.zip",
        labels,
        fake_evaluation(labels, predictions, False),
        predictions,
        robustness=robustness,
        recommendation=recommend(robustness, "photos.zip"),
    )
    return evaluation_page(report, fake_jpeg)


def notebook_page() -> str:
    evaluation = fake_report(("a", "b", "c"), 60).evaluation
    fragment = notebook.evaluation_fragment("accuracy 84.0%", ["report: runs/x/report.html"], evaluation)
    style = "<style>:root { color-scheme: light dark; } body { background: Canvas; color: CanvasText; }</style>"
    head = f'<head><meta name="viewport" content="width=device-width"><title>Notebook</title>{style}</head>'
    return f'<!doctype html><html lang="en">{head}<body><main><h1>Notebook</h1>{fragment}</main></body></html>'


PAGES = {
    "report": lambda: render.report_page(fake_report(tuple(f"label {k}" for k in range(6)), 100), fake_jpeg),
    "report of many labels": lambda: render.report_page(fake_report(tuple(f"label {k}" for k in range(40)), 300), fake_jpeg),
    "report of several labels per image": lambda: render.report_page(fake_report(("sea", "sky"), 60, True), fake_jpeg),
    "check": lambda: check_page([*near_duplicates(9), *FINDINGS]),
    "compare": compare_page,
    "inspect": inspect_page,
    "evaluation with robustness": robustness_page,
    "notebook": notebook_page,
}


@pytest.fixture(scope="module", params=PAGES)
def page_file(request, tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "page.html"
    render.save(PAGES[request.param](), path)
    return path


@pytest.fixture
def show(browser) -> Iterator:
    """Opens a file in a window of a given width."""
    contexts = []

    def open_file(path: Path, width: int = 1280, color_scheme: str = "light") -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=color_scheme))
        page = contexts[-1].new_page()
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_violation(show, page_file, width, color_scheme):
    page = show(page_file, width, color_scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # the page has reacted
    result = Axe().run(page).response
    assert [(violation["id"], violation["nodes"][0]["html"][:200]) for violation in result["violations"]] == []


def test_no_page_is_wider_than_a_phone(show, page_file):
    page = show(page_file, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.fixture
def check(show, tmp_path) -> Page:
    render.save(check_page(near_duplicates(37)), tmp_path / "check.html")
    return show(tmp_path / "check.html")


def test_findings_of_one_kind_are_one_group_with_the_first_few_open(check):
    expect(check.locator("article")).to_have_count(1)
    expect(check.locator(".cards").first.locator("> li")).to_have_count(6)
    expect(check.locator("summary")).to_have_text("31 more")
    assert check.evaluate("document.documentElement.scrollHeight") < 2_000


def test_picture_is_enlarged_in_a_dialog_that_escape_closes(check):
    button = check.get_by_role("button", name="Enlarge train/rose/image_0000.jpg")
    button.focus()
    check.keyboard.press("Enter")
    dialog = check.get_by_role("dialog", name="train/rose/image_0000.jpg")
    expect(dialog.get_by_role("img")).to_be_visible()
    assert dialog.get_by_role("img").bounding_box()["width"] >= 320
    check.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()


def test_long_name_is_cut_in_the_middle(show, tmp_path):
    render.save(check_page([Finding("blank", "warning", "1 image of a single color", (LONG_PATH,))]), tmp_path / "check.html")
    name = show(tmp_path / "check.html").locator(".path")
    expect(name).to_have_attribute("title", LONG_PATH)
    head, tail = name.locator("bdi").all()
    assert tail.inner_text() == "image-0042.jpg"
    assert head.evaluate("(element) => element.scrollWidth > element.clientWidth")
    assert tail.evaluate("(element) => element.scrollWidth <= element.clientWidth + 1")
