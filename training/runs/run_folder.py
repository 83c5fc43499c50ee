"""Files of a run folder, and checks that a resumed run is the same run.

`run.json` has the metadata, `recipe.yaml` the options, `splits.csv` the split of each image, and `decisions.json` the decisions
made during the run. All are written atomically. A run counts as started once `splits.csv` exists.
"""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from graft.service.manifest import MANIFEST, PACKAGE
from graft.training.config.recipe import Recipe, option_flag
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import log
from graft.training.runtime.spreadsheet import SpreadsheetWriter, restore

T = TypeVar("T")
Row = tuple[str, object, object]

RUNS = Path("runs")  # in the current folder
TEMPORARY_PREFIX = ".temporary-"  # of folders in a run folder
RUN, RECIPE, SPLITS, DECISIONS = "run.json", "recipe.yaml", "splits.csv", "decisions.json"


class RunError(ValueError):
    """A run folder cannot be used for the requested operation."""


class RunMismatchError(RunError):
    """A run cannot be resumed, because its inputs have changed since it started."""

    def __init__(self, path: Path, rows: Iterable[Row]) -> None:
        remedy = "Restore the original inputs, or start a new run without --resume and with another --out."
        super().__init__(f"{path} was started with different inputs:\n{format_differences(rows)}\n{remedy}")


def run_of(path: Path) -> Path:
    """The run that a path stands for: the path itself, or the run of a package.

    Raises:
        RunError: if the path is a package outside of a run.
    """
    if not (path / MANIFEST).is_file():
        return path
    if path.name != PACKAGE or not (path.parent / RUN).is_file():
        raise RunError(f"{path} is a package without its run. It can be served with: graft serve {path}")
    return path.parent


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this process has locked.

    Attributes:
        replay_of: another run; its splits and decisions are repeated here.
    """

    path: Path
    replay_of: Path | None = None

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A new folder for the time of the context; if the process is killed, the run removes it when it is resumed."""
        with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=self.path) as folder:
            yield Path(folder)

    def decide_once(self, name: str, make: Callable[[], T]) -> T:
        """Returns a decision of this run. It is made once, for example from a measured time, and reused after a resume.

        Args:
            make: makes the decision; returns a JSON-serializable value.
        """
        if name not in read_json(self.path / DECISIONS):
            original = read_json(self.replay_of / DECISIONS) if self.replay_of else {}
            value = original[name] if name in original else make()
            # Read again, because `make` may have recorded other decisions.
            atomic_files.write_text(self.path / DECISIONS, to_json(read_json(self.path / DECISIONS) | {name: value}))
        decision: T = read_json(self.path / DECISIONS)[name]  # read back, so that its type is the same as after a resume
        return decision

    def check_fingerprint(self, fingerprint: dict[str, object]) -> None:
        """Records the inputs of the run, or compares them with the recorded ones.

        Raises:
            RunMismatchError: with a table of the differences.
        """
        recorded = self.decide_once("facts", lambda: fingerprint)
        current = json.loads(json.dumps(fingerprint))
        names = {**recorded, **current}
        if rows := [(name, recorded.get(name), current.get(name)) for name in names if recorded.get(name) != current.get(name)]:
            raise RunMismatchError(self.replay_of or self.path, rows)

    def load_splits(self, dataset: Dataset) -> Splits | None:
        """Loads the recorded splits; None if there are none.

        Raises:
            RunMismatchError: if an image is missing, has changed, or has another label.
        """
        recorded = next(
            (folder / SPLITS for folder in (self.path, self.replay_of) if folder and (folder / SPLITS).exists()), None
        )
        if recorded is None:
            return None
        unmatched = {sample.path: sample for sample in dataset.samples}
        by_split: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
        changed: list[Row] = []
        with recorded.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row |= {name: restore(row[name] or "") for name in ("path", "label")}
            sample = unmatched.pop(row["path"], None)
            if row["split"] not in by_split:  # excluded images stay excluded
                continue
            current = (_label_text(dataset, sample), sample.digest.hex()) if sample else None
            if sample is None or current != (row["label"], row["sha256"]):
                changed.append(
                    (
                        row["path"],
                        _describe_image(row["label"], row["sha256"]),
                        _describe_image(*current) if current else "missing",
                    )
                )
            else:
                by_split[row["split"]].append(sample)
        changed += [
            (path, "missing", _describe_image(_label_text(dataset, sample), sample.digest.hex()))
            for path, sample in unmatched.items()
        ]
        if changed:
            raise RunMismatchError(recorded.parent, changed)
        return Splits(*map(tuple, by_split.values()))

    def write_splits(self, dataset: Dataset, splits: Splits, excluded: dict[str, str]) -> None:
        """Writes `splits.csv`, which marks the run as started. Keeps an existing file.

        Args:
            excluded: reasons for exclusion, by path.
        """
        if (self.path / SPLITS).exists():
            return
        text = io.StringIO()
        writer = SpreadsheetWriter(text, "\n")
        writer.write("path", "label", "split", "sha256")
        for name, samples in splits.to_dict().items():
            writer.write_all((sample.path, _label_text(dataset, sample), name, sample.digest.hex()) for sample in samples)
        writer.write_all((path, "", f"excluded: {reason}", "") for path, reason in sorted(excluded.items()))
        atomic_files.write_text(self.path / SPLITS, text.getvalue())


def load_recipe(path: Path, options: dict[str, Any]) -> Recipe:
    """Loads the recipe of a run.

    Args:
        options: current options; each must equal the recorded one.

    Raises:
        RunMismatchError: if an option differs.
    """
    if not (path / RECIPE).is_file():
        log(f"{path} has no recorded recipe: using the current options")
        return Recipe.model_validate(options)
    recorded = Recipe.load(path / RECIPE, {}).model_dump()
    current = Recipe.load(path / RECIPE, options).model_dump()
    changed = [name for name in current if recorded[name] != current[name]]
    if changed:
        raise RunMismatchError(path, [(option_flag(name), recorded[name], current[name]) for name in changed])
    return Recipe.model_validate(recorded)


def format_differences(rows: Iterable[Row], max_rows: int = 10) -> str:
    """Formats differences as a text table with the columns name, before and now."""
    lines = [("", "before", "now"), *((name, str(before), str(now)) for name, before, now in rows)]
    visible = lines[: max_rows + 1]
    widths = [max(len(line[column]) for line in visible) for column in (0, 1)]
    text = [f"  {name:<{widths[0]}}  {before:<{widths[1]}}  {now}" for name, before, now in visible]
    return "\n".join(text + ([f"  and {len(lines) - len(visible):,} more"] if len(lines) > len(visible) else []))


def _label_text(dataset: Dataset, sample: Sample) -> str:
    return "|".join(dataset.labels[label] for label in sample.labels)


def _describe_image(label: str, digest: str) -> str:
    return f"{label}, sha256 {digest[:12]}…"


def read_json(path: Path) -> dict[str, Any]:
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
