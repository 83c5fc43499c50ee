"""`graft fit --replay`: repeats a run with its recipe, splits and decisions, and lists the differences.

On a CPU all metrics and weights must be equal. On a GPU they must be within a tolerance.
"""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.manifest import MANIFEST, PACKAGE, WEIGHTS
from graft.training.config.recipe import Recipe
from graft.training.pipelines import fit
from graft.training.pipelines.fit import FitResult
from graft.training.runs.lifecycle import is_finished
from graft.training.runs.run_folder import RUN, Row, RunError, load_recipe, read_json, run_of
from graft.training.runtime import gpu
from graft.training.runtime.progress import log

TOLERANCE = 1e-6  # relative and absolute, for metrics and weights: rounding in text
# The same card with the same driver repeats a run exactly, except for the few operations without a deterministic algorithm.
# They, another driver or another card change the last of the 8 bits of a bfloat16 number, 0.004 of it. A point of accuracy and
# 0.01 nats of log-loss are less than any interval here.
GPU_TOLERANCE = 1e-2
# Manifest fields that identify a package; file digests depend on the time of packaging.
IDENTITY_FIELDS = {"name", "version", "created", "sha256", "files", "libraries"}


class Replay(NamedTuple):
    """A repeated run.

    Attributes:
        differences: the metrics and weights that differ by more than the tolerance.
        tolerance: relative and absolute.
    """

    result: FitResult
    differences: list[Row]
    tolerance: float

    @property
    def is_exact(self) -> bool:
        """Whether equal numbers were asked for; otherwise the numbers may differ within the tolerance."""
        return self.tolerance == TOLERANCE


def replay(data: Path, out: Path | None, before: Path, recipe: Recipe) -> Replay:
    """Repeats the run `before` in a new folder; returns the result and every difference.

    Args:
        recipe: every option that it sets must equal the recorded one.

    Raises:
        RunError: if `before` is unfinished or its inputs have changed; also everything that `fit.fit` raises.
    """
    before = run_of(before)
    if not is_finished(before):
        raise RunError(f"{before} is not a finished run, so there is nothing to compare with.")
    recorded = load_recipe(before, recipe.model_dump(exclude_unset=True))
    result = fit.fit(data, out, recorded, replay_of=before)
    _warn_about_machines(before, result.run)
    return Replay(result, differences(before, result.run), tolerance(before, result.run))


def tolerance(before: Path, after: Path) -> float:
    """The difference that is allowed between two runs: 0.000001, or 0.01 if one of them used a GPU."""
    used_gpu = any(_machine(run).get("device") == "cuda" for run in (before, after))
    return GPU_TOLERANCE if used_gpu else TOLERANCE


def _machine(run: Path) -> dict[str, str]:
    machine: dict[str, str] = read_json(run / RUN).get("machine", {})
    return machine


def _warn_about_machines(before: Path, after: Path) -> None:
    """Says if the two runs used other devices, cards or drivers."""
    first, second = _machine(before), _machine(after)
    if first and first != second:
        log(
            f"warning: {before} used {gpu.describe_machine(first)}, and this run {gpu.describe_machine(second)}: numbers within"
            f" {tolerance(before, after):g} of each other count as the same"
        )


def differences(before: Path, after: Path) -> list[Row]:
    """The metrics and weights that differ between two finished runs by more than the tolerance: (name, before, after)."""
    allowed = tolerance(before, after)
    metrics = _changed_metrics(dict(_metrics(before)), dict(_metrics(after)), allowed)
    return [*metrics, *_weight_differences(before / PACKAGE / WEIGHTS, after / PACKAGE / WEIGHTS, allowed)]


def _changed_metrics(before: dict[str, Any], after: dict[str, Any], allowed: float) -> list[Row]:
    names = list(dict.fromkeys(chain(before, after)))
    pairs = [(name, before.get(name), after.get(name)) for name in names]
    return [(name, old, new) for name, old, new in pairs if not _is_close(old, new, allowed)]


def _is_close(before: Any, after: Any, allowed: float) -> bool:
    if isinstance(before, (int, float)) and isinstance(after, (int, float)):
        return bool(np.isclose(before, after, rtol=allowed, atol=allowed, equal_nan=True))
    return bool(before == after)


def _metrics(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields all metrics of a run by name."""
    manifest = json.loads((path / PACKAGE / MANIFEST).read_text(encoding="utf-8"))
    yield from _flatten("package", {name: value for name, value in manifest.items() if name not in IDENTITY_FIELDS})
    for name in ("evaluation", "strategies"):
        if (path / f"{name}.json").exists():
            yield from _flatten(name, json.loads((path / f"{name}.json").read_text(encoding="utf-8")))
    for table in sorted(path.rglob("metrics.csv")):
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                epoch = str(table.parent.relative_to(path) / f"epoch {row['epoch']}")
                yield from ((f"{epoch} {name}", float(value) if value else None) for name, value in row.items())


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Flattens a JSON value into (dotted path, scalar) pairs; skips `seconds`, which is not a metric."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "seconds":
                yield from _flatten(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flatten(f"{name}.{index}", inner)
    else:
        yield name, value


def _weight_differences(before: Path, after: Path, allowed: float) -> Iterator[Row]:
    from safetensors.numpy import load_file

    first, second = load_file(before), load_file(after)
    for name in sorted(first.keys() | second.keys()):
        old, new = first.get(name), second.get(name)
        if old is None or new is None or old.shape != new.shape:
            yield name, _format_shape(old), _format_shape(new)
        elif (difference := float(np.abs(old.astype(np.float64) - new).max(initial=0))) > allowed:
            yield name, "0", f"max difference {difference:.2g}"


def _format_shape(tensor: NDArray[Any] | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape))
