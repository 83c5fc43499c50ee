"""SVG charts as strings, without a chart library.

Colors are CSS classes, so that charts follow the page's light and dark themes. Color is never the only cue, and every
chart has a title for screen readers.
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
STRIP = 150  # width of a chart in a table row


@dataclass(frozen=True)
class Line:
    """One series of a line chart.

    Attributes:
        points: (x, y), x ascending.
        band: (x, low, high), a confidence band; may be empty.
    """

    name: str
    points: tuple[Point, ...]
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class _Frame:
    """Maps data coordinates to SVG coordinates."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return round(LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT), 1)

    def down(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM), 1)


def clean(text: str) -> str:
    """Replaces characters that HTML does not allow: control characters, and surrogates of file names that are not UTF-8."""
    return _UNFIT.sub("\ufffd", text)


def percent(share: float) -> str:
    """`0.8520` as `85.2%`."""
    return f"{100 * share:.1f}%"


def interval(estimate: Estimate, start: float, end: float, dots: Sequence[float] = ()) -> str:
    """An estimate and its interval on a scale from `start` to `end`, for a table row; `runs` are single values."""

    def to_x(value: float) -> float:
        share = (min(max(value, start), end) - start) / ((end - start) or 1)
        return round(6 + share * (STRIP - 12), 1)

    low, value, high = (to_x(number) for number in (estimate.low, estimate.value, estimate.high))
    body = f'<line class="axis" x1="6" x2="{STRIP - 6}" y1="9" y2="9"/>'
    body += f'<rect class="band" x="{low}" y="4" width="{max(1.0, round(high - low, 1))}" height="10" rx="3"/>'
    body += f'<rect class="mark" x="{value - 1.5:.1f}" y="2" width="3" height="14" rx="1.5"/>'
    body += "".join(f'<circle class="single" cx="{to_x(run)}" cy="9" r="2.5"/>' for run in dots)
    return _svg(
        STRIP, 18, f"{estimate.value:.3f}, 95% confidence interval {estimate.low:.3f} to {estimate.high:.3f}", body, "strip"
    )


def stacked(counts: Sequence[int], most: int) -> str:
    """A stacked bar for a table row; a total of `max_total` fills the width."""
    body, start = "", 0.0
    for number, count in enumerate(counts, 1):
        width = count / max(1, most) * STRIP
        body += f'<rect class="fill{number}" x="{start:.1f}" y="3" width="{width:.1f}" height="12"/>'
        start += width
    return _svg(STRIP, 18, " + ".join(f"{count:,}" for count in counts), body, "strip")


def shares(weights: float, operations: float, most: float) -> str:
    """Two bars, one above the other, for a layer's table row; `max_share` fills the width."""
    widths = [share / (most or 1) * STRIP for share in (weights, operations)]
    body = "".join(
        f'<rect class="fill{number}" x="0" y="{2 + 8 * (number - 1)}" width="{width:.1f}" height="6"/>'
        for number, width in enumerate(widths, 1)
    )
    return _svg(STRIP, 18, f"{percent(weights)} of the parameters, {percent(operations)} of the multiply-adds", body, "strip")


def lines(title: str, axis: str, ticks: Sequence[Tick], drawn: Sequence[Line], percents: bool) -> str:
    """A line chart of several series with a common x-axis."""
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points] + [y for one in drawn for _, *ends in one.band for y in ends]
    low, high = _room(ys, 0.08)
    axes = _Frame(_room(xs, 0.03), (max(0.0, low), min(1.0, high)) if percents else (low, high))
    body = _below(axes, axis, ticks) + _beside(axes, "", _ticks(*axes.y), percents)
    for number, one in enumerate(drawn, 1):
        body += _line(axes, one, number, percents)
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
    """Confidence against accuracy, before and after calibration; a dot's area is its number of images."""
    axes = _Frame((0, 1), (0, 1))
    ticks = [(tick / 4, f"{25 * tick}%") for tick in range(5)]
    body = _below(axes, "confidence", ticks)
    body += _beside(axes, "accuracy", [tick / 4 for tick in range(5)], True)
    ends = f'x1="{axes.across(0)}" y1="{axes.down(0)}" x2="{axes.across(1)}" y2="{axes.down(1)}"'
    body += f'<line class="ideal" {ends}/>'
    max_n = max((bin.n for bin in (*before, *after)), default=1)
    for number, (name, bins) in enumerate((("after", after), ("before", before)), 1):
        nonempty = [bin for bin in bins if bin.n]
        body += f'<polyline class="line{number}" points="{_path([_at(axes, bin) for bin in nonempty])}"/>'
        for bin in nonempty:
            left, top = _at(axes, bin)
            tooltip = f"{name}: confidence {percent(bin.confidence)}, accuracy {percent(bin.accuracy)}, {bin.n:,} images"
            radius = 2.5 + 7 * math.sqrt(bin.n / max_n)
            body += f'<circle class="dot{number}" cx="{left}" cy="{top}" r="{radius:.1f}"><title>{tooltip}</title></circle>'
    return _svg(WIDTH, HEIGHT, "Reliability diagram: confidence against accuracy", body, "chart")


def columns(title: str, axis: str, counts: Mapping[int, int]) -> str:
    """A bar chart of counts by integer."""
    first, last = min(counts, default=0), max(counts, default=1)
    axes = _Frame((first - 0.6, last + 0.6), (0, max(counts.values(), default=1) * 1.08))
    step = max(1, math.ceil((last - first + 1) / 12))
    body = _below(axes, axis, [(value, f"{value:,}") for value in range(first, last + 1, step)])
    body += _beside(axes, "", _ticks(*axes.y), False)
    width = max(1.0, 0.8 * (axes.across(1) - axes.across(0)))
    for value, count in counts.items():
        left, top = axes.across(value) - width / 2, axes.down(count)
        box = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{axes.down(0) - top:.1f}"'
        body += f'<rect class="fill1" {box}><title>{value:,}: {count:,} images</title></rect>'
    return _svg(WIDTH, HEIGHT, title, body, "chart")


def matrix(confusion: Sequence[Sequence[int]]) -> str:
    """A large confusion matrix as an image: rows are true labels; opacity grows with the share of images."""
    cell = max(1, min(6, 600 // len(confusion)))
    cells = [
        (count / sum(counts), row, column)
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
        if count
    ]
    squares: dict[tuple[str, int], str] = {}
    for share, row, column in sorted(cells, reverse=True)[:MOST_CELLS]:
        style = ("right" if row == column else "wrong", math.ceil(10 * math.sqrt(share)))
        squares[style] = squares.get(style, "") + f"M{column * cell} {row * cell}h{cell}v{cell}h-{cell}z"
    side = len(confusion) * cell
    body = f'<rect class="paper" width="{side}" height="{side}"/>'
    body += "".join(f'<path class="{kind}" opacity="{level / 10}" d="{path}"/>' for (kind, level), path in squares.items())
    return _svg(side, side, "Confusion matrix: true labels in rows, predicted labels in columns", body, "matrix")


def _at(frame: _Frame, bin: Bin) -> Point:
    return frame.across(bin.confidence), frame.down(bin.accuracy)


def _below(frame: _Frame, name: str, ticks: Sequence[Tick]) -> str:
    """The x-axis."""
    bottom = HEIGHT - BOTTOM
    body = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    for value, text in ticks:
        body += f'<text class="tick" x="{frame.across(value)}" y="{bottom + 16}" text-anchor="middle">{_text(text)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    return body + f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{_text(name)}</text>'


def _beside(frame: _Frame, name: str, ticks: Sequence[float], percents: bool) -> str:
    """The y-axis, with grid lines."""
    body = ""
    for value in ticks:
        text = f"{round(100 * value, 6):g}%" if percents else f"{value:,.6g}"
        top = frame.down(value)
        body += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top}" y2="{top}"/>'
        body += f'<text class="tick" x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{text}</text>'
    if name:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        body += f'<text class="name" transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle">{name}</text>'
    return body


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """The range of the values with padding; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * share or max(abs(high) * share, 0.01)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round tick values in a range."""
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
