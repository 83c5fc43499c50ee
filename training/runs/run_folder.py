"""What is written down in a run's folder, and whether a later start means the same run.

`run.json` says what was started, `recipe.yaml` with which choices, `splits.csv` which image went where, `plan.json` what was
decided on the way. Each is whole or not there. A run counts as begun once `splits.csv` is there.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import say

T = TypeVar("T")
Row = tuple[str, object, object]

RUN, RECIPE, SPLITS, PLAN, PACKAGE = "run.json", "recipe.yaml", "splits.csv", "plan.json", "package"


class RunError(ValueError):
    """A run's folder cannot be used for what was asked."""


class RunDiffers(RunError):
    """A run cannot be gone on with, because something is not as it was when it began."""

    def __init__(self, path: Path, rows: Iterable[Row]) -> None:
        way = "Give back what it began with, or begin another run: leave out --resume and choose another --out."
        super().__init__(f"{path} began with something else:\n{table(rows)}\n{way}")


@dataclass(frozen=True)
class Folder:
    """A run's folder, held by this process alone.

    Attributes:
        like: another run, whose splits and decisions are repeated here.
    """

    path: Path
    like: Path | None = None

    def decided(self, name: str, make: Callable[[], T]) -> T:
        """A decision that was made once, by measuring a time perhaps, and is repeated ever after.

        Args:
            make: gives it, as something that JSON can hold, where it was not made yet.
        """
        if name not in read(self.path / PLAN):
            earlier = read(self.like / PLAN) if self.like else {}
            made = earlier[name] if name in earlier else make()
            atomic_files.write(self.path / PLAN, to_json(read(self.path / PLAN) | {name: made}))  # `make` may have decided too
        decided: T = read(self.path / PLAN)[name]  # read back: of the same type, whether just made or not
        return decided

    def agree(self, facts: dict[str, object]) -> None:
        """Writes down what a run depends on, or compares it with what was written down when it began.

        Raises:
            RunDiffers: with a table of the differences.
        """
        before = self.decided("facts", lambda: facts)
        now = json.loads(json.dumps(facts))
        if rows := [(name, before.get(name), now.get(name)) for name in {**before, **now} if before.get(name) != now.get(name)]:
            raise RunDiffers(self.like or self.path, rows)

    def splits(self, dataset: Dataset) -> Splits | None:
        """The recorded splits, of the very images that were recorded; None where nothing was yet.

        Raises:
            RunDiffers: if an image is missing, or changed, or has another label now.
        """
        recorded = next((folder / SPLITS for folder in (self.path, self.like) if folder and (folder / SPLITS).exists()), None)
        if recorded is None:
            return None
        now = {sample.path: sample for sample in dataset.samples}
        parts: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
        changed: list[Row] = []
        with recorded.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            sample = now.pop(row["path"], None)
            if row["split"] not in parts:  # left out then, and again
                continue
            found = (_label(dataset, sample), sample.digest.hex()) if sample else None
            if sample is None or found != (row["label"], row["sha256"]):
                changed.append((row["path"], _shown(row["label"], row["sha256"]), _shown(*found) if found else "missing"))
            else:
                parts[row["split"]].append(sample)
        changed += [(path, "not there", _shown(_label(dataset, sample), sample.digest.hex())) for path, sample in now.items()]
        if changed:
            raise RunDiffers(recorded.parent, changed)
        return Splits(*map(tuple, parts.values()))

    def record(self, dataset: Dataset, splits: Splits, left_out: dict[str, str]) -> None:
        """`splits.csv`: which image went where, by content. From here on the run counts as begun; what is there stays.

        Args:
            left_out: why, by path.
        """
        if (self.path / SPLITS).exists():
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "label", "split", "sha256"])
        for name, samples in splits.named().items():
            writer.writerows([sample.path, _label(dataset, sample), name, sample.digest.hex()] for sample in samples)
        writer.writerows([path, "", f"left out: {reason}", ""] for path, reason in sorted(left_out.items()))
        atomic_files.write(self.path / SPLITS, text.getvalue())


def recorded_recipe(path: Path, given: dict[str, Any]) -> Recipe:
    """The recipe that a run began with.

    Args:
        given: choices made now; each must be the one made then.

    Raises:
        RunDiffers: if one is not.
    """
    if not (path / RECIPE).is_file():
        say(f"nothing was recorded in {path} yet: beginning with the choices made here")
        return Recipe.model_validate(given)
    before = Recipe.load(path / RECIPE, {}).model_dump()
    now = Recipe.load(path / RECIPE, given).model_dump()
    if rows := [(f"--{name.replace('_', '-')}", before[name], now[name]) for name in now if before[name] != now[name]]:
        raise RunDiffers(path, rows)
    return Recipe.model_validate(before)


def table(rows: Iterable[Row], most: int = 10) -> str:
    """Differences for a person: what, before, now; the first few, and how many more there are."""
    lines = [("", "before", "now"), *((name, str(before), str(now)) for name, before, now in rows)]
    shown = lines[: most + 1]
    widths = [max(len(line[column]) for line in shown) for column in (0, 1)]
    text = [f"  {name:<{widths[0]}}  {before:<{widths[1]}}  {now}" for name, before, now in shown]
    return "\n".join(text + ([f"  and {len(lines) - len(shown):,} more"] if len(lines) > len(shown) else []))


def _label(dataset: Dataset, sample: Sample) -> str:
    return "|".join(dataset.labels[label] for label in sample.labels)


def _shown(label: str, digest: str) -> str:
    return f"{label}, sha256 {digest[:12]}…"


def read(path: Path) -> dict[str, Any]:
    """A JSON object on disk; empty where there is none. Raises RunError if it is damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}. Begin another run.") from None
    return content


def to_json(content: object) -> str:
    """JSON for people to read too."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
