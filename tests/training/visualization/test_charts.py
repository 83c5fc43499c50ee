import re
from xml.etree import ElementTree

import pytest

from graft.training.results import CalibrationBin, Estimate
from graft.training.visualization import charts
from graft.training.visualization.charts import Series

SVG = "{http://www.w3.org/2000/svg}"
HALF = Estimate(value=0.5, low=0.25, high=1.0)
HOSTILE = "<script>&\"'\x00\udcff كلب"
BINS = (
    CalibrationBin(confidence=0.25, accuracy=0.5, n=4),
    CalibrationBin(confidence=0.6, accuracy=0.0, n=0),
    CalibrationBin(confidence=1.0, accuracy=1.0, n=16),
)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def numbers(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.attrib[name]) for name in names]


BANDED = Series(HOSTILE, ((1, 0.5), (2, 0.75)), ((1, 0, 1), (2, 0.5, 1)))

CHARTS = {
    "interval": charts.interval_bar(HALF, 0, 1, [0.4, 0.6]),
    "stacked": charts.stacked_bar([3, 0, 1], 8),
    "lines": charts.line_chart(
        HOSTILE, HOSTILE, [(1, HOSTILE)], [Series(HOSTILE, ((1, 0.5), (2, 0.75)), ((1, 0, 1), (2, 0.5, 1)))], True
    ),
    "reliability": charts.reliability_diagram(BINS, BINS),
    "no bins": charts.reliability_diagram((), ()),
    "columns": charts.bar_chart(HOSTILE, HOSTILE, {1: 70, 2: 30}),
    "no columns": charts.bar_chart("Sizes", "labels", {}),
    "matrix": charts.confusion_image([[3, 1], [0, 0]]),
}


@pytest.mark.parametrize("name", CHARTS)
def test_chart_is_well_formed_and_has_a_title(name):
    svg = parse(CHARTS[name])
    assert svg.attrib["role"] == "img"
    assert svg[0].tag == f"{SVG}title"
    assert svg[0].text
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} <= {
        "svg", "title", "rect", "circle", "line", "polyline", "polygon", "path", "text"
    }  # fmt: skip


@pytest.mark.parametrize("name", CHARTS)
def test_everything_is_inside_the_chart(name):
    svg = parse(CHARTS[name])
    width, height = numbers(svg, "width", "height")
    for element in svg.iter():
        assert all(0 <= float(element.attrib[name]) <= width for name in ("x", "x1", "x2", "cx") if name in element.attrib)
        assert all(0 <= float(element.attrib[name]) <= height for name in ("y", "y1", "y2", "cy") if name in element.attrib)


@pytest.mark.parametrize("name", CHARTS)
def test_chart_has_no_inline_colors(name):
    # An inline color would be wrong in one of the two themes, and the CSP blocks inline styles.
    assert re.search(r'\b(style|fill|stroke)="|#[0-9a-f]{3}', CHARTS[name]) is None


def test_interval_bar_has_the_right_position():
    svg = parse(charts.interval_bar(HALF, 0, 1))
    [band] = [element for element in svg if element.get("class") == "band"]
    [mark] = [element for element in svg if element.get("class") == "mark"]
    assert numbers(band, "x", "width") == [40.5, 103.5]  # from a quarter to the end of 6 to 144
    assert numbers(mark, "x", "width") == [73.5, 3.0]


def test_interval_bar_is_clipped_to_the_scale():
    svg = parse(charts.interval_bar(Estimate(value=0.5, low=-3, high=9), 0, 1))
    [band] = [element for element in svg if element.get("class") == "band"]
    assert numbers(band, "x", "width") == [6.0, 138.0]


def test_interval_bar_on_an_empty_scale_is_parse():
    assert "NaN" not in charts.interval_bar(Estimate(value=1, low=1, high=1), 1, 1)


def test_stacked_bar_is_proportional_to_counts():
    widths = [
        numbers(element, "x", "width") for element in parse(charts.stacked_bar([3, 0, 1], 8)) if element.tag == f"{SVG}rect"
    ]
    assert widths == [[0.0, 56.2], [56.2, 0.0], [56.2, 18.8]]


def test_y_axis_points_up():
    svg = parse(charts.line_chart("t", "epoch", [(1, "1"), (2, "2")], [Series("train", ((1, 0.2), (2, 0.8)))], False))
    first, second = (numbers(element, "cx", "cy") for element in svg if element.tag == f"{SVG}circle")
    assert first[0] < second[0]
    assert first[1] > second[1]


def test_line_chart_accepts_a_single_point():
    svg = parse(charts.line_chart("t", "epoch", [(1, "1")], [Series("train", ((1, 0.0),))], False))
    assert len([element for element in svg if element.tag == f"{SVG}circle"]) == 1


def test_percentages_stay_within_0_and_100():
    svg = parse(
        charts.line_chart("t", "n", [(1, "1")], [Series("a", ((1, 0.98), (2, 1.0)), ((1, 0.9, 1.0), (2, 0.95, 1.0)))], True)
    )
    labels = [element.text for element in svg if element.get("text-anchor") == "end"]
    assert "100%" in labels
    assert [text for text in labels if float(text.rstrip("%")) > 100] == []


def test_empty_bin_has_no_dot():
    svg = parse(charts.reliability_diagram((), BINS))
    assert [circle[0].text for circle in svg.iter(f"{SVG}circle")] == [
        "after: confidence 25.0%, accuracy 50.0%, 4 images",
        "after: confidence 100.0%, accuracy 100.0%, 16 images",
    ]


def test_confusion_image_opacity_grows_with_the_share():
    paths = parse(charts.confusion_image([[3, 1], [0, 4]])).iter(f"{SVG}path")
    opacity = {path.get("class"): numbers(path, "opacity")[0] for path in paths}
    assert opacity["right"] > opacity["wrong"] == 0.5


def test_confusion_image_of_a_thousand_labels_stays_small():
    confusion = [[int((row * column) % 7 == 0) for column in range(1000)] for row in range(1000)]
    assert len(charts.confusion_image(confusion)) < 2**20


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.81, 0.9, [0.82, 0.84, 0.86, 0.88, 0.9]),
        (0, 75, [0.0, 20.0, 40.0, 60.0]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert charts._nice_ticks(low, high) == expected


def test_untrusted_name_is_escaped():
    svg = CHARTS["columns"]
    assert "<script>" not in svg
    assert "&lt;script&gt;&amp;&quot;&#x27;\ufffd\ufffd كلب" in svg
    svg.encode("utf-8")
