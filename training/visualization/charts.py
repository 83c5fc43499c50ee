"""SVG charts as strings, without a chart library.

Colors are CSS classes, so that charts follow the page's light and dark themes. Color is never the only cue, and every
chart has a title for screen readers.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from graft.training.results import CalibrationBin, Estimate

Point = tuple[float, float]
Tick = tuple[float, str]

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 42  # margins, in pixels
MAX_CELLS = 20_000
_INVALID_CHARS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
STRIP_WIDTH = 150  # width of a chart in a table row


@dataclass(frozen=True)
class Series:
    """One series of a line chart.

    Attributes:
        points: (x, y), x ascending.
        band: (x, low, high), a confidence band; may be empty.
        radius: of the dots at the points, in pixels.
    """

    name: str
    points: tuple[Point, ...]
    band: tuple[tuple[float, float, float], ...] = ()
    radius: float = 3.5


@dataclass(frozen=True)
class _Axes:
    """Maps data coordinates to SVG coordinates."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def to_x(self, value: float) -> float:
        return round(LEFT + (value - self.x_range[0]) / (self.x_range[1] - self.x_range[0]) * (WIDTH - LEFT - RIGHT), 1)

    def to_y(self, value: float) -> float:
        return round(
            HEIGHT - BOTTOM - (value - self.y_range[0]) / (self.y_range[1] - self.y_range[0]) * (HEIGHT - TOP - BOTTOM), 1
        )


def sanitize(text: str) -> str:
    """Replaces characters that HTML does not allow: control characters, and surrogates of file names that are not UTF-8."""
    return _INVALID_CHARS.sub("\ufffd", text)


def percent(share: float) -> str:
    """`0.8520` as `85.2%`."""
    return f"{100 * share:.1f}%"


def interval_bar(estimate: Estimate, start: float, end: float, runs: Sequence[float] = ()) -> str:
    """An estimate and its interval on a scale from `start` to `end`, for a table row; `runs` are single values."""

    def to_x(value: float) -> float:
        share = (min(max(value, start), end) - start) / ((end - start) or 1)
        return round(6 + share * (STRIP_WIDTH - 12), 1)

    low, value, high = (to_x(number) for number in (estimate.low, estimate.value, estimate.high))
    body = f'<line class="axis" x1="6" x2="{STRIP_WIDTH - 6}" y1="9" y2="9"/>'
    body += f'<rect class="band" x="{low}" y="4" width="{max(1.0, round(high - low, 1))}" height="10" rx="3"/>'
    body += f'<rect class="mark" x="{value - 1.5:.1f}" y="2" width="3" height="14" rx="1.5"/>'
    body += "".join(f'<circle class="single" cx="{to_x(run)}" cy="9" r="2.5"/>' for run in runs)
    return _svg(
        STRIP_WIDTH,
        18,
        f"{estimate.value:.3f}, 95% confidence interval {estimate.low:.3f} to {estimate.high:.3f}",
        body,
        "strip",
    )


def stacked_bar(counts: Sequence[int], max_total: int) -> str:
    """A stacked bar for a table row; a total of `max_total` fills the width."""
    body, start = "", 0.0
    for number, count in enumerate(counts, 1):
        width = count / max(1, max_total) * STRIP_WIDTH
        body += f'<rect class="fill{number}" x="{start:.1f}" y="3" width="{width:.1f}" height="12"/>'
        start += width
    return _svg(STRIP_WIDTH, 18, " + ".join(f"{count:,}" for count in counts), body, "strip")


def share_bars(weights: float, multiply_adds: float, max_share: float) -> str:
    """Two bars, one above the other, for a layer's table row; `max_share` fills the width."""
    widths = [share / (max_share or 1) * STRIP_WIDTH for share in (weights, multiply_adds)]
    body = "".join(
        f'<rect class="fill{number}" x="0" y="{2 + 8 * (number - 1)}" width="{width:.1f}" height="6"/>'
        for number, width in enumerate(widths, 1)
    )
    return _svg(
        STRIP_WIDTH, 18, f"{percent(weights)} of the parameters, {percent(multiply_adds)} of the multiply-adds", body, "strip"
    )


def line_chart(title: str, x_label: str, ticks: Sequence[Tick], series: Sequence[Series], as_percent: bool) -> str:
    """A line chart of several series with a common x-axis."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + [y for one in series for _, *ends in one.band for y in ends]
    low, high = _padded_range(ys, 0.08)
    axes = _Axes(_padded_range(xs, 0.03), (max(0.0, low), min(1.0, high)) if as_percent else (low, high))
    body = _x_axis(axes, x_label, ticks) + _y_axis(axes, "", _nice_ticks(*axes.y_range), as_percent)
    for number, one in enumerate(series, 1):
        body += _draw_series(axes, one, number, as_percent)
    return _svg(WIDTH, HEIGHT, title, body, "chart")


def _draw_series(axes: _Axes, series: Series, number: int, as_percent: bool) -> str:
    above = [(axes.to_x(x), axes.to_y(high)) for x, _, high in series.band]
    below = [(axes.to_x(x), axes.to_y(low)) for x, low, _ in reversed(series.band)]
    at = [(axes.to_x(x), axes.to_y(y)) for x, y in series.points]
    body = f'<polygon class="area{number}" points="{_svg_points(above + below)}"/>' if series.band else ""
    body += f'<polyline class="line{number}" points="{_svg_points(at)}"/>'
    for (_, y), (left, top) in zip(series.points, at, strict=True):
        title = f"<title>{_escape(series.name)}: {percent(y) if as_percent else f'{y:.3f}'}</title>"
        body += f'<circle class="fill{number}" cx="{left}" cy="{top}" r="{series.radius}">{title}</circle>'
    return body


def reliability_diagram(before: Sequence[CalibrationBin], after: Sequence[CalibrationBin]) -> str:
    """Confidence against accuracy, before and after calibration; a dot's area is its number of images."""
    axes = _Axes((0, 1), (0, 1))
    ticks = [(tick / 4, f"{25 * tick}%") for tick in range(5)]
    body = _x_axis(axes, "confidence", ticks)
    body += _y_axis(axes, "accuracy", [tick / 4 for tick in range(5)], True)
    ends = f'x1="{axes.to_x(0)}" y1="{axes.to_y(0)}" x2="{axes.to_x(1)}" y2="{axes.to_y(1)}"'
    body += f'<line class="ideal" {ends}/>'
    max_n = max((bin.n for bin in (*before, *after)), default=1)
    for number, (name, bins) in enumerate((("after", after), ("before", before)), 1):
        nonempty = [bin for bin in bins if bin.n]
        body += f'<polyline class="line{number}" points="{_svg_points([_bin_position(axes, bin) for bin in nonempty])}"/>'
        for bin in nonempty:
            left, top = _bin_position(axes, bin)
            tooltip = f"{name}: confidence {percent(bin.confidence)}, accuracy {percent(bin.accuracy)}, {bin.n:,} images"
            radius = 2.5 + 7 * math.sqrt(bin.n / max_n)
            body += f'<circle class="dot{number}" cx="{left}" cy="{top}" r="{radius:.1f}"><title>{tooltip}</title></circle>'
    return _svg(WIDTH, HEIGHT, "Reliability diagram: confidence against accuracy", body, "chart")


def bar_chart(title: str, x_label: str, counts: Mapping[int, int]) -> str:
    """A bar chart of counts by integer."""
    first, last = min(counts, default=0), max(counts, default=1)
    axes = _Axes((first - 0.6, last + 0.6), (0, max(counts.values(), default=1) * 1.08))
    step = max(1, math.ceil((last - first + 1) / 12))
    body = _x_axis(axes, x_label, [(value, f"{value:,}") for value in range(first, last + 1, step)])
    body += _y_axis(axes, "", _nice_ticks(*axes.y_range), False)
    width = max(1.0, 0.8 * (axes.to_x(1) - axes.to_x(0)))
    for value, count in counts.items():
        left, top = axes.to_x(value) - width / 2, axes.to_y(count)
        box = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{axes.to_y(0) - top:.1f}"'
        body += f'<rect class="fill1" {box}><title>{value:,}: {count:,} images</title></rect>'
    return _svg(WIDTH, HEIGHT, title, body, "chart")


def confusion_image(confusion: Sequence[Sequence[int]]) -> str:
    """A large confusion matrix as an image: rows are true labels; opacity grows with the share of images."""
    cell = max(1, min(6, 600 // len(confusion)))
    cells = [
        (count / sum(counts), row, column)
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
        if count
    ]
    squares: dict[tuple[str, int], str] = {}
    for share, row, column in sorted(cells, reverse=True)[:MAX_CELLS]:
        style = ("right" if row == column else "wrong", math.ceil(10 * math.sqrt(share)))
        squares[style] = squares.get(style, "") + f"M{column * cell} {row * cell}h{cell}v{cell}h-{cell}z"
    side = len(confusion) * cell
    body = f'<rect class="paper" width="{side}" height="{side}"/>'
    body += "".join(f'<path class="{kind}" opacity="{level / 10}" d="{path}"/>' for (kind, level), path in squares.items())
    return _svg(side, side, "Confusion matrix: true labels in rows, predicted labels in columns", body, "matrix")


def _bin_position(axes: _Axes, bin: CalibrationBin) -> Point:
    return axes.to_x(bin.confidence), axes.to_y(bin.accuracy)


def _x_axis(axes: _Axes, label: str, ticks: Sequence[Tick]) -> str:
    """The x-axis."""
    bottom = HEIGHT - BOTTOM
    body = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    for value, text in ticks:
        body += f'<text class="tick" x="{axes.to_x(value)}" y="{bottom + 16}" text-anchor="middle">{_escape(text)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    return body + f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{_escape(label)}</text>'


def _y_axis(axes: _Axes, label: str, ticks: Sequence[float], as_percent: bool) -> str:
    """The y-axis, with grid lines."""
    body = ""
    for value in ticks:
        text = f"{round(100 * value, 6):g}%" if as_percent else f"{value:,.6g}"
        top = axes.to_y(value)
        body += f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top}" y2="{top}"/>'
        body += f'<text class="tick" x="{LEFT - 6}" y="{top + 4:.1f}" text-anchor="end">{text}</text>'
    if label:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        body += (
            f'<text class="name" transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle">{label}</text>'
        )
    return body


def _padded_range(values: Sequence[float], padding: float) -> tuple[float, float]:
    """The range of the values with padding; never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * padding or max(abs(high) * padding, 0.01)
    return low - margin, high + margin


def _nice_ticks(low: float, high: float) -> list[float]:
    """Three to seven round tick values in a range."""
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next((factor for factor in (5, 2) if (high - low) / (factor * step) >= 2.5), 1)
    return [round(number * step, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _svg_points(points: Sequence[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _escape(text: str) -> str:
    return escape(sanitize(text))


def _svg(width: int, height: int, title: str, body: str, css_class: str) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    attributes = f'xmlns="http://www.w3.org/2000/svg" role="img" class="{css_class}" {size}'
    return f"<svg {attributes}><title>{_escape(title)}</title>{body}</svg>"
