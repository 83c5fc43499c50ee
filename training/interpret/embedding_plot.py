"""Embedding map as SVG scatter plot: color and shape show the label, a ring marks an error. Also makes the legend.

The script of the page shows the preview image of a point from one contact sheet.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from graft.training.interpret.embedding_map import Coordinates
from graft.training.visualization.charts import sanitize

WIDTH, MIN_HEIGHT, MARGIN = 520, 240, 16  # pixels; the height follows the points, with a minimum
HUES, SHAPES = 8, 5  # 40 distinct combinations
OTHER_LABELS = "others"

# Centered at (0, 0), of similar visual weight.
MARKER_PATHS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "M-4-4h8v8h-8z",
    "M0-5.4L5.2 4h-10.4z",
    "M0-5.8L5.8 0L0 5.8L-5.8 0z",
    "M-1.8-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
)


@dataclass(frozen=True)
class Point:
    """One image on a map.

    Attributes:
        label: an index into the labels.
        tooltip: a text.
        wrong: whether the image is misclassified.
    """

    label: int
    tooltip: str
    wrong: bool


@dataclass(frozen=True)
class Marker:
    """The marker of a label: the index of a color, where 0 is gray, and of a shape."""

    hue: int
    shape: int


def assign_markers(points: Sequence[Point], n_labels: int) -> tuple[Marker, ...]:
    """A marker for each label; of more than 40 labels, the least frequent share a gray dot."""
    counts = Counter(point.label for point in points)
    frequent = sorted(sorted(range(n_labels), key=lambda label: (-counts[label], label))[: HUES * SHAPES])
    markers = {label: Marker(1 + index % HUES, index % SHAPES) for index, label in enumerate(frequent)}
    return tuple(markers.get(label, Marker(0, 0)) for label in range(n_labels))


def scatter(title: str, coordinates: Coordinates, points: Sequence[Point], markers: Sequence[Marker]) -> str:
    """The scatter plot of coordinates (N, 2) in the unit square; errors are drawn last, on top."""
    plot_width = WIDTH - 2 * MARGIN
    y_min, y_max = float(coordinates[:, 1].min()), float(coordinates[:, 1].max())
    height = max(MIN_HEIGHT, round(plot_width * (y_max - y_min)) + 2 * MARGIN)
    center = (y_min + y_max) / 2
    order = sorted(range(len(points)), key=lambda row: points[row].wrong)
    body = ""
    for row in order:
        point, marker = points[row], markers[points[row].label]
        x, y = (float(value) for value in coordinates[row])
        left, top = round(MARGIN + plot_width * x, 1), round(height / 2 + plot_width * (y - center), 1)
        ring = '<circle class="ring" r="8"/>' if point.wrong else ""
        shape = f'<path class="hue{marker.hue}" d="{MARKER_PATHS[marker.shape]}"/>'
        tooltip = f"<title>{escape(sanitize(point.tooltip))}</title>"
        body += f'<g data-tile="{row}" transform="translate({left} {top})">{tooltip}{ring}{shape}</g>'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="embedding" role="img" tabindex="0" {size}>'
    return f"{head}<title>{escape(title)}</title>{body}</svg>"


def legend(labels: Sequence[str], points: Sequence[Point], markers: Sequence[Marker]) -> list[tuple[str, str, int]]:
    """For each label with points: its marker as SVG, its name, its number of points; labels that share a marker come last."""
    counts = Counter(point.label for point in points)
    distinct = [label for label in range(len(labels)) if counts[label] and markers[label].hue]
    rows = [(legend_swatch(markers[label]), labels[label], counts[label]) for label in distinct]
    n_others = sum(counts[label] for label in counts if not markers[label].hue)
    return [*rows, (legend_swatch(Marker(0, 0)), OTHER_LABELS, n_others)] if n_others else rows


def legend_swatch(marker: Marker) -> str:
    """A marker as separate SVG."""
    shape = f'<path class="hue{marker.hue}" d="{MARKER_PATHS[marker.shape]}"/>'
    return f'<svg class="marker-key" aria-hidden="true" viewBox="-7 -7 14 14" width="14" height="14">{shape}</svg>'


def sheet_columns(n_tiles: int) -> int:
    """Number of columns of a square contact sheet."""
    return max(1, math.ceil(math.sqrt(n_tiles)))
