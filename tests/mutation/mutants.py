"""Small mistakes that can be made in a module: comparisons, arithmetic, booleans, numbers and calls are exchanged, statements
and conditions removed. Texts, annotations, messages of exceptions and the constants at the top of a module are left alone.
"""

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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
            roots += node.decorator_list
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
