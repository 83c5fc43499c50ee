"""A layered drawing of a graph (Sugiyama et al. 1981): order in the rows, then horizontal positions. Knows nothing of SVG."""

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

Edge = tuple[str, str]
BOX_WIDTH = 112.0
LANE_WIDTH = 8.0  # a place in a row that a longer arrow passes through
GAP = 10.0
N_SWEEPS = 60
LANE_WEIGHT = 8.0  # straight long arrows matter more than centered boxes


class Layout(NamedTuple):
    """Positions of a graph.

    Attributes:
        x: the center of every box and lane, from the left edge of the leftmost.
        row: the row of every box and lane, 0 at the top.
        routes: for each edge, the box, the lanes and the box that it passes through, from top to bottom.
        width: of the whole drawing.
    """

    x: dict[str, float]
    row: dict[str, int]
    routes: dict[Edge, list[str]]
    width: float


def lay_out(layers: list[list[str]], edges: set[Edge]) -> Layout:
    """Places the nodes of each layer in one row. Every edge must lead from a layer to a lower one."""
    row = {name: index for index, layer in enumerate(layers) for name in layer}
    routes = {edge: _route(*edge, row) for edge in sorted(edges)}
    row |= {name: row[path[0]] + step for path in routes.values() for step, name in enumerate(path) if is_lane(name)}
    rows = [[name for name in row if row[name] == index] for index in range(len(layers))]
    above, below = _neighbors(routes)
    rows = _order(rows, above, below)
    x = _place(rows, above, below)
    left = min(x[name] - width(name) / 2 for name in x)
    right = max(x[name] + width(name) / 2 for name in x)
    return Layout({name: round(x[name] - left, 1) for name in x}, row, routes, round(right - left, 1))


def width(name: str) -> float:
    """Of a box or a lane."""
    return LANE_WIDTH if is_lane(name) else BOX_WIDTH


def is_lane(name: str) -> bool:
    """Whether it is a place that a longer arrow passes through, and not a box."""
    return "->" in name


def _route(start: str, end: str, row: dict[str, int]) -> list[str]:
    if row[start] >= row[end]:
        raise ValueError(f"{start} imports {end}, which is not in a lower layer. `make lint` tells more.")
    return [start, *(f"{start}->{end}:{index}" for index in range(row[start] + 1, row[end])), end]


def _neighbors(routes: dict[Edge, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = defaultdict(list)
    below: dict[str, list[str]] = defaultdict(list)
    for path in routes.values():
        for upper, lower in pairwise(path):
            below[upper].append(lower)
            above[lower].append(upper)
    return above, below


def _order(rows: list[list[str]], above: dict[str, list[str]], below: dict[str, list[str]]) -> list[list[str]]:
    """The order of each row with the fewest crossings that sweeping by barycenters finds."""
    best, rows = rows, [list(row) for row in rows]
    for sweep in range(N_SWEEPS):
        downward = sweep % 2 == 0
        for index in range(len(rows)) if downward else reversed(range(len(rows))):
            neighbors = above if downward else below
            other = rows[index - 1 if downward else index + 1] if 0 <= index + (-1 if downward else 1) < len(rows) else []
            position = {name: (place + 0.5) / len(other) for place, name in enumerate(other)}
            rows[index] = _by_barycenter(rows[index], neighbors, position)
        if _crossings(rows, below) < _crossings(best, below):
            best = [list(row) for row in rows]
    return best


def _by_barycenter(row: list[str], neighbors: dict[str, list[str]], position: dict[str, float]) -> list[str]:
    def key(item: tuple[int, str]) -> float:
        own_place, name = item
        places = [position[neighbor] for neighbor in neighbors[name]]
        return sum(places) / len(places) if places else (own_place + 0.5) / len(row)

    return [name for _, name in sorted(enumerate(row), key=key)]


def _crossings(rows: list[list[str]], below: dict[str, list[str]]) -> int:
    total = 0
    for upper, lower in pairwise(rows):
        place = {name: index for index, name in enumerate(lower)}
        ends = [(index, place[target]) for index, name in enumerate(upper) for target in below[name]]
        total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])
    return total


def _place(rows: list[list[str]], above: dict[str, list[str]], below: dict[str, list[str]]) -> dict[str, float]:
    """The center of each node: near the mean of its neighbors, without overlaps."""
    x = {name: 0.0 for row in rows for name in row}
    for row in rows:
        x |= _spread(row, [0.0] * len(row))
    for sweep in range(N_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            x |= _spread(row, [_mean_position(name, [*above[name], *below[name]], x) for name in row])
    return x


def _mean_position(name: str, neighbors: list[str], x: dict[str, float]) -> float:
    """The mean position of the neighbors. Lanes count more for a lane, so that a long arrow becomes straight."""
    weights = [LANE_WEIGHT if is_lane(name) and is_lane(other) else 1.0 for other in neighbors]
    return sum(w * x[other] for w, other in zip(weights, neighbors, strict=True)) / sum(weights) if neighbors else 0.0


def _spread(row: list[str], wanted: list[float]) -> dict[str, float]:
    """The positions closest to the wanted ones at which nothing overlaps: isotonic regression by pooling adjacent violators."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (width(left) + width(right)) / 2 + GAP)
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of nodes
    for name, target, offset in zip(row, wanted, offsets, strict=True):
        pools.append((target - offset, LANE_WEIGHT if is_lane(name) else 1.0, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean_a, weight_a, n_a), (mean_b, weight_b, n_b) = pools[-2:]
            weight = weight_a + weight_b
            pools[-2:] = [((mean_a * weight_a + mean_b * weight_b) / weight, weight, n_a + n_b)]
    means = [mean for mean, _, n in pools for _ in range(n)]
    return {name: mean + offset for name, mean, offset in zip(row, means, offsets, strict=True)}
