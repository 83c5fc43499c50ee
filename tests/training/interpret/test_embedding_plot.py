"""Embedding plot as SVG: markers, error rings, legend, and escaping of untrusted text."""

import re

import numpy as np
from made_up_runs import ParsedPage

from graft.training.interpret.embedding_plot import OTHER_LABELS, Marker, Point, assign_markers, legend, scatter


def points(n_labels: int, n_each: int = 1) -> list[Point]:
    return [Point(label, f"label {label}", False) for label in range(n_labels) for _ in range(n_each)]


def test_forty_labels_have_distinct_markers():
    result = assign_markers(points(40), 40)
    assert len(set(result)) == 40
    assert all(marker.hue for marker in result)


def test_least_frequent_labels_share_a_gray_dot():
    result = assign_markers([*points(50), *points(39, 2)], 50)
    assert [marker.hue == 0 for marker in result].count(True) == 10
    assert all(marker.hue for marker in result[:39])
    names = [name for _, name, _ in legend([f"label {label}" for label in range(50)], points(50), result)]
    assert names[-1] == OTHER_LABELS
    assert len(names) == 41


def test_every_image_is_a_point_with_a_tile():
    svg = scatter("map", np.random.default_rng(0).random((6, 2)), points(3, 2), assign_markers(points(3, 2), 3))
    assert sorted(map(int, re.findall(r'data-tile="(\d+)"', svg))) == [0, 1, 2, 3, 4, 5]
    assert svg.count('class="hue1"') == svg.count('class="hue2"') == svg.count('class="hue3"') == 2


def test_error_has_a_ring_and_is_drawn_on_top():
    shown = [Point(0, "wrong one", True), Point(0, "right one", False)]
    svg = scatter("map", np.array([[0.5, 0.5], [0.5, 0.5]]), shown, [Marker(1, 0)])
    assert svg.count('class="ring"') == 1
    assert svg.index("right one") < svg.index("wrong one")


def test_points_are_inside_the_plot():
    svg = scatter("map", np.array([[0, 0], [1, 1.0]]), points(2), assign_markers(points(2), 2))
    assert re.findall(r"translate\(([\d. ]+)\)", svg) == ["16.0 16.0", "504.0 504.0"]


def test_flat_layout_has_the_minimum_height():
    svg = scatter("map", np.array([[0, 0.5], [1, 0.5]]), points(2), assign_markers(points(2), 2))
    assert 'width="520" height="240"' in svg
    assert re.findall(r"translate\(([\d. ]+)\)", svg) == ["16.0 120.0", "504.0 120.0"]


def test_tooltip_is_escaped():
    svg = scatter("a & b", np.zeros((1, 2)), [Point(0, '<script>alert("x")</script>\x00', False)], [Marker(1, 0)])
    assert "<script>" not in svg
    assert {tag for tag, _ in ParsedPage(svg).elements} == {"svg", "title", "g", "path"}


def test_legend_counts_points_of_labels_with_points():
    result = legend(
        ["ant", "bee", "wasp"], [Point(2, "", False), Point(0, "", False), Point(2, "", True)], assign_markers([], 3)
    )
    assert [(name, n) for _, name, n in result] == [("ant", 1), ("wasp", 2)]
