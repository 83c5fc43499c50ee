"""A map of images -> SVG: a point for each, its label by colour and shape, mistakes by a ring; and the legend of it.

What the pictures are is told by the page's script where the pointer is, from one sheet of small pictures.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from graft.training.interpret.embedding_map import Places
from graft.training.visualization.charts import clean

WIDTH, LOWEST, MARGIN = 520, 240, 16  # pixels; a map is as high as its points need, but not lower than that
HUES, SHAPES = 8, 5  # no two of 40 labels share both
OTHERS = "others"

# Around (0, 0), of equal weight to the eye.
PATHS = (
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
        told: what is said of it, for a person.
        wrong: whether the network got it wrong.
    """

    label: int
    told: str
    wrong: bool


@dataclass(frozen=True)
class Mark:
    """How a label's points look: a colour by number, 0 being grey, and a shape."""

    hue: int
    shape: int


def marks(points: Sequence[Point], n_labels: int) -> tuple[Mark, ...]:
    """Each label's mark; where there are more than 40, the rarest share a grey dot."""
    counts = Counter(point.label for point in points)
    own = sorted(sorted(range(n_labels), key=lambda label: (-counts[label], label))[: HUES * SHAPES])
    found = {label: Mark(1 + number % HUES, number % SHAPES) for number, label in enumerate(own)}
    return tuple(found.get(label, Mark(0, 0)) for label in range(n_labels))


def scatter(title: str, places: Places, points: Sequence[Point], looks: Sequence[Mark]) -> str:
    """The map, of places (N, 2) in the unit square; mistakes are drawn last, so that nothing hides them."""
    room = WIDTH - 2 * MARGIN
    top_most, bottom_most = float(places[:, 1].min()), float(places[:, 1].max())
    height = max(LOWEST, round(room * (bottom_most - top_most)) + 2 * MARGIN)
    middle = (top_most + bottom_most) / 2
    order = sorted(range(len(points)), key=lambda row: points[row].wrong)
    body = ""
    for row in order:
        point, look = points[row], looks[points[row].label]
        across, down = (float(place) for place in places[row])
        left, top = round(MARGIN + room * across, 1), round(height / 2 + room * (down - middle), 1)
        ring = '<circle class="ring" r="8"/>' if point.wrong else ""
        shape = f'<path class="hue{look.hue}" d="{PATHS[look.shape]}"/>'
        told = f"<title>{escape(clean(point.told))}</title>"
        body += f'<g data-tile="{row}" transform="translate({left} {top})">{told}{ring}{shape}</g>'
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="atlas" role="img" tabindex="0" {size}>'
    return f"{head}<title>{escape(title)}</title>{body}</svg>"


def legend(labels: Sequence[str], points: Sequence[Point], looks: Sequence[Mark]) -> list[tuple[str, str, int]]:
    """For each label that has points: its mark as SVG, its name and how many there are; labels that share a mark at the end."""
    counts = Counter(point.label for point in points)
    own = [label for label in range(len(labels)) if counts[label] and looks[label].hue]
    rows = [(key(looks[label]), labels[label], counts[label]) for label in own]
    n_others = sum(counts[label] for label in counts if not looks[label].hue)
    return [*rows, (key(Mark(0, 0)), OTHERS, n_others)] if n_others else rows


def key(look: Mark) -> str:
    """A mark by itself."""
    shape = f'<path class="hue{look.hue}" d="{PATHS[look.shape]}"/>'
    return f'<svg class="mark-key" aria-hidden="true" viewBox="-7 -7 14 14" width="14" height="14">{shape}</svg>'


def columns(n_tiles: int) -> int:
    """How many tiles stand in a row of a sheet that is about as wide as high."""
    return max(1, math.ceil(math.sqrt(n_tiles)))
