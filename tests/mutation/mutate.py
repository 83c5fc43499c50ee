"""Mutation testing: makes one small mistake at a time in a module and checks that its tests fail.

    .venv/bin/python tests/mutation/mutate.py [MODULE ...] [--sample N] [--seed S]

Without a module, all in `modules.toml` are tested, each with the test files listed there. A mutant that no test notices is a
survivor: a behavior that nothing checks. `equivalent.toml` lists mutants that change nothing that anyone could observe, each
with its reason. The exit code is 1 if more than 10 % of the others survive in any module.

The mistakes are those of mutmut and cosmic-ray: comparisons, arithmetic, booleans, numbers and calls are exchanged, statements
and conditions removed. Texts, annotations, messages of exceptions and the constants at the top of a module are left alone.

Each mutant is tested in a fork of a process that has imported everything that does not depend on the module. A mutant counts
as killed if a test fails, if it cannot be imported, or if its tests take eight times as long as without it.
"""

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MAX_SURVIVORS = 0.1  # share of the mutants that are not equivalent
MIN_TIMEOUT_S, TIMEOUT_FACTOR = 20.0, 8.0  # a mutant may loop forever; the factor is of the time without a mutant
N_PARALLEL = len(os.sched_getaffinity(0))
PRELOADED = {
    "graft",
    "numpy",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "PIL",
    "pydantic",
    "torch",
    "timm",
    "hypothesis",
    "yaml",
    "rich",
}
KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.MatMult: ast.Mult,
}
CALLS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
    "sum": "max",
    "mean": "max",
    "sorted": "list",
}


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        line: number of the line, from 1.
        source: that line, without its indentation.
        change: what was exchanged, such as `Lt -> LtE`; `#2` is the second of the same line.
        tree: of the whole module.
    """

    line: int
    source: str
    change: str
    tree: ast.Module

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.change


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module, from top to bottom."""
    tree, lines, keys = ast.parse(source), source.splitlines(), Counter[tuple[str, str]]()
    ignored = _ignored(tree)
    nodes = [(index, node) for index, node in enumerate(ast.walk(tree)) if hasattr(node, "lineno") and index not in ignored]
    for index, node in sorted(nodes, key=lambda pair: (pair[1].lineno, pair[1].col_offset)):
        for change, apply in _changes(node):
            changed = copy.deepcopy(tree)
            apply(list(ast.walk(changed))[index])
            ast.fix_missing_locations(changed)
            mutant = Mutant(node.lineno, lines[node.lineno - 1].strip(), change, changed)
            keys[mutant.key] += 1
            n = keys[mutant.key]
            yield mutant if n == 1 else replace(mutant, change=f"{change} #{n}")


def _ignored(tree: ast.Module) -> set[int]:
    """Positions in `ast.walk` of nodes that are not mutated."""
    roots: list[ast.AST] = [
        node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            roots += [*filter(None, (node.returns,)), *node.decorator_list]
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            roots.append(node.annotation)
        elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            roots.append(node)
        elif isinstance(node, ast.ClassDef):
            roots += [statement for statement in node.body if isinstance(statement, ast.Assign | ast.AnnAssign)]
    within = {id(child) for root in roots for child in ast.walk(root)}
    return {index for index, node in enumerate(ast.walk(tree)) if id(node) in within}


Change = tuple[str, Callable[[ast.AST], None]]


def _changes(node: ast.AST) -> Iterator[Change]:
    """What can be changed at a node, and functions that change the same node of another tree."""
    if isinstance(node, ast.Compare):
        for position, operator in enumerate(node.ops):
            other = COMPARISONS[type(operator)]
            yield f"{type(operator).__name__} -> {other.__name__}", _setter("ops", other, position)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        other_operator = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} -> {other_operator.__name__}", _setter("op", other_operator)
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} -> {swapped.__name__}", _setter("op", swapped)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield (
            f"without {type(node.op).__name__}",
            _twice if isinstance(node.op, ast.Not | ast.Invert) else _setter("op", ast.UAdd),
        )
    elif isinstance(node, ast.Constant):
        yield from _constant_changes(node)
    elif isinstance(node, ast.Call):
        yield from _call_changes(node)
    yield from _removals(node)


def _removals(node: ast.AST) -> Iterator[Change]:
    """Statements, conditions and filters that can be left out."""
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
        yield "statement removed", _replace_value
    if isinstance(node, ast.AugAssign):
        yield "statement removed", _neutralize
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "condition -> False", _set_test(False)
    if isinstance(node, ast.If | ast.IfExp):
        yield "condition -> True", _set_test(True)
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        for position, generator in enumerate(node.generators):
            if generator.ifs:
                yield "filter removed", _remove_filter(position)


def _twice(node: ast.AST) -> None:
    """Removes `not` and `~` by doubling them: `+mask` would be an error, which any test notices."""
    node.operand = ast.UnaryOp(type(node.op)(), node.operand)  # type: ignore[attr-defined]


def _setter(field: str, value: type, position: int | None = None) -> Callable[[ast.AST], None]:
    def apply(node: ast.AST) -> None:
        if position is None:
            setattr(node, field, value())
        else:
            getattr(node, field)[position] = value()

    return apply


def _constant_changes(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield f"{value} -> {not value}", _set_value(not value)
    elif isinstance(value, int | float):
        yield f"{value} -> {value + 1}", _set_value(value + 1)


def _set_value(value: object) -> Callable[[ast.AST], None]:
    def apply(node: ast.AST) -> None:
        node.value = value  # type: ignore[attr-defined]

    return apply


def _call_changes(node: ast.Call) -> Iterator[Change]:
    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name in CALLS:
        yield f"{name} -> {CALLS[name]}", _rename_call(CALLS[name])
    if name == "abs" and len(node.args) == 1:
        yield "abs removed", _drop_call
    for position, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield f"argument {keyword.arg} removed", _remove_keyword(position)


def _rename_call(name: str) -> Callable[[ast.AST], None]:
    def apply(node: ast.AST) -> None:
        function = node.func  # type: ignore[attr-defined]
        setattr(function, "id" if isinstance(function, ast.Name) else "attr", name)
        if name == "list":  # has no arguments by name
            node.keywords = []  # type: ignore[attr-defined]

    return apply


def _drop_call(node: ast.AST) -> None:
    node.func = ast.parse("lambda value: value", mode="eval").body  # type: ignore[attr-defined]


def _remove_keyword(position: int) -> Callable[[ast.AST], None]:
    def apply(node: ast.AST) -> None:
        del node.keywords[position]  # type: ignore[attr-defined]

    return apply


def _replace_value(node: ast.AST) -> None:
    node.value = ast.Constant(None)  # type: ignore[attr-defined]


def _neutralize(node: ast.AST) -> None:
    """Makes `x += y` a statement without effect: `x += type(x)()` does not work for arrays, so the whole node changes class."""
    node.__class__ = ast.Expr  # type: ignore[assignment]
    node.__dict__.update({"value": ast.Constant(None)})


def _set_test(value: bool) -> Callable[[ast.AST], None]:
    def apply(node: ast.AST) -> None:
        node.test = ast.Constant(value)  # type: ignore[attr-defined]

    return apply


def _remove_filter(position: int) -> Callable[[ast.AST], None]:
    def apply(node: ast.AST) -> None:
        node.generators[position].ifs = []  # type: ignore[attr-defined]

    return apply


class _MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a syntax tree instead of its file."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, *_: object) -> object:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)  # type: ignore[arg-type]

    def exec_module(self, module: object) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def run_tests(name: str, path: Path, tree: ast.Module, tests: Sequence[str], imported: Path | None = None) -> int:
    """Starts the tests of a module in a child process, with another tree of it. Returns the child's process ID.

    Args:
        imported: where the child writes which modules it imported.
    """
    if name in sys.modules:
        raise RuntimeError(f"{name} is already imported, so that no mutant of it would be tested.")
    child = os.fork()
    if child:
        return child
    os.setsid()  # whatever a test starts is killed with it
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(devnull, descriptor)
    import hypothesis
    import pytest

    # The same examples for every mutant, and none of them kept for the next run of the tests.
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")
    sys.meta_path.insert(0, _MutatedModule(name, path, tree))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to import than most tests take to run
    options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain"]
    passed = pytest.main([*options, *tests]) == 0
    if imported:
        imported.write_text("\n".join(sys.modules), encoding="utf-8")
    os._exit(0 if passed else 1)


class _Missing(importlib.abc.MetaPathFinder):
    """Lets the import of one module fail, and so that of all modules that import it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.name:
            raise ImportError(name)


def preload(name: str, modules: Sequence[str]) -> None:
    """Imports all those modules that do not import the module `name`, which must stay unimported."""
    finder = _Missing(name)
    sys.meta_path.insert(0, finder)
    for module in modules:
        if module.split(".")[0] in PRELOADED:
            try:
                importlib.import_module(module)
            except ImportError:  # depends on it
                continue
    sys.meta_path.remove(finder)


def judge(name: str, path: Path, candidates: Sequence[Mutant], tests: Sequence[str], timeout_s: float) -> dict[int, str]:
    """The verdict on each mutant, by its index."""
    waiting, running, verdicts = list(enumerate(candidates)), dict[int, tuple[int, float]](), dict[int, str]()
    while waiting or running:
        while waiting and len(running) < N_PARALLEL:
            index, mutant = waiting.pop(0)
            running[run_tests(name, path, mutant.tree, tests)] = index, time.monotonic()
        for child, (index, started) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                verdicts[index] = SURVIVED if status == 0 else KILLED
                del running[child]
            elif time.monotonic() - started > timeout_s:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                verdicts[index] = TIMED_OUT
                del running[child]
        time.sleep(0.02)
    return verdicts


def run_module(relative: str, tests: Sequence[str], sample: int | None, seed: int, equivalent: set[tuple[str, str]]) -> float:
    """Tests one module and prints its survivors; returns the share of survivors among mutants that are not equivalent."""
    path = ROOT / relative
    name = "graft." + relative.removesuffix(".py").replace("/", ".")
    source = path.read_text(encoding="utf-8")
    timeout_s = prepare(name, path, source, tests)
    every = list(mutants(source))
    for line, change in sorted(equivalent - {mutant.key for mutant in every}):
        sys.exit(f"{relative}: equivalent.toml lists a mutant that does not exist: {change}: {line}")
    candidates = [mutant for mutant in every if mutant.key not in equivalent]
    if sample is not None and len(candidates) > sample:
        candidates = random.Random(seed).sample(candidates, sample)
    verdicts = judge(name, path, candidates, tests, timeout_s)
    counts = Counter(verdicts.values())
    share = counts[SURVIVED] / max(1, len(candidates))
    print(
        f"{relative}: {counts[SURVIVED]} of {len(candidates)} mutants survive ({share:.0%});"
        f" {counts[TIMED_OUT]} took too long, {len(every) - len(candidates)} equivalent or not drawn",
        flush=True,
    )
    for index, mutant in sorted(enumerate(candidates), key=lambda pair: pair[1].line):
        if verdicts[index] == SURVIVED:
            print(f"  {mutant.line}: {mutant.change}: {mutant.source}", flush=True)
    return share


def prepare(name: str, path: Path, source: str, tests: Sequence[str]) -> float:
    """Checks that the tests pass, and that they fail without the module. Returns the time limit of a mutant in seconds."""
    with tempfile.NamedTemporaryFile(mode="r", encoding="utf-8") as file:
        passed, _ = _run_once(name, path, ast.parse(source), tests, Path(file.name))
        if not passed:
            sys.exit(f"{path}: its tests fail without a mutant: {' '.join(tests)}")
        preload(name, file.read().splitlines())
    broken, _ = _run_once(name, path, ast.parse("raise ImportError"), tests)
    if broken:
        sys.exit(f"{path}: its tests pass without the module: {' '.join(tests)}")
    passed, duration_s = _run_once(name, path, ast.parse(source), tests)
    if not passed:
        sys.exit(f"{path}: its tests fail in a process that has imported other modules: {' '.join(tests)}")
    return max(MIN_TIMEOUT_S, TIMEOUT_FACTOR * duration_s)


def _run_once(
    name: str, path: Path, tree: ast.Module, tests: Sequence[str], imported: Path | None = None
) -> tuple[bool, float]:
    """Whether the tests pass, and how many seconds they took."""
    started = time.monotonic()
    _, status = os.waitpid(run_tests(name, path, tree, tests, imported), 0)
    return status == 0, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as training/data/splits.py (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N random mutants per module (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(ROOT))
    modules: dict[str, list[str]] = tomllib.loads((HERE / "modules.toml").read_text(encoding="utf-8"))
    known: dict[str, list[dict[str, str]]] = tomllib.loads((HERE / "equivalent.toml").read_text(encoding="utf-8"))
    selected = {name: modules[name] for name in arguments.modules or modules}
    too_many = False
    for name, tests in selected.items():
        equivalent = {(entry["source"], entry["change"]) for entry in known.get(name, [])}
        # In a child each, because what one module must not import, another one may.
        if (child := os.fork()) == 0:
            share = run_module(name, tests, arguments.sample, arguments.seed, equivalent)
            sys.stdout.flush()
            os._exit(int(share > MAX_SURVIVORS))
        too_many |= os.waitpid(child, 0)[1] != 0
    sys.exit(int(too_many))


if __name__ == "__main__":
    main()
