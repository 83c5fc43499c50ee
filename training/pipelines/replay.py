"""`graft fit --replay`: repeats a run with its recipe, splits and decisions, and lists the differences."""

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.service.manifest import MANIFEST, PACKAGE, WEIGHTS
from graft.training.config.recipe import Recipe
from graft.training.pipelines import fit
from graft.training.pipelines.fit import FitResult
from graft.training.runs.lifecycle import is_finished
from graft.training.runs.run_folder import Row, RunError, load_recipe, run_of

TOLERANCE = 1e-6  # relative and absolute, for metrics and weights
# Manifest fields that identify a package; file digests depend on the time of packaging.
IDENTITY_FIELDS = {"name", "version", "created", "sha256", "files", "libraries"}


def replay(data: Path, out: Path | None, before: Path, recipe: Recipe) -> tuple[FitResult, list[Row]]:
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
    return result, differences(before, result.run)


def differences(before: Path, after: Path) -> list[Row]:
    """The metrics and weights that differ between two finished runs: (name, before, after)."""
    metrics = _changed_metrics(dict(_metrics(before)), dict(_metrics(after)))
    return [*metrics, *_weight_differences(before / PACKAGE / WEIGHTS, after / PACKAGE / WEIGHTS)]


def _changed_metrics(before: dict[str, Any], after: dict[str, Any]) -> list[Row]:
    names = list(dict.fromkeys(chain(before, after)))
    return [(name, before.get(name), after.get(name)) for name in names if not _is_close(before.get(name), after.get(name))]


def _is_close(before: Any, after: Any) -> bool:
    if isinstance(before, (int, float)) and isinstance(after, (int, float)):
        return bool(np.isclose(before, after, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
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


def _weight_differences(before: Path, after: Path) -> Iterator[Row]:
    from safetensors.numpy import load_file

    first, second = load_file(before), load_file(after)
    for name in sorted(first.keys() | second.keys()):
        old, new = first.get(name), second.get(name)
        if old is None or new is None or old.shape != new.shape:
            yield name, _format_shape(old), _format_shape(new)
        elif (difference := float(np.abs(old.astype(np.float64) - new).max(initial=0))) > TOLERANCE:
            yield name, "0", f"max difference {difference:.2g}"


def _format_shape(tensor: NDArray[Any] | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape))
