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
from made_up_runs import FINDINGS, Page, made_up, picture
from PIL import Image

from graft.training.data.findings import Finding, Suspect
from graft.training.evaluation.comparison import Cell, table
from graft.training.report import render
from graft.training.report.tables import Epoch
from graft.training.runtime import atomic_files
from graft.training.visualization.thumbnails import data_uri, thumbnail

CHROMIUM = shutil.which("chromium")
HOSTILE = "<script>alert('ä')</script>\"'&\udcff\x00"
SECTIONS = [
    "data",
    "findings",
    "ladder",
    "training",
    "results",
    "labels",
    "confusion",
    "mistakes",
    "certainty",
    "suspects",
    "repeat",
]


@pytest.fixture(scope="module")
def ten() -> str:
    return render.report_page(made_up(tuple(f"label {k}" for k in range(10)), 200), picture)


def dumped(page: str, folder: Path) -> str:
    """The page as Chromium leaves it after its scripts ran."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed; what the page's script does needs a browser")
    render.save(page, folder / "page.html")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([*command, (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def clicking(selector: str, story: render.Story, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page after a click, which its own script makes: the policy lets no other one in."""
    copy = folder / "templates"
    shutil.copytree(render.PAGE, copy)
    with (copy / "page.js").open("a") as script:
        script.write(f"\ndocument.querySelector({selector!r}).click();\n")
    monkeypatch.setattr(render, "PAGE", copy)
    return dumped(render.report_page(story, picture), folder)


def test_every_section_is_there(ten):
    ids = Page(ten).values("id")
    assert [section for section in SECTIONS if section not in ids] == []
    assert len(ids) == len(set(ids))


def test_every_link_leads_somewhere_on_the_page(ten):
    page = Page(ten)
    assert {link[0] for link in page.values("href")} == {"#"}
    assert {link[1:] for link in page.values("href")} <= set(page.values("id"))


@pytest.mark.parametrize("kind", ["report", "check", "compare"])
def test_nothing_is_asked_of_another_origin(kind):
    pages = {
        "report": lambda: render.report_page(made_up(("a", "b")), picture),
        "check": lambda: render.check_page("a", "b", FINDINGS, {"x/1.png": data_uri(thumbnail(picture("x/1.png")))}),
        "compare": lambda: render.compare_page("a", "b", table([Cell("probe", "lite0", 0, 1.0, {b"1": 1.0})])),
    }
    html = pages[kind]()
    page = Page(html)
    assert {source[:11] for source in page.values("src")} <= {"data:image/"}
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not {"link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.elements}
    assert "url(" not in html
    assert "@import" not in html


def test_the_policy_allows_only_the_page_s_own_style_and_script(ten):
    [policy] = [attributes["content"] for tag, attributes in Page(ten).elements if "http-equiv" in attributes]
    [style] = re.findall(r"<style>(.*?)</style>", ten, re.DOTALL)
    [script] = re.findall(r"<script>(.*?)</script>", ten, re.DOTALL)
    digests = [b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}';"
        " base-uri 'none'; form-action 'none'"
    )
    # What the policy would block must not be relied on.
    assert Page(ten).values("style") == []
    assert [name for _, attributes in Page(ten).elements for name in attributes if name.startswith("on")] == []


def test_a_hostile_text_stays_a_text(tmp_path):
    story = made_up(("good", HOSTILE), 40)
    hostile = Finding("leak", "error", HOSTILE, (HOSTILE,), (HOSTILE,), "--drop-duplicates")
    answers = dataclasses.replace(story.answers, paths=tuple(f"{HOSTILE}/{row}" for row in range(40)))
    story = dataclasses.replace(
        story,
        name=HOSTILE,
        findings=(hostile,),
        answers=answers,
        left_out={HOSTILE: HOSTILE},
        suspects=(Suspect(HOSTILE, HOSTILE, HOSTILE, 0.9),),
        remarks=(HOSTILE,),
        sizes=HOSTILE,
        repeat=dataclasses.replace(story.repeat, command=HOSTILE, machine=HOSTILE),
    )
    page = Page(render.report_page(story, picture))
    assert page.count("script") == 1
    assert "<script>alert('ä')</script>\"'&\ufffd\ufffd" in page.text
    render.save(render.report_page(story, picture), tmp_path / "report.html")
    assert "\ufffd" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_picture_says_what_it_shows(ten):
    images = [attributes for tag, attributes in Page(ten).elements if tag == "img"]
    assert len(images) > 50
    assert [image for image in images if not image.get("alt")] == []
    assert images[-1]["alt"] == "train/7.jpg; labelled label 0; looks like label 1 (97.3%)"


def test_a_cell_opens_the_images_behind_it(ten):
    story = made_up(tuple(f"label {k}" for k in range(10)), 200)
    said = story.answers.probabilities.argmax(axis=1)
    row = next(row for row in range(200) if said[row] != story.answers.truth[row][0])
    cell = f"cell-{story.answers.truth[row][0]}-{said[row]}"
    assert f'href="#{cell}"' in ten
    [behind] = re.findall(rf'<section class="behind" id="{cell}".*?</section>', ten, re.DOTALL)
    assert f"test/{row:05d}.jpg" in behind


def test_a_page_of_very_much_is_a_few_megabytes():
    many = tuple(f"a rather long name of a label, number {number:04d}" for number in range(1000))
    story = made_up(many, 4000)
    findings = tuple(Finding("blank", "warning", "one colour", tuple(f"{k}/{j}" for j in range(30))) for k in range(50))
    suspects = tuple(Suspect(f"s{k}", "a", "b", 0.9) for k in range(3000))
    story = dataclasses.replace(
        story, findings=findings, suspects=suspects, left_out=dict.fromkeys(map(str, range(9000)), "cut")
    )
    assert len(render.report_page(story, noise).encode()) < 7 * 2**20


def test_the_pictures_of_a_page_stay_within_its_budget():
    page = Page(render.report_page(made_up(tuple(f"label {k}" for k in range(30)), 6000), noise))
    assert 2.5 * 2**20 < sum(map(len, page.values("src"))) <= 3 * 2**20
    assert "no picture" in page.text


def noise(path: str) -> bytes:
    """The dearest picture there is."""
    file = io.BytesIO()
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(file, "BMP")
    return file.getvalue()


def test_an_unreadable_file_leaves_a_gap_and_not_a_failure():
    def read(path: str) -> bytes:
        if path.endswith("1.jpg"):
            raise OSError("gone")
        return b"no image"

    page = Page(render.report_page(made_up(("a", "b")), read))
    assert page.count("img") == 0
    assert "no picture" in page.text


def test_several_labels_an_image_have_no_confusion_matrix():
    html = render.report_page(made_up(("sea", "sky", "tree"), 60, multilabel=True), picture)
    assert 'id="confusion"' not in html
    text = Page(html).text
    assert "84.0% mean average precision" in " ".join(text.split())
    assert "average precision" in text
    assert "wrongly said" in text


def test_many_labels_show_the_most_confused_pairs_and_a_picture_of_all():
    html = render.report_page(made_up(tuple(f"label {k}" for k in range(40)), 400), picture)
    assert "pairs that are confused most" in html
    assert 'class="matrix"' in html
    assert 0 < html.count('class="behind"') <= 30


def test_a_story_without_extras_is_still_whole():
    story = made_up(("a", "b"))
    bare = story.evaluation.model_copy(update={"conformal": None, "outliers": None, "curve": None})
    plain = dataclasses.replace(
        story, evaluation=bare, left_out={}, findings=(), rungs=(), quadrant=None, epochs=(), suspects=(), remarks=()
    )
    text = " ".join(Page(render.report_page(plain, picture)).text.split())
    assert "Nothing was found to be wrong." in text
    assert "No label looks wrong." in text
    assert "Twice the images" not in text


def test_the_gravest_finding_comes_first():
    text = Page(render.check_page("photos", "9 images", FINDINGS, {})).text
    assert text.index("leak") < text.index("near duplicate") < text.index("wrong extension")
    assert "1 error, 1 warning, 1 note" in text


def test_a_finding_shows_its_images():
    html = render.check_page("photos", "9 images", FINDINGS, {"x/1.png": data_uri(thumbnail(picture("x/1.png")))})
    [image] = [attributes for tag, attributes in Page(html).elements if tag == "img"]
    assert image["alt"] == "x/1.png"


def test_a_comparison_says_which_differences_are_real():
    def cell(strategy: str, n_right: int) -> Cell:
        return Cell(strategy, "lite0", 0, 9.0, {k.to_bytes(2, "big"): float(k < n_right) for k in range(200)})

    found = table([cell("probe", 120), cell("finetune", 190), cell("svm", 121)])
    text = " ".join(Page(render.compare_page("photos", "x", found)).text.split())
    assert text.index("95.0%") < text.index("60.5%") < text.index("60.0%")
    assert re.search(r"finetune lite0 svm lite0 \+34\.5 points \([^)]+\) yes", text)
    assert re.search(r"svm lite0 probe lite0 \+0\.5 points \([^)]+\) not shown", text)


def test_a_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "report.html").write_text("before")
    monkeypatch.setattr(atomic_files.os, "replace", full)
    with pytest.raises(OSError, match="The disk is full"):
        render.save("after", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "before"


def test_epochs_are_read_with_what_each_knows(tmp_path):
    lines = ["epoch,step,train/loss,val/accuracy,val/loss", "0,0,,0.8,0.5", "1,9,1.25,0.9,nan", ""]
    (tmp_path / "metrics.csv").write_text("\n".join(lines))
    assert render.read_epochs(tmp_path / "metrics.csv") == (Epoch(0, None, 0.5, 0.8), Epoch(1, 1.25, None, 0.9))
    assert render.read_epochs(tmp_path / "none.csv") == ()


def test_a_click_on_a_cell_shows_its_images_in_a_dialog(tmp_path, monkeypatch):
    after = clicking("#confusion a[href^='#cell-0-']", made_up(("a", "b", "c"), 60), tmp_path, monkeypatch)
    [dialog] = re.findall(r"<dialog[^>]*\sopen.*?</dialog>", after, re.DOTALL)
    assert dialog.count("<img") >= 1
    assert 'id="cell-0-' in dialog


def test_a_click_on_a_heading_sorts_the_table(tmp_path, monkeypatch):
    after = clicking("#labels th:nth-child(3) button", made_up(("a", "b", "c"), 60), tmp_path, monkeypatch)
    [section] = re.findall(r'<section id="labels".*?</section>', after, re.DOTALL)
    assert re.findall(r'<th scope="row"><bdi>(\w)</bdi>', section) == ["c", "b", "a"]
    assert 'aria-sort="descending"' in section
