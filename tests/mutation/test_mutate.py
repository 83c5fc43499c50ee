"""The mutation tests' own test: on a small module, with tests that check it and with tests that do not."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULE = '''"""Ages."""


def is_adult(age: int) -> bool:
    return age >= 18
'''
GOOD = """
def test_age_limit():
    assert (is_adult(17), is_adult(18), is_adult(19)) == (False, True, True)
"""
BAD = """
def test_age_limit():
    assert (is_adult(5), is_adult(50)) == (False, True)
"""
IMPORT = "from graft.training.ages import is_adult\n"


@pytest.fixture
def project(tmp_path):
    """Creates a project with one module, the given test of it, and the given equivalent mutants; returns the tool's copy."""

    def create(test: str, equivalent: str = "") -> Path:
        for folder in ("training", "tests/mutation"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "graft").mkdir()
        (tmp_path / "graft" / "training").symlink_to("../training")
        (tmp_path / "training" / "ages.py").write_text(MODULE)
        (tmp_path / "tests" / "test_ages.py").write_text(test)
        (tmp_path / "tests" / "mutation" / "modules.toml").write_text('"training/ages.py" = ["tests/test_ages.py"]\n')
        (tmp_path / "tests" / "mutation" / "equivalent.toml").write_text(equivalent)
        for name in ("mutants.py", "mutate.py"):
            (tmp_path / "tests" / "mutation" / name).write_bytes((HERE / name).read_bytes())
        return tmp_path / "tests" / "mutation" / "mutate.py"

    return create


@pytest.fixture
def mutants(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module("mutants").mutants


def mutate(tool: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, tool], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout


def test_no_mutant_survives_tests_of_the_limit(project):
    assert mutate(project(IMPORT + GOOD)) == (
        0,
        "training/ages.py: 0 of 2 mutants survive (0%); 0 took too long, 0 equivalent or not drawn\n",
    )


def test_mutants_that_no_test_notices_are_named(project):
    status, output = mutate(project(IMPORT + BAD))
    assert status == 1
    assert output.splitlines() == [
        "training/ages.py: 2 of 2 mutants survive (100%); 0 took too long, 0 equivalent or not drawn",
        "  5: GtE -> Gt: return age >= 18",
        "  5: 18 -> 19: return age >= 18",
    ]


def test_equivalent_mutants_are_left_out(project):
    entries = (f'{{source = "return age >= 18", change = "{change}", reason = "x"}}' for change in ("GtE -> Gt", "18 -> 19"))
    status, output = mutate(project(IMPORT + BAD, f'"training/ages.py" = [{", ".join(entries)}]'))
    assert (status, output.split(";")[0]) == (0, "training/ages.py: 0 of 0 mutants survive (0%)")


def test_equivalent_mutant_that_does_not_exist_is_refused(project):
    entry = '"training/ages.py" = [{source = "return age > 18", change = "Gt -> GtE", reason = "x"}]'
    status, output = mutate(project(IMPORT + GOOD, entry))
    assert status == 1
    assert "lists a mutant that does not exist: Gt -> GtE: return age > 18" in output


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("def is_adult(age):\n    return age >= 18\n" + GOOD, "its tests pass without the module"),
        (IMPORT + GOOD.replace("17", "18"), "its tests fail without a mutant"),
    ],
)
def test_tests_that_cannot_judge_are_refused(project, test, message):
    status, output = mutate(project(test))
    assert status == 1
    assert message in output


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("f(x) and y", ["f(x) or y"]),
        ("a - 2", ["a + 2", "a - 3"]),
        ("~mask", ["~~mask"]),
        ("not x", ["not not x"]),
        ("-x", ["+x"]),
        ("np.abs(x)", ["(lambda value: value)(x)"]),
        ("sorted(x, key=f)", ["list(x)", "sorted(x)"]),
        ("a if b else c", ["a if False else c", "a if True else c"]),
        ("[x for x in y if x]", ["[x for x in y]"]),
        ("f(x, axis=1)", ["f(x)", "f(x, axis=2)"]),
        ("'text' + f'{a - b}'", ["'text' - f'{a - b}'"]),
    ],
)
def test_mutants_of_an_expression(mutants, source, expected):
    found = [ast.unparse(mutant.tree).split("return ")[1] for mutant in mutants(f"def f():\n    return {source}\n")]
    assert found == expected


def test_equal_mutants_of_a_line_are_numbered(mutants):
    changes = [mutant.change for mutant in mutants("def f():\n    return 1 < 2 < 1\n")]
    assert changes == ["Lt -> LtE", "Lt -> LtE #2", "1 -> 2", "2 -> 3", "1 -> 2 #2"]


def test_constants_imports_annotations_and_messages_are_left_alone(mutants):
    source = """
import a
N = 1
class C:
    m: int = 1
def f(x: A[1]) -> B[2]:
    raise ValueError(1 + 1)
"""
    assert list(mutants(source)) == []
