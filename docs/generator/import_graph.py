"""The layers of both halves, as pyproject.toml declares them, and the imports between their packages, as the code has them."""

import ast
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[2]
HALVES = ("training", "service")
Edge = tuple[str, str]  # importer, imported


class Half(NamedTuple):
    """One of the two halves of Graft.

    Attributes:
        layers: its packages and modules, from the top layer to the bottom.
        imports: which of them imports which.
        used_by_training: those that `training/` imports; empty for `training/` itself.
    """

    name: str
    layers: list[list[str]]
    imports: set[Edge]
    used_by_training: set[str]


@cache
def read_halves() -> dict[str, Half]:
    """Both halves by name."""
    graph = grimp.build_graph("graft", cache_dir=None)
    members = {half: sorted(graph.find_children(f"graft.{half}")) for half in HALVES}
    for module in [module for modules in members.values() for module in modules]:
        graph.squash_module(module)
    edges = {
        (importer, imported)
        for modules in members.values()
        for importer in modules
        for imported in graph.find_modules_directly_imported_by(importer)
    }
    return {name: _half(name, edges) for name in HALVES}


def _half(name: str, edges: set[Edge]) -> Half:
    prefix = f"graft.{name}."
    own = {(a.removeprefix(prefix), b.removeprefix(prefix)) for a, b in edges if a.startswith(prefix) and b.startswith(prefix)}
    outside = {b.removeprefix(prefix) for a, b in edges if b.startswith(prefix) and not a.startswith(prefix)}
    return Half(name, read_layers(name), own, outside)


def read_layers(half: str) -> list[list[str]]:
    """The layers of a half from import-linter's contract: top layer first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == f"{half}-layers"]
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def purpose(half: str, name: str) -> str:
    """The first line of the docstring of a package or module."""
    path = ROOT / half / name / "__init__.py"
    source = path if path.exists() else ROOT / half / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0]


def is_package(half: str, name: str) -> bool:
    """Whether it is a folder; else it is a single module."""
    return (ROOT / half / name).is_dir()


def transitive_reduction(edges: set[Edge]) -> set[Edge]:
    """The edges that do not follow from others: a -> c follows from a -> b -> c. The graph must have no circle."""
    targets: dict[str, set[str]] = defaultdict(set)
    for importer, imported in edges:
        targets[importer].add(imported)
    return {(a, b) for a, b in edges if not any(b in _reachable(targets, other) for other in targets[a] - {b})}


def _reachable(targets: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = targets.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found
