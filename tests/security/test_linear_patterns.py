"""No text of a caller makes a regular expression take more than linear time: a match holds Python's lock, and so everything."""

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

import graft.service

SHORT, LONG = 1_000, 8_000  # characters; in linear time, the long text takes 8 times as long, in quadratic time 64 times
MAX_RATIO = 24.0
IGNORED_S = 2e-4  # shorter times are not compared
PREFIXES = ("", "0", ".", ";a=", ';a="', "data:", "a:", "%", '"')
ATOMS = (*'0.eE+-a_ \t;"\\=/:&%!', "a=", ";a=b", '\\"', "0.", "0e", ".0", "://", "\r\n", "a ", " a", "é")
SUFFIXES = ("", "\0", "x", '"', "!")
# They read what the operator has set or installed.
NO_TEXT_OF_CALLERS = {"settings", "devices", "loader", "cuda_check", "cuda_probe"}
UNIMPORTED = ("graft.service.app", "graft.service.gpu", "graft.service.inference.cuda")
METHODS = {name: name for name in ("match", "fullmatch", "search")} | dict.fromkeys(
    ("sub", "split", "finditer", "findall"), "search"
)


def sources() -> list[Path]:
    return [path for path in Path(graft.service.__file__).parent.rglob("*.py") if path.stem not in NO_TEXT_OF_CALLERS]


def patterns() -> Iterator[tuple[str, re.Pattern]]:
    """All patterns of the service by module and name."""
    for module in pkgutil.walk_packages(graft.service.__path__, "graft.service."):
        name = module.name.rpartition(".")[2]
        if name not in NO_TEXT_OF_CALLERS and module.name not in UNIMPORTED:
            for constant, value in vars(importlib.import_module(module.name)).items():
                for pattern in patterns_in(value):
                    yield f"{module.name}.{constant}", pattern


def patterns_in(value: object) -> Iterator[re.Pattern]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from patterns_in(item)


def methods_of(name: str) -> set[str]:
    """The methods by which a pattern is used somewhere in the service; all if it has no direct use."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources())
    used = re.findall(rf"\b{name.rpartition('.')[2]}\.(\w+)\(", text)
    return {METHODS[method] for method in used} or set(METHODS.values())


def seconds(function: Callable[[str | bytes], object], text: str | bytes) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.thread_time()
        function(text)
        best = min(best, time.thread_time() - start)
    return best


def slow_text(pattern: re.Pattern, methods: set[str]) -> str:
    """A description of a text for which the time grows faster than its length; "" if none was found."""
    for method, prefix, atom, suffix in product(methods, PREFIXES, ATOMS, SUFFIXES):
        short, long = (prefix + atom * (n // len(atom)) + suffix for n in (SHORT, LONG))
        if isinstance(pattern.pattern, bytes):
            short, long = short.encode(), long.encode()
        function = getattr(pattern, method)
        start = time.thread_time()
        function(long)
        if time.thread_time() - start > IGNORED_S and seconds(function, long) > MAX_RATIO * seconds(function, short):
            return f"{method}({prefix!r} + {atom!r} * n + {suffix!r})"
    return ""


@pytest.mark.parametrize(
    ("name", "pattern"),
    sorted(patterns(), key=lambda found: found[0]),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pattern_takes_linear_time(name, pattern):
    assert slow_text(pattern, methods_of(name)) == ""


@pytest.mark.parametrize("quadratic", [r"[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", rb";?\s+\s*=?!"])
def test_quadratic_pattern_would_be_found(quadratic):
    assert slow_text(re.compile(quadratic), {"fullmatch"})


def test_all_patterns_are_constants_of_a_module():
    """Otherwise the tests above would miss them."""
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.")]
        constants = {part for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) for part in ast.walk(node)}
        assert [ast.unparse(call) for call in calls if call not in constants] == [], path
