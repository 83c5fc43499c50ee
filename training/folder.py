"""The folder of a run: whose it is, what is written down there, and whether a later start means the same run.

`run.json` says what was started, `recipe.yaml` with which choices, `splits.csv` which image went where, `plan.json` what was
decided on the way. Each is whole or not there. A run counts as begun once `splits.csv` is there.
"""

import csv
import errno
import fcntl
import io
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from service.artifact import MANIFEST
from training import durable
from training.dataset import Dataset, Sample
from training.progress import say
from training.recipe import Recipe
from training.splits import Splits

T = TypeVar("T")
Row = tuple[str, object, object]

RUNS = Path("runs")
RUN, RECIPE, SPLITS, PLAN, PACKAGE, LOCK = "run.json", "recipe.yaml", "splits.csv", "plan.json", "package", ".lock"
ORPHANS = (".package-*", ".onnx-*")
LIBRARIES = ("graft-vision", "torch", "timm", "pytorch-lightning", "albumentations", "scikit-learn", "openvino", "numpy")


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
        decisions = _read(self.path / PLAN)
        if name not in decisions:
            earlier = _read(self.like / PLAN) if self.like else {}
            decisions[name] = earlier[name] if name in earlier else make()
            durable.write(self.path / PLAN, _json(decisions))
        decided: T = json.loads(json.dumps(decisions[name]))  # of the same type, whether just made or read
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
        path = next((folder / SPLITS for folder in (self.path, self.like) if folder and (folder / SPLITS).exists()), None)
        if path is None:
            return None
        now = {sample.path: sample for sample in dataset.samples}
        parts: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
        changed: list[Row] = []
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] in parts]
        for row in rows:
            sample = now.pop(row["path"], None)
            found = (_label(dataset, sample), sample.digest.hex()) if sample else None
            if sample is None or found != (row["label"], row["sha256"]):
                changed.append((row["path"], _shown(row["label"], row["sha256"]), _shown(*found) if found else "missing"))
            else:
                parts[row["split"]].append(sample)
        if changed:
            raise RunDiffers(path.parent, changed)
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
        durable.write(self.path / SPLITS, text.getvalue())

    def finish(self) -> None:
        """Marks the run as finished, and lets `runs/latest` lead to it; that is what `bentoml serve` serves."""
        _point_latest(self.path)
        durable.write(self.path / RUN, _json(_read(self.path / RUN) | {"finished": _now()}))


@contextmanager
def opened(
    out: Path | None, data: Path, recipe: Recipe, resume: bool = False, like: Path | None = None
) -> Iterator[Folder]:
    """A run's folder, new or gone on with, held by this process alone until the block ends.

    A folder in which nothing was begun is not left behind by an error; at Ctrl-C and SIGTERM it stays.

    Raises:
        RunError: if it holds another run, lies inside the data, or another process is at it.
        OSError: if it cannot be written.
    """
    path = out or _fresh(data)
    check(path, data)
    path.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if not resume and (path / SPLITS).exists():
            raise RunError(f"{path} holds a run already. Go on with it by --resume, or choose another --out.")
        _tidy(path)
        if not resume or not (path / RUN).exists():
            _begin(path, data, recipe, like)
        began = _read(path / RUN)
        _warn_of_other_versions(began)
        try:
            yield Folder(path, Path(began["like"]) if began.get("like") else None)
        except (KeyboardInterrupt, SystemExit):
            say(f"go on with: graft fit {shlex.quote(str(data))} --out {shlex.quote(str(path))} --resume")
            raise
        except Exception:
            if not (path / SPLITS).exists():
                _forget(path)
            raise


def check(path: Path, data: Path) -> None:
    """Refuses a run's folder that cannot be written or lies inside the data, before anything is computed."""
    if data.is_dir() and path.resolve().is_relative_to(data.resolve()):
        raise RunError(f"The run's folder {path} would lie inside the data, where Graft never writes. Choose another --out.")
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, "The run's folder cannot be written", str(existing))


def resumable(data: Path, out: Path | None) -> Path:
    """The run to go on with: `out`, or the newest unfinished one of these data below `runs/`.

    Raises:
        RunError: if there is none.
    """
    if out is not None:
        return out
    ours = [path.parent for path in RUNS.glob(f"*/{RUN}") if not path.parent.is_symlink() and _is_of(path, data)]
    if not ours:
        raise RunError(f"There is no unfinished run of {data} below {RUNS}/; --out RUN names one elsewhere.")
    return max(ours, key=lambda path: str(_read(path / RUN)["begun"]))


def finished(path: Path) -> bool:
    """Whether a run came to its end and its package is there."""
    return bool(_read(path / RUN).get("finished")) and (path / PACKAGE / MANIFEST).is_file()


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


def name_of(data: Path) -> str:
    """What a run and its model are called after: the data's own name."""
    return data.resolve().stem or "model"


def _fresh(data: Path) -> Path:
    """A new folder below `runs/`, made at once so that nobody else takes the name."""
    check(RUNS / "new", data)
    RUNS.mkdir(exist_ok=True)
    stamp, number = f"{name_of(data)}-{datetime.now().strftime('%Y%m%d-%H%M%S')}", 1
    while True:
        path = RUNS / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a folder for this process.

    A lock of the kernel's, which ends with the process however that ends; a number in a file would outlive it, and in a
    container the next process may well have the same number.
    """
    lock = path / LOCK
    while True:
        file = lock.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            raise RunError(f"{path} is being worked on by process {file.read().strip() or 'unknown'}.") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()  # whoever held it has removed it meanwhile
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _begin(path: Path, data: Path, recipe: Recipe, like: Path | None) -> None:
    beside = path / f".{RECIPE}.{os.getpid()}.tmp"
    recipe.save(beside)
    os.replace(beside, path / RECIPE)
    began = {"data": str(data.resolve()), "begun": _now(), "versions": _versions(), "like": str(like.resolve()) if like else None}
    durable.write(path / RUN, _json(began))


def _tidy(path: Path) -> None:
    """Removes what a killed run left half done; a package that it had just set aside for a newer one comes back."""
    if not (path / PACKAGE).exists():
        for old in path.glob(f".{PACKAGE}-old-*"):
            old.rename(path / PACKAGE)
            break
    durable.remove_unfinished(path, *ORPHANS)


def _forget(path: Path) -> None:
    """Removes a folder in which nothing was begun, unless something of somebody else's is in it."""
    for name in (RUN, RECIPE, PLAN, LOCK):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()
        if path.parent == RUNS:
            RUNS.rmdir()


def _point_latest(path: Path) -> None:
    RUNS.mkdir(exist_ok=True)
    for orphan in RUNS.glob(".latest-*"):
        orphan.unlink(missing_ok=True)
    beside = RUNS / f".latest-{os.getpid()}"
    beside.symlink_to(os.path.relpath(path, RUNS), target_is_directory=True)
    os.replace(beside, RUNS / "latest")


def _is_of(run: Path, data: Path) -> bool:
    began = _read(run)
    return began.get("data") == str(data.resolve()) and not finished(run.parent)


def _warn_of_other_versions(began: dict[str, Any]) -> None:
    now, before = _versions(), began.get("versions", {})
    if rows := [(name, before.get(name), now[name]) for name in now if before.get(name) != now[name]]:
        say(f"warning: other versions than when the run began, so its numbers may differ slightly:\n{table(rows)}")


def _versions() -> dict[str, str | None]:
    return {library: _version(library) for library in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _label(dataset: Dataset, sample: Sample) -> str:
    return "|".join(dataset.labels[label] for label in sample.labels)


def _shown(label: str, digest: str) -> str:
    return f"{label}, sha256 {digest[:12]}…"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}. Begin another run.") from None
    return content


def _json(content: object) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat()
