"""Numbers -> SVG, as strings: small, for reading on a page, without a chart library.

Colours are CSS classes, so that the page's light and dark themes both fit; nothing is told by colour alone. Every chart
has a title for whoever hears the page instead of seeing it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from graft.training.results import Bin, Estimate

Point = tuple[float, float]
Tick = tuple[float, str]

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 42  # margins, in pixels
MOST_CELLS = 20_000
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
STRIP = 150  # the width of a chart inside a table's row


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        points: (x, y), x ascending.
        band: (x, low, high) around it, or nothing.
    """

    name: str
    points: tuple[Point, ...]
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class _Frame:
    """Where numbers lie on paper."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return round(LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT), 1)

    def down(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM), 1)


def clean(text: str) -> str:
    """The same text without what no page may hold: control characters, and bytes of a file's name that are no UTF-8."""
    return _UNFIT.sub("\ufffd", text)


def percent(share: float) -> str:
    """`0.8520` as `85.2%`."""
    return f"{100 * share:.1f}%"


def interval(estimate: Estimate, start: float, end: float, dots: Sequence[float] = ()) -> str:
    """An estimate and its interval on the scale from `start` to `end`, for a table's row; `dots` are single runs."""

    def across(value: float) -> float:
        share = (min(max(value, start), end) - start) / ((end - start) or 1)
        return round(6 + share * (STRIP - 12), 1)

    low, value, high = (across(number) for number in (estimate.low, estimate.value, estimate.high))
    body = f'<line class="axis" x1="6" x2="{STRIP - 6}" y1="9" y2="9"/>'
    body += f'<rect class="band" x="{low}" y="4" width="{max(1.0, round(high - low, 1))}" height="10" rx="3"/>'
    body += f'<rect class="mark" x="{value - 1.5:.1f}" y="2" width="3" height="14" rx="1.5"/>'
    body += "".join(f'<circle class="single" cx="{across(dot)}" cy="9" r="2.5"/>' for dot in dots)
    return _svg(STRIP, 18, f"{estimate.value:.3f}, between {estimate.low:.3f} and {estimate.high:.3f}", body, "strip")


def stacked(counts: Sequence[int], most: int) -> str:
    """One bar of several parts, for a table's row; a bar of `most` fills the width."""
    body, start = "", 0.0
    for number, count in enumerate(counts, 1):
        width = count / max(1, most) * STRIP
        body += f'<rect class="fill{number}" x="{start:.1f}" y="3" width="{width:.1f}" height="12"/>'
        start += width
    return _svg(STRIP, 18, " + ".join(f"{count:,}" for count in counts), body, "strip")


def shares(weights: float, operations: float, most: float) -> str:
    """Two bars, one above the other, for a layer's row; a share of `most` fills the width."""
    across = [share / (most or 1) * STRIP for share in (weights, operations)]
    body = "".join(
        f'<rect class="fill{number}" x="0" y="{2 + 8 * (number - 1)}" width="{width:.1f}" height="6"/>'
        for number, width in enumerate(across, 1)
    )
    return _svg(STRIP, 18, f"{percent(weights)} of the weights, {percent(operations)} of the multiply-adds", body, "strip")


def lines(title: str, axis: str, ticks: Sequence[Tick], drawn: Sequence[Line], percents: bool) -> str:
    """Lines over a common axis, which `axis` names and `ticks` mark."""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points] + [y for line in drawn for _, *ends in line.band for y in ends]
    low, high = _room(ys, 0.08)
    frame = _Frame(_room(xs, 0.03), (max(0.0, low), min(1.0, high)) if percents else (low, high))
    body = _below(frame, axis, ticks) + _beside(frame, "", _ticks(*frame.y), percents)
    for number, line in enumerate(drawn, 1):
        body += _line(frame, line, number, percents)
    return _svg(WIDTH, HEIGHT, title, body, "chart")


def _line(frame: _Frame, line: Line, number: int, percents: bool) -> str:
    above = [(frame.across(x), frame.down(high)) for x, _, high in line.band]
    below = [(frame.across(x), frame.down(low)) for x, low, _ in reversed(line.band)]
    at = [(frame.across(x), frame.down(y)) for x, y in line.points]
    body = f'<polygon class="area{number}" points="{_path(above + below)}"/>' if line.band else ""
    body += f'<polyline class="line{number}" points="{_path(at)}"/>'
    for (_, y), (left, top) in zip(line.points, at, strict=True):
        title = f"<title>{_text(line.name)}: {percent(y) if percents else f'{y:.3f}'}</title>"
        body += f'<circle class="fill{number}" cx="{left}" cy="{top}" r="3.5">{title}</circle>'
    return body


def reliability(before: Sequence[Bin], after: Sequence[Bin]) -> str:
    """What was claimed against what came true, before and after calibration; a dot's area is its number of images."""
    frame = _Frame((0, 1), (0, 1))
    ticks = [(tick / 4, f"{25 * tick}%") for tick in range(5)]
    body = _below(frame, "probability that the model claimed", ticks)
    body += _beside(frame, "share that came true", [tick / 4 for tick in range(5)], True)
    ends = f'x1="{frame.across(0)}" y1="{frame.down(0)}" x2="{frame.across(1)}" y2="{frame.down(1)}"'
    body += f'<line class="ideal" {ends}/>'
    most = max((bin.n for bin in (*before, *after)), default=1)
    for number, (name, bins) in enumerate((("after", after), ("before", before)), 1):
        full = [bin for bin in bins if bin.n]
        body += f'<polyline class="line{number}" points="{_path([_at(frame, bin) for bin in full])}"/>'
        for bin in full:
            left, top = _at(frame, bin)
            told = f"{name}: claimed {percent(bin.confidence)}, {percent(bin.accuracy)} came true, {bin.n:,} images"
            radius = 2.5 + 7 * math.sqrt(bin.n / most)
            body += f'<circle class="dot{number}" cx="{left}" cy="{top}" r="{radius:.1f}"><title>{told}</title></circle>'
    return _svg(WIDTH, HEIGHT, "Claimed probability against what came true", body, "chart")


def columns(title: str, axis: str, counts: Mapping[int, int]) -> str:
    """How often each whole number occurred."""
    first, last = min(counts, default=0), max(counts, default=1)
    frame = _Frame((first - 0.6, last + 0.6), (0, max(counts.values(), default=1) * 1.08))
    every = max(1, math.ceil((last - first + 1) / 12))
    body = _below(frame, axis, [(value, f"{value:,}") for value in range(first, last + 1, every)])
    body += _beside(frame, "", _ticks(*frame.y), False)
    width = max(1.0, 0.8 * (frame.across(1) - frame.across(0)))
    for value, count in counts.items():
        left, top = frame.across(value) - width / 2, frame.down(count)
        box = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{frame.down(0) - top:.1f}"'
        body += f'<rect class="fill1" {box}><title>{value:,}: {count:,} images</title></rect>'
    return _svg(WIDTH, HEIGHT, title, body, "chart")


def matrix(confusion: Sequence[Sequence[int]]) -> str:
    """A confusion matrix of many labels as a picture: a row for each true label, stronger where more images are."""
    cell = max(1, min(6, 600 // len(confusion)))
    cells = [
        (count / sum(counts), row, column)
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
        if count
    ]
    squares: dict[tuple[str, int], str] = {}
    for share, row, column in sorted(cells, reverse=True)[:MOST_CELLS]:
        look = ("right" if row == column else "wrong", math.ceil(10 * math.sqrt(share)))
        squares[look] = squares.get(look, "") + f"M{column * cell} {row * cell}h{cell}v{cell}h-{cell}z"
    side = len(confusion) * cell
    body = f'<rect class="paper" width="{side}" height="{side}"/>'
    body += "".join(f'<path class="{kind}" opacity="{level / 10}" d="{path}"/>' for (kind, level), path in squares.items())
    return _svg(side, side, "Confusion matrix: true labels downwards, predicted labels across", body, "matrix")


def _at(frame: _Frame, bin: Bin) -> Point:
    return frame.across(bin.confidence), frame.down(bin.accuracy)


def _below(frame: _Frame, name: str, ticks: Sequence[Tick]) -> str:
    """The horizontal axis."""
    floor = HEIGHT - BOTTOM
    body = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>'
    for value, shown in ticks:
        body += f'<text class="tick" x="{frame.across(value)}" y="{floor + 16}" text-anchor="middle">{_text(shown)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    return body + f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{_text(name)}</text>'


def _beside(frame: _Frame, name: str, ticks: Sequence[float], percents: bool) -> str:
    """The vertical axis, with a grid."""
    body = ""
    for value in ticks:
        shown = f"{round(100 * value, 6):g}%" if percents else f"{value:,.6g}"
        top = frame.down(value)
        body += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top}" y2="{top}"/>'
        body += f'<text class="tick" x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{shown}</text>'
    if name:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        body += f'<text class="name" transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle">{name}</text>'
    return body


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """A range with some room around the values; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * share or max(abs(high) * share, 0.01)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers in a range."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next((factor for factor in (5, 2) if (high - low) / (factor * step) >= 2.5), 1)
    return [round(number * step, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _text(text: str) -> str:
    return escape(clean(text))


def _svg(width: int, height: int, title: str, body: str, kind: str) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" class="{kind}" {size}><title>{_text(title)}</title>{body}</svg>'
