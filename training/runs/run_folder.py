"""Files of a run folder, and checks that a resumed run is the same run.

`run.json` has the metadata, `recipe.yaml` the options, `splits.csv` the split of each image, and `plan.json` the decisions made
during the run. All are written atomically. A run counts as started once `splits.csv` exists.
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
    """A run folder cannot be used for the requested operation."""


class RunDiffers(RunError):
    """A run cannot be resumed, because its inputs have changed since it started."""

    def __init__(self, path: Path, rows: Iterable[Row]) -> None:
        remedy = "Restore the original inputs, or start a new run without --resume and with another --out."
        super().__init__(f"{path} was started with different inputs:\n{table(rows)}\n{remedy}")


@dataclass(frozen=True)
class Folder:
    """A run folder that this process has locked.

    Attributes:
        replay_of: another run; its splits and decisions are repeated here.
    """

    path: Path
    like: Path | None = None

    def decided(self, name: str, make: Callable[[], T]) -> T:
        """Returns a decision of this run. It is made once, for example from a measured time, and reused after a resume.

        Args:
            make: makes the decision; returns a JSON-serializable value.
        """
        if name not in read(self.path / PLAN):
            original = read(self.like / PLAN) if self.like else {}
            value = original[name] if name in original else make()
            # Read again, because `make` may have recorded other decisions.
            atomic_files.write(self.path / PLAN, to_json(read(self.path / PLAN) | {name: value}))
        decision: T = read(self.path / PLAN)[name]  # read back, so that its type is the same as after a resume
        return decision

    def agree(self, facts: dict[str, object]) -> None:
        """Records the inputs of the run, or compares them with the recorded ones.

        Raises:
            RunMismatchError: with a table of the differences.
        """
        recorded = self.decided("facts", lambda: facts)
        current = json.loads(json.dumps(facts))
        names = {**recorded, **current}
        if rows := [(name, recorded.get(name), current.get(name)) for name in names if recorded.get(name) != current.get(name)]:
            raise RunDiffers(self.like or self.path, rows)

    def splits(self, dataset: Dataset) -> Splits | None:
        """Loads the recorded splits; None if there are none.

        Raises:
            RunMismatchError: if an image is missing, has changed, or has another label.
        """
        recorded = next((folder / SPLITS for folder in (self.path, self.like) if folder and (folder / SPLITS).exists()), None)
        if recorded is None:
            return None
        unmatched = {sample.path: sample for sample in dataset.samples}
        by_split: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
        changed: list[Row] = []
        with recorded.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            sample = unmatched.pop(row["path"], None)
            if row["split"] not in by_split:  # excluded images stay excluded
                continue
            current = (_label(dataset, sample), sample.digest.hex()) if sample else None
            if sample is None or current != (row["label"], row["sha256"]):
                changed.append((row["path"], _shown(row["label"], row["sha256"]), _shown(*current) if current else "missing"))
            else:
                by_split[row["split"]].append(sample)
        changed += [
            (path, "missing", _shown(_label(dataset, sample), sample.digest.hex())) for path, sample in unmatched.items()
        ]
        if changed:
            raise RunDiffers(recorded.parent, changed)
        return Splits(*map(tuple, by_split.values()))

    def record(self, dataset: Dataset, splits: Splits, left_out: dict[str, str]) -> None:
        """Writes `splits.csv`, which marks the run as started. Keeps an existing file.

        Args:
            excluded: reasons for exclusion, by path.
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
    """Loads the recipe of a run.

    Args:
        options: current options; each must equal the recorded one.

    Raises:
        RunMismatchError: if an option differs.
    """
    if not (path / RECIPE).is_file():
        say(f"{path} has no recorded recipe: using the current options")
        return Recipe.model_validate(given)
    recorded = Recipe.load(path / RECIPE, {}).model_dump()
    current = Recipe.load(path / RECIPE, given).model_dump()
    changed = [name for name in current if recorded[name] != current[name]]
    if changed:
        raise RunDiffers(path, [(f"--{name.replace('_', '-')}", recorded[name], current[name]) for name in changed])
    return Recipe.model_validate(recorded)


def table(rows: Iterable[Row], most: int = 10) -> str:
    """Formats differences as a text table with the columns name, before and now."""
    lines = [("", "before", "now"), *((name, str(before), str(now)) for name, before, now in rows)]
    visible = lines[: most + 1]
    widths = [max(len(line[column]) for line in visible) for column in (0, 1)]
    text = [f"  {name:<{widths[0]}}  {before:<{widths[1]}}  {now}" for name, before, now in visible]
    return "\n".join(text + ([f"  and {len(lines) - len(visible):,} more"] if len(lines) > len(visible) else []))


def _label(dataset: Dataset, sample: Sample) -> str:
    return "|".join(dataset.labels[label] for label in sample.labels)


def _shown(label: str, digest: str) -> str:
    return f"{label}, sha256 {digest[:12]}…"


def read(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty if the file does not exist. Raises RunError if it is invalid."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{path} is corrupt: {error}. Start a new run.") from None
    return content


def to_json(content: object) -> str:
    """Serializes to indented JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
