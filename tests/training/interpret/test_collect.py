"""What a report and an inspection show of what a network sees, from real networks on real images."""

import dataclasses
import re

import numpy as np
import pytest
from made_up_runs import Page, made_up, picture

from graft.training.interpret import collect
from graft.training.interpret.collect import channel, of_package
from graft.training.report import render
from graft.training.sample import SAMPLE
from graft.training.visualization.gallery import Answers


@pytest.fixture(scope="module")
def anatomy(model):
    import torch

    from graft.service.networks import network
    from graft.training.architecture.tracer import dissect

    batch = torch.zeros(1, 128, 128, 3, dtype=torch.uint8, device="meta")
    return dissect(network.load(model.artifact).to("meta"), batch)


@pytest.fixture(scope="module")
def seen(model, anatomy):
    return of_package(model, anatomy, SAMPLE, 60)


def page_of(sees) -> str:
    return render.report_page(dataclasses.replace(made_up(("a", "b")), sees=sees), picture)


def test_a_runs_report_shows_the_best_of_it_without_being_asked(fitted):
    html = (fitted.run / render.NAME).read_text(encoding="utf-8")
    page, text = Page(html), " ".join(Page(html).text.split())
    assert "#sees" in page.values("href")
    for heading in ("Where it looks", "What lies together", "What it looks for first"):
        assert heading in text
    assert "class activation maps" in text
    assert html.count('class="atlas"') == 1
    assert len(set(re.findall(r'data-tile="(\d+)"', html))) == 300
    assert "300 of the 500 images, drawn by lot" in text
    assert len(html) < 3 * 2**20


def test_a_package_shows_all_of_it(seen):
    text = " ".join(Page(page_of(seen)).text.split())
    assert seen.map.sentence.startswith("60 of the 500 images, drawn by lot;")
    assert [look.stages[-1].size for look in seen.insides.looks] == ["4x4x1280"] * len(seen.insides.looks)
    assert {stage.stage for stage in seen.insides.excited} >= {"stage1", "last"}
    assert "Each answer depends on 7x7 pixels of 128x128, which is what is shown." in text
    assert "speaks for bag" in text
    assert "tells labels apart" in text


def test_every_picture_of_it_lies_in_the_page(seen):
    page = Page(page_of(seen))
    assert all(source.startswith("data:image/") for source in page.values("src"))
    assert all(reference.startswith(("data:image/webp", "#")) for reference in page.values("href"))


def test_the_map_marks_exactly_the_mistakes(seen, model):
    n_wrong = int(re.search(r"the (\d+) that it got wrong", seen.map.sentence).group(1))
    assert [drawing.picture.count('class="ring"') for drawing in seen.map.drawings] == [n_wrong, n_wrong]
    assert sum(n for _, _, n in seen.map.legend) == 60


def test_chosen_channels_are_shown_and_no_others(model, anatomy):
    found = of_package(model, anatomy, SAMPLE, 20, ["7", "stage1:3"])
    assert [(stage.stage, [one.number for one in stage.channels]) for stage in found.insides.excited] == [
        ("stage1", [3]),
        ("last", [7]),
    ]


@pytest.mark.parametrize(("text", "expected"), [("17", ("last", 17)), ("stage3:5", ("stage3", 5)), ("last:0", ("last", 0))])
def test_a_channel_has_a_name(text, expected):
    assert channel(text) == expected


@pytest.mark.parametrize("text", ["", "stage3", "stage3:", "stage3:-1", "a:b"])
def test_what_is_no_channel_is_refused(text):
    with pytest.raises(ValueError, match="a channel is a number"):
        channel(text)


@pytest.mark.parametrize("text", ["1280", "stage9:0"])
def test_a_channel_that_is_not_there_is_refused_with_those_that_are(model, anatomy, text):
    with pytest.raises(ValueError, match=r"there is no such channel; there are stage1:0 to stage1:\d+, .*last:0 to last:1279"):
        of_package(model, anatomy, SAMPLE, 12, [text])


def test_too_few_images_have_no_map(fitted, clothes):
    encoded = dict(clothes)["bag"]
    answers = Answers(("a.png",) * 9, ((0,),) * 9, np.eye(10, dtype=np.float32)[[0] * 9])
    found = collect.of_run(fitted.artifact, answers, np.eye(9, 4, dtype=np.float32), lambda _: encoded)
    assert found.map is None
    assert len(found.heats.shown) == 3


def test_files_that_vanished_meanwhile_leave_gaps_and_end_no_run(fitted):
    def read(path: str) -> bytes:
        raise OSError("gone")

    answers = Answers(tuple(f"{row}.png" for row in range(12)), ((0,),) * 12, np.eye(10, dtype=np.float32)[[0] * 12])
    found = collect.of_run(fitted.artifact, answers, np.eye(12, 4, dtype=np.float32), read)
    assert found.heats is None
    assert found.map.sheet.startswith("data:image/webp")


def test_a_page_without_it_is_whole():
    assert 'id="sees"' not in render.report_page(made_up(("a", "b")), picture)
