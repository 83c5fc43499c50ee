import dataclasses
import hashlib
import io
import re
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import FINDINGS, ParsedPage, fake_jpeg, fake_report
from PIL import Image

from graft.training.data.findings import Finding, LabelIssue
from graft.training.evaluation.comparison import RunResult, compare_runs
from graft.training.report import render
from graft.training.report.tables import Epoch
from graft.training.results import Estimate
from graft.training.runtime import atomic_files
from graft.training.visualization import charts
from graft.training.visualization.thumbnails import data_uri, thumbnail

CHROMIUM = shutil.which("chromium")
HOSTILE = "<script>alert('ä')</script>\"'&\udcff\x00"
SECTIONS = [
    "data",
    "findings",
    "strategies",
    "training",
    "results",
    "classes",
    "confusion",
    "mistakes",
    "calibration",
    "label-issues",
    "reproduce",
]


@pytest.fixture(scope="module")
def ten() -> str:
    return render.report_page(fake_report(tuple(f"label {k}" for k in range(10)), 200), fake_jpeg)


def dumped(page: str, folder: Path) -> str:
    """The DOM of the page in Chromium after its scripts ran."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; page scripts need a browser")
    render.save(page, folder / "page.html")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    result = subprocess.run(
        [*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return result.stdout


def clicking(selector: str, report: render.RunReport, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page after a click. The click is added to the page script, because the CSP allows no other script."""
    copy = folder / "templates"
    shutil.copytree(render.TEMPLATES_DIR, copy)
    with (copy / "page.js").open("a") as script:
        script.write(f"\ndocument.querySelector({selector!r}).click();\n")
    monkeypatch.setattr(render, "TEMPLATES_DIR", copy)
    return dumped(render.report_page(report, fake_jpeg), folder)


def test_report_has_every_section(ten):
    ids = ParsedPage(ten).values("id")
    assert [section for section in SECTIONS if section not in ids] == []
    assert len(ids) == len(set(ids))


def test_every_link_has_a_target(ten):
    page = ParsedPage(ten)
    assert {link[0] for link in page.values("href")} == {"#"}
    assert {link[1:] for link in page.values("href")} <= set(page.values("id"))


@pytest.mark.parametrize("kind", ["report", "check", "compare"])
def test_pages_make_no_external_requests(kind):
    pages = {
        "report": lambda: render.report_page(fake_report(("a", "b")), fake_jpeg),
        "check": lambda: render.check_page("a", "b", FINDINGS, {"x/1.png": data_uri(thumbnail(fake_jpeg("x/1.png")))}),
        "compare": lambda: render.compare_page("a", "b", compare_runs([RunResult("probe", "lite0", 0, 1.0, {b"1": 1.0})])),
    }
    html = pages[kind]()
    page = ParsedPage(html)
    assert {source[:11] for source in page.values("src")} <= {"data:image/"}
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not {"link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.elements}
    assert "url(" not in html
    assert "@import" not in html


def test_csp_allows_only_the_inline_style_and_script(ten):
    [policy] = [attributes["content"] for tag, attributes in ParsedPage(ten).elements if "http-equiv" in attributes]
    [style] = re.findall(r"<style>(.*?)</style>", ten, re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", ten, re.DOTALL)
    digests = [b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}';"
        " base-uri 'none'; form-action 'none'"
    )
    # The CSP blocks inline style attributes and event handlers.
    assert ParsedPage(ten).values("style") == []
    assert [name for _, attributes in ParsedPage(ten).elements for name in attributes if name.startswith("on")] == []


def test_untrusted_text_is_escaped(tmp_path):
    report = fake_report(("good", HOSTILE), 40)
    hostile = Finding("leak", "error", HOSTILE, (HOSTILE,), (HOSTILE,), "--drop-duplicates")
    answers = dataclasses.replace(report.predictions, paths=tuple(f"{HOSTILE}/{row}" for row in range(40)))
    report = dataclasses.replace(
        report,
        name=HOSTILE,
        findings=(hostile,),
        predictions=answers,
        excluded={HOSTILE: HOSTILE},
        label_issues=(LabelIssue(HOSTILE, HOSTILE, HOSTILE, 0.9),),
        remarks=(HOSTILE,),
        image_sizes=HOSTILE,
        reproduction=dataclasses.replace(report.reproduction, command=HOSTILE, machine=HOSTILE),
    )
    page = ParsedPage(render.report_page(report, fake_jpeg))
    assert page.count("script") == 1
    assert "<script>alert('ä')</script>\"'&\ufffd\ufffd" in page.text
    render.save(render.report_page(report, fake_jpeg), tmp_path / "report.html")
    assert "\ufffd" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_image_has_alt_text(ten):
    images = [attributes for tag, attributes in ParsedPage(ten).elements if tag == "img"]
    assert len(images) > 50
    assert [image for image in images if not image.get("alt")] == []
    assert "train/7.jpg; labeled label 0; predicted label 1 (97.3%)" in {image["alt"] for image in images}


def test_confusion_cell_links_to_its_images(ten):
    report = fake_report(tuple(f"label {k}" for k in range(10)), 200)
    predicted = report.predictions.probabilities.argmax(axis=1)
    row = next(row for row in range(200) if predicted[row] != report.predictions.targets[row][0])
    cell = f"cell-{report.predictions.targets[row][0]}-{predicted[row]}"
    assert f'href="#{cell}"' in ten
    [section] = re.findall(rf'<section class="cell-images" id="{cell}".*?</section>', ten, re.DOTALL)
    assert f"test/{row:05d}.jpg" in section


def test_page_of_a_large_data_set_stays_small():
    many = tuple(f"a rather long name of a label, number {number:04d}" for number in range(1000))
    report = fake_report(many, 4000)
    findings = tuple(Finding("blank", "warning", "one color", tuple(f"{k}/{j}" for j in range(30))) for k in range(50))
    suspects = tuple(LabelIssue(f"s{k}", "a", "b", 0.9) for k in range(3000))
    report = dataclasses.replace(
        report, findings=findings, label_issues=suspects, excluded=dict.fromkeys(map(str, range(9000)), "cut")
    )
    assert len(render.report_page(report, noise).encode()) < 8 * 2**20


def test_thumbnails_stay_within_the_budget():
    page = ParsedPage(render.report_page(fake_report(tuple(f"label {k}" for k in range(30)), 6000), noise))
    assert 3.5 * 2**20 < sum(map(len, page.values("src"))) <= 4 * 2**20
    assert "no picture" in page.text


def noise(path: str) -> bytes:
    """A random image, which compresses worst."""
    file = io.BytesIO()
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)).save(file, "BMP")
    return file.getvalue()


def test_unreadable_file_has_no_thumbnail():
    def read(path: str) -> bytes:
        if path.endswith("1.jpg"):
            raise OSError("gone")
        return b"no image"

    page = ParsedPage(render.report_page(fake_report(("a", "b")), read))
    assert page.count("img") == 0
    assert "no picture" in page.text


def test_multilabel_report_has_no_confusion_matrix():
    html = render.report_page(fake_report(("sea", "sky", "tree"), 60, multilabel=True), fake_jpeg)
    assert 'id="confusion"' not in html
    text = ParsedPage(html).text
    assert "84.0% mean average precision" in " ".join(text.split())
    assert "average precision" in text
    assert "false positive" in text


def test_many_labels_show_the_most_confused_pairs_and_an_image():
    html = render.report_page(fake_report(tuple(f"label {k}" for k in range(40)), 400), fake_jpeg)
    assert "Most confused pairs" in html
    assert 'class="matrix"' in html
    assert 0 < html.count('class="cell-images"') <= 30


def test_pairs_and_labels_tied_with_the_last_one_shown_are_counted():
    report = fake_report(tuple(f"label {k}" for k in range(40)), 400)
    text = " ".join(ParsedPage(render.report_page(report, fake_jpeg)).text.split())
    assert re.search(r"\d+ more pairs have as many images as the last one shown", text)
    flat = report.evaluation.labels[0].f1
    same = tuple(scores.model_copy(update={"f1": flat}) for scores in report.evaluation.labels)
    tied = dataclasses.replace(report, evaluation=report.evaluation.model_copy(update={"labels": same}))
    text = " ".join(ParsedPage(render.report_page(tied, fake_jpeg)).text.split())
    assert "28 more labels are tied with the last one shown." in text


def test_strategies_that_are_not_significantly_worse_are_tied():
    def run(strategy: str, n_correct: int) -> RunResult:
        return RunResult(strategy, "lite0", 0, 9.0, {k.to_bytes(2, "big"): float(k < n_correct) for k in range(200)})

    comparison = compare_runs([run("probe", 190), run("finetune", 190), run("svm", 90)])
    text = " ".join(ParsedPage(render.compare_page("photos", "x", comparison)).text.split())
    assert text.count("tied for the best") == 2
    assert "The 2 marked strategies are tied" in text


def test_results_come_before_the_data(ten):
    ids = [section for section in ParsedPage(ten).values("id") if section in SECTIONS]
    assert ids[0] == "results"
    assert ids.index("mistakes") < ids.index("data") < ids.index("strategies")


def test_no_page_has_course_notes(ten):
    text = ParsedPage(ten).text
    assert [note for note in ("M2CAI", "usual recommendation", "et al", "lecture") if note in text] == []


def test_report_without_optional_parts_renders():
    report = fake_report(("a", "b"))
    bare = report.evaluation.model_copy(update={"conformal": None, "outliers": None, "curve": None})
    plain = dataclasses.replace(
        report,
        evaluation=bare,
        excluded={},
        findings=(),
        attempts=(),
        transfer_regime=None,
        epochs=(),
        label_issues=(),
        remarks=(),
    )
    text = " ".join(ParsedPage(render.report_page(plain, fake_jpeg)).text.split())
    assert "No issues found." in text
    assert "No label issues found." in text
    assert "twice as many images" not in text


def test_findings_are_sorted_by_severity():
    text = ParsedPage(render.check_page("photos", "9 images", FINDINGS, {})).text
    assert text.index("leak") < text.index("near duplicate") < text.index("wrong extension")
    assert "1 error, 1 warning, 1 note" in text


def test_finding_shows_its_images():
    html = render.check_page("photos", "9 images", FINDINGS, {"x/1.png": data_uri(thumbnail(fake_jpeg("x/1.png")))})
    [image] = [attributes for tag, attributes in ParsedPage(html).elements if tag == "img"]
    assert image["alt"] == "x/1.png"


def test_comparison_marks_significant_differences():
    def cell(strategy: str, n_right: int) -> RunResult:
        return RunResult(strategy, "lite0", 0, 9.0, {k.to_bytes(2, "big"): float(k < n_right) for k in range(200)})

    found = compare_runs([cell("probe", 120), cell("finetune", 190), cell("svm", 121)])
    text = " ".join(ParsedPage(render.compare_page("photos", "x", found)).text.split())
    assert text.index("95.0%") < text.index("60.5%") < text.index("60.0%")
    assert re.search(r"finetune lite0 svm lite0 \+34\.5 points \([^)]+\) yes", text)
    assert re.search(r"svm lite0 probe lite0 \+0\.5 points \([^)]+\) no", text)


def test_comparison_has_the_corrected_score_of_the_best():
    def cell(strategy: str, seed: int) -> RunResult:
        correct = np.random.default_rng(seed).random(100) < 0.8
        return RunResult(strategy, "lite0", 0, 9.0, {k.to_bytes(2, "big"): float(correct[k]) for k in range(100)})

    found = compare_runs([cell(f"s{seed}", seed) for seed in range(4)])
    text = " ".join(ParsedPage(render.compare_page("photos", "x", found)).text.split())
    assert "The largest of 4 scores is partly luck: expect " in text


def test_warnings_come_before_the_score():
    report = fake_report(("a", "b"), 40)
    worse = {"ece_before": estimate(0.02), "ece_after": estimate(0.065)}
    changes = {"metrics": report.evaluation.metrics | worse, "temperature_gain": estimate(-0.1)}
    warned = dataclasses.replace(report, evaluation=report.evaluation.model_copy(update=changes))
    text = " ".join(ParsedPage(render.report_page(warned, fake_jpeg)).text.split())
    sentence = "temperature scaling made calibration worse on test: 2.0% before, 6.5% after."
    score = charts.percent(report.evaluation.primary_metric.value)
    assert 0 <= text.index(sentence) < text.index(f"{score} test accuracy", text.index("Training report"))


@pytest.mark.parametrize("multilabel", [False, True])
def test_balanced_accuracy_stands_beside_the_accuracy(multilabel: bool):
    report = fake_report(("a", "b"), 40, multilabel)
    text = " ".join(ParsedPage(render.report_page(report, fake_jpeg)).text.split())
    assert ("; balanced accuracy" in text) != multilabel


def test_groups_of_images_are_counted_in_the_report():
    report = fake_report(("a", "b"), 40)
    grouped = dataclasses.replace(report, evaluation=report.evaluation.model_copy(update={"n_groups": 17}))
    text = " ".join(ParsedPage(render.report_page(grouped, fake_jpeg)).text.split())
    assert text.count("40 held-out test images in 17 groups") == 2
    assert "intervals count groups" in text


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.01, high=value + 0.01)


def test_page_is_written_atomically(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "report.html").write_text("before")
    monkeypatch.setattr(atomic_files.os, "replace", full)
    with pytest.raises(OSError, match="The disk is full"):
        render.save("after", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "before"


def test_epochs_may_have_missing_metrics(tmp_path):
    lines = ["epoch,step,train/loss,val/accuracy,val/loss", "0,0,,0.8,0.5", "1,9,1.25,0.9,nan", ""]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    assert render.read_epochs(tmp_path / "metrics.csv") == (Epoch(0, None, 0.5, 0.8), Epoch(1, 1.25, None, 0.9))
    assert render.read_epochs(tmp_path / "none.csv") == ()


def test_click_on_a_cell_opens_a_dialog_with_its_images(tmp_path, monkeypatch):
    after = clicking("#confusion a[href^='#cell-0-']", fake_report(("a", "b", "c"), 60), tmp_path, monkeypatch)
    [dialog] = re.findall(r"<dialog[^>]*\sopen.*?</dialog>", after, re.DOTALL)
    assert dialog.count("<img") >= 1
    assert 'id="cell-0-' in dialog


def test_click_on_a_heading_sorts_the_table(tmp_path, monkeypatch):
    after = clicking("#classes th:nth-child(3) button", fake_report(("a", "b", "c"), 60), tmp_path, monkeypatch)
    [section] = re.findall(r'<section id="classes".*?</section>', after, re.DOTALL)
    assert re.findall(r'<th scope="row"><bdi>(\w)</bdi>', section) == ["c", "b", "a"]
    assert 'aria-sort="descending"' in section
