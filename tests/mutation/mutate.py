"""Mutation testing: makes one small mistake at a time in a module and checks that its tests fail.

    .venv/bin/python tests/mutation/mutate.py [MODULE ...] [--sample N] [--seed S]

Without a module, all in `modules.toml` are tested, each with the test files listed there. A mutant that no test notices is a
survivor: a behavior that nothing checks. `equivalent.toml` lists mutants that change nothing that anyone could observe, each
with its reason. The exit code is 1 if more than 10 % of the others survive in any module.

The mistakes are like those of mutmut and cosmic-ray; `mutants.py` has them all.

Each mutant is tested in a fork of a process that has imported everything that does not depend on the module. A mutant counts
as killed if a test fails, if it cannot be imported, or if its tests take eight times as long as without it.
"""

import argparse
import ast
import atexit
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutants import Mutant, mutants

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


class _FastestFirst:
    """Measures how long tests take, and runs the fastest first: most mutants are then killed at once.

    Attributes:
        durations_s: of each test, by its ID; empty if they were not measured yet.
    """

    def __init__(self, durations_s: Mapping[str, float]) -> None:
        self.durations_s = Counter[str](durations_s)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: self.durations_s[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.durations_s[report.nodeid] += report.duration


@dataclass(frozen=True)
class Baseline:
    """What the tests do without a mutant.

    Attributes:
        modules: those that are imported.
        durations_s: of each test, by its ID.
    """

    modules: Sequence[str] = ()
    durations_s: Mapping[str, float] = field(default_factory=dict)


def run_tests(
    name: str, path: Path, tree: ast.Module, tests: Sequence[str], baseline: Baseline, record: Path | None = None
) -> int:
    """Starts the tests of a module in a child process, with another tree of it. Returns the child's process ID.

    Args:
        record: where the child writes the baseline.
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
    order = _FastestFirst(baseline.durations_s)
    passed = pytest.main([*options, *tests], plugins=[order]) == 0
    if record:
        record.write_text(json.dumps({"modules": [*sys.modules], "durations_s": order.durations_s}), encoding="utf-8")
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


def judge(
    name: str, path: Path, candidates: Sequence[Mutant], tests: Sequence[str], baseline: Baseline, timeout_s: float
) -> dict[int, str]:
    """The verdict on each mutant, by its index."""
    waiting, running, verdicts = list(enumerate(candidates)), dict[int, tuple[int, float]](), dict[int, str]()
    while waiting or running:
        while waiting and len(running) < N_PARALLEL:
            index, mutant = waiting.pop(0)
            running[run_tests(name, path, mutant.tree, tests, baseline)] = index, time.monotonic()
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
    baseline, timeout_s = prepare(name, path, source, tests)
    every = list(mutants(source))
    for line, change in sorted(equivalent - {mutant.key for mutant in every}):
        sys.exit(f"{relative}: equivalent.toml lists a mutant that does not exist: {change}: {line}")
    candidates = [mutant for mutant in every if mutant.key not in equivalent]
    if sample is not None and len(candidates) > sample:
        candidates = random.Random(seed).sample(candidates, sample)
    verdicts = judge(name, path, candidates, tests, baseline, timeout_s)
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


def prepare(name: str, path: Path, source: str, tests: Sequence[str]) -> tuple[Baseline, float]:
    """Checks that the tests pass, and that they fail without the module. Returns also the time limit of a mutant in seconds."""
    with tempfile.NamedTemporaryFile(mode="r", encoding="utf-8") as file:
        passed, _ = _run_once(name, path, ast.parse(source), tests, Baseline(), Path(file.name))
        if not passed:
            sys.exit(f"{path}: its tests fail without a mutant: {' '.join(tests)}")
        baseline = Baseline(**json.load(file))
    preload(name, baseline.modules)
    broken, _ = _run_once(name, path, ast.parse("raise ImportError"), tests, baseline)
    if broken:
        sys.exit(f"{path}: its tests pass without the module: {' '.join(tests)}")
    passed, duration_s = _run_once(name, path, ast.parse(source), tests, baseline)
    if not passed:
        sys.exit(f"{path}: its tests fail in another order, or after other imports: {' '.join(tests)}")
    return baseline, max(MIN_TIMEOUT_S, TIMEOUT_FACTOR * duration_s)


def _run_once(
    name: str, path: Path, tree: ast.Module, tests: Sequence[str], baseline: Baseline, record: Path | None = None
) -> tuple[bool, float]:
    """Whether the tests pass, and how many seconds they took."""
    started = time.monotonic()
    _, status = os.waitpid(run_tests(name, path, tree, tests, baseline, record), 0)
    return status == 0, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as training/data/splits.py (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N random mutants per module (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    # Each run of pytest removes the oldest temporary folders of others, which another test run may still use.
    os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(prefix="graft-mutants-")
    atexit.register(shutil.rmtree, os.environ["PYTEST_DEBUG_TEMPROOT"], ignore_errors=True)
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
