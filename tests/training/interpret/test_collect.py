"""Interpretation of a run and of a package, with real networks and images."""

import dataclasses
import re

import numpy as np
import pytest
from made_up_runs import ParsedPage, fake_jpeg, fake_report

from graft.training.interpret import collect
from graft.training.interpret.collect import interpret_package, parse_channel
from graft.training.report import render
from graft.training.sample import SAMPLE
from graft.training.visualization.gallery import ImagePredictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def summary(model):
    import torch

    from graft.service.networks import network
    from graft.training.architecture.tracer import trace_layers

    batch = torch.zeros(1, 128, 128, 3, dtype=torch.uint8, device="meta")
    return trace_layers(network.load(model.artifact).to("meta"), batch)


@pytest.fixture(scope="module")
def interpretation(model, summary):
    return interpret_package(model, summary, SAMPLE, 60)


def page_of(interpretation) -> str:
    return render.report_page(dataclasses.replace(fake_report(("a", "b")), interpretation=interpretation), fake_jpeg)


def test_report_of_a_run_has_an_interpretation(fitted):
    html = (fitted.run / render.REPORT_FILE).read_text(encoding="utf-8")
    page, text = ParsedPage(html), " ".join(ParsedPage(html).text.split())
    assert "#interpretation" in page.values("href")
    for heading in ("Heat maps", "Embedding map", "First-layer filters"):
        assert heading in text
    assert "class activation maps" in text
    assert html.count('class="embedding"') == 1
    assert len(set(re.findall(r'data-tile="(\d+)"', html))) == 300
    assert "A random sample of 300 of 500 images" in text
    assert len(html) < 3 * 2**20


def test_package_has_all_parts(interpretation):
    text = " ".join(ParsedPage(page_of(interpretation)).text.split())
    assert interpretation.embedding_map.caption.startswith("A random sample of 60 of 500 images;")
    assert [image.stages[-1].size for image in interpretation.stage_report.images] == ["4x4x1280"] * len(
        interpretation.stage_report.images
    )
    assert {stage.stage for stage in interpretation.stage_report.stages} >= {"stage1", "last"}
    assert "Patches show the receptive field: 7x7 pixels of 128x128." in text
    assert "evidence for bag" in text
    assert "discriminative" in text


def test_page_embeds_every_picture(interpretation):
    page = ParsedPage(page_of(interpretation))
    assert all(source.startswith("data:image/") for source in page.values("src"))
    assert all(reference.startswith(("data:image/webp", "#")) for reference in page.values("href"))


def test_map_marks_misclassified_images(interpretation, model):
    n_wrong = int(re.search(r"rings mark the (\d+) misclassified", interpretation.embedding_map.caption).group(1))
    assert [figure.picture.count('class="ring"') for figure in interpretation.embedding_map.figures] == [n_wrong, n_wrong]
    assert sum(n for _, _, n in interpretation.embedding_map.legend) == 60


@pytest.mark.slow
def test_only_requested_channels_are_shown(model, summary):
    interpretation = interpret_package(model, summary, SAMPLE, 20, ["7", "stage1:3"])
    assert [(stage.stage, [one.number for one in stage.channels]) for stage in interpretation.stage_report.stages] == [
        ("stage1", [3]),
        ("last", [7]),
    ]


@pytest.mark.parametrize(("text", "expected"), [("17", ("last", 17)), ("stage3:5", ("stage3", 5)), ("last:0", ("last", 0))])
def test_channel_is_parsed(text, expected):
    assert parse_channel(text) == expected


@pytest.mark.parametrize("text", ["", "stage3", "stage3:", "stage3:-1", "a:b"])
def test_invalid_channel_is_rejected(text):
    with pytest.raises(ValueError, match="expected a number"):
        parse_channel(text)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["1280", "stage9:0"])
def test_unknown_channel_error_lists_available_channels(model, summary, text):
    with pytest.raises(ValueError, match=r"channel not found\. Available: stage1:0 to stage1:\d+, .*last:0 to last:1279"):
        interpret_package(model, summary, SAMPLE, 12, [text])


def test_too_few_images_have_no_map(fitted, clothes):
    encoded = dict(clothes)["bag"]
    predictions = ImagePredictions(("a.png",) * 9, ((0,),) * 9, np.eye(10, dtype=np.float32)[[0] * 9])
    interpretation = collect.interpret_run(fitted.artifact, predictions, np.eye(9, 4, dtype=np.float32), lambda _: encoded)
    assert interpretation.embedding_map is None
    assert len(interpretation.heatmaps.images) == 3


def test_unreadable_files_do_not_fail_the_run(fitted):
    def read(path: str) -> bytes:
        raise OSError("gone")

    predictions = ImagePredictions(
        tuple(f"{row}.png" for row in range(12)), ((0,),) * 12, np.eye(10, dtype=np.float32)[[0] * 12]
    )
    interpretation = collect.interpret_run(fitted.artifact, predictions, np.eye(12, 4, dtype=np.float32), read)
    assert interpretation.heatmaps is None
    assert interpretation.embedding_map.sheet.startswith("data:image/webp")


def test_page_without_interpretation_has_no_section():
    assert 'id="interpretation"' not in render.report_page(fake_report(("a", "b")), fake_jpeg)
