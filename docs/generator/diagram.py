"""Draws docs/images/architecture.svg from the import graph: `make diagram`. With --check it writes nothing and compares."""

import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from generator.import_graph import ROOT, Half, read_halves, transitive_reduction
from generator.layered_layout import BOX_WIDTH, Layout, lay_out

OUTPUT = ROOT / "docs" / "images" / "architecture.svg"
BOX_HEIGHT, ROW_PITCH, PADDING, TITLE_HEIGHT, PANEL_GAP, LEGEND_HEIGHT = 32.0, 66.0, 18.0, 62.0, 16.0, 40.0
PORT_SPREAD = 0.62  # share of a box's width over which its arrows are spread
TITLES = {
    "training": ("training/", "offline: images in, a package out"),
    "service": ("service/", "deployed: a package in, answers out"),
}
LEGEND = "An arrow means “imports”. Arrows that follow from others are left out. Dashed boxes are single modules."
STYLE = """
.architecture { --paper: #fff; --panel: #f6f6f2; --box: #fff; --ink: #17201b; --soft: #57615b; --edge: #858f88; --line: #6b756f;
  --accent: #0b6b4c; font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
@media (prefers-color-scheme: dark) { .architecture { --paper: #0f1311; --panel: #171c19; --box: #1f2622; --ink: #e8ece9;
  --soft: #a2ada6; --edge: #75807a; --line: #8f9a93; --accent: #5ccf9e; } }
.architecture .paper { fill: var(--paper); }
.architecture .panel { fill: var(--panel); }
.architecture .box { fill: var(--box); stroke: var(--edge); }
.architecture .module { stroke-dasharray: 4 3; }
.architecture .shared { stroke: var(--accent); stroke-width: 2.5; }
.architecture .line { fill: none; stroke: var(--line); stroke-width: 1.4; }
.architecture .head { fill: var(--line); }
.architecture text { fill: var(--ink); font-size: 15px; text-anchor: middle; }
.architecture .title { font-size: 19px; font-weight: 650; text-anchor: start; }
.architecture .note { fill: var(--soft); text-anchor: start; }
""".strip()


def draw(halves: dict[str, Half]) -> str:
    """The diagram of both halves, side by side."""
    drawings = [(half, lay_out(half.layers, transitive_reduction(half.imports))) for half in halves.values()]
    inner_height = TITLE_HEIGHT + ROW_PITCH * (max(len(half.layers) for half, _ in drawings) - 1) + BOX_HEIGHT
    panel_height = inner_height + 2 * PADDING
    panels, left = [], 0.0
    for half, layout in drawings:
        panels.append(_panel(half, layout, left, panel_height))
        left += layout.width + 2 * PADDING + PANEL_GAP
    total_width, total_height = left - PANEL_GAP, panel_height + LEGEND_HEIGHT
    used = ", ".join(sorted(halves["service"].used_by_training))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="architecture" viewBox="0 0 {total_width:g} {total_height:g}"'
            f' width="{total_width:g}" height="{total_height:g}" role="img" aria-labelledby="architecture-title">',
            f'<title id="architecture-title">The packages of Graft and their imports. training/ imports {escape(used)} of'
            " service/; service/ imports nothing of training/.</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="head" d="M0 0.8 8 4 0 7.2z"/></marker></defs>',
            '<rect class="paper" width="100%" height="100%" rx="10"/>',
            *panels,
            f'<text class="note" x="{PADDING:g}" y="{panel_height + 25:g}">{LEGEND} Bold: used by training/.</text>',
            "</svg>",
            "",
        ]
    )


def _panel(half: Half, layout: Layout, left: float, height: float) -> str:
    title, note = TITLES[half.name]
    lines = [
        f'<g transform="translate({left:g} 0)">',
        f'<rect class="panel" width="{layout.width + 2 * PADDING:g}" height="{height:g}" rx="10"/>',
        f'<text class="title" x="{PADDING:g}" y="36">{title}</text>',
        f'<text class="note" x="{PADDING:g}" y="57">{note}</text>',
        f'<g transform="translate({PADDING:g} {PADDING + TITLE_HEIGHT:g})">',
        *(_arrow(layout, edge) for edge in layout.routes),
        *(_box(half, layout, name) for layer in half.layers for name in layer),
        "</g>",
        "</g>",
    ]
    return "\n".join(lines)


def _box(half: Half, layout: Layout, name: str) -> str:
    classes = ["box"]
    if not (ROOT / half.name / name).is_dir():
        classes.append("module")
    if name in half.used_by_training:
        classes.append("shared")
    x, y = layout.x[name], layout.row[name] * ROW_PITCH
    return (
        f'<rect class="{" ".join(classes)}" x="{x - BOX_WIDTH / 2:g}" y="{y:g}" width="{BOX_WIDTH:g}" height="{BOX_HEIGHT:g}"'
        f' rx="6"/><text x="{x:g}" y="{y + 20.5:g}">{name}</text>'
    )


def _arrow(layout: Layout, edge: tuple[str, str]) -> str:
    """A curve from the bottom of one box to the top of another; where it passes a row, it is vertical."""
    path = layout.routes[edge]
    x = [_port(layout, edge, 0), *(layout.x[lane] for lane in path[1:-1]), _port(layout, edge, -1)]
    y = layout.row[edge[0]] * ROW_PITCH + BOX_HEIGHT
    commands = [f"M{x[0]:g} {y:g}"]
    for step in range(1, len(path)):
        end = y + ROW_PITCH - BOX_HEIGHT
        middle = (y + end) / 2
        commands.append(f"C{x[step - 1]:g} {middle:g} {x[step]:g} {middle:g} {x[step]:g} {end:g}")
        if step < len(path) - 1:
            commands.append(f"V{end + BOX_HEIGHT:g}")
        y = end + BOX_HEIGHT
    return f'<path class="line" marker-end="url(#arrow)" d="{" ".join(commands)}"/>'


def _port(layout: Layout, edge: tuple[str, str], end: int) -> float:
    """Where an arrow leaves its importer (end 0) or reaches what is imported (end -1), so that arrows do not overlap."""
    name, step = edge[end], (1 if end == 0 else -2)
    siblings = sorted((layout.x[path[step]], other) for other, path in layout.routes.items() if other[end] == name)
    place = [other for _, other in siblings].index(edge)
    spread = PORT_SPREAD * BOX_WIDTH * min(1, (len(siblings) - 1) / 3)
    return round(layout.x[name] + spread * ((place + 0.5) / len(siblings) - 0.5), 1)


def main(arguments: list[str]) -> int:
    """Writes the diagram; with --check compares it with the committed one."""
    svg = draw(read_halves())
    if "--check" in arguments:
        if OUTPUT.read_text(encoding="utf-8") == svg:
            return 0
        print("docs/images/architecture.svg differs from the import graph; run: make diagram", file=sys.stderr)
        return 1
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
