"""Where runs lie: a name for a new one, who works on it, and what a killed one left half done."""

import errno
import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graft.service.artifact import MANIFEST
from graft.training.config.recipe import Recipe
from graft.training.runs import latest
from graft.training.runs.run_folder import PACKAGE, PLAN, RECIPE, RUN, SPLITS, Folder, RunError, read, table, to_json
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import say

RUNS, LOCK = Path("runs"), ".lock"
ORPHANS = (".package-*", ".onnx-*")
LIBRARIES = ("graft-vision", "torch", "timm", "pytorch-lightning", "albumentations", "scikit-learn", "openvino", "numpy")


@contextmanager
def opened(out: Path | None, data: Path, recipe: Recipe, resume: bool = False, like: Path | None = None) -> Iterator[Folder]:
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
        try:
            if not resume or not (path / RUN).exists():
                _begin(path, data, recipe, like)
            began = read(path / RUN)
            _warn_of_other_versions(began)
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
    return max(ours, key=lambda path: float(read(path / RUN)["begun"]))


def finished(path: Path) -> bool:
    """Whether a run came to its end and its package is there."""
    return bool(read(path / RUN).get("finished")) and (path / PACKAGE / MANIFEST).is_file()


def finish(path: Path) -> None:
    """Marks a run as finished, and points at it."""
    latest.choose(path)
    atomic_files.write(path / RUN, to_json(read(path / RUN) | {"finished": time.time()}))


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
    atomic_files.write(path / RECIPE, recipe.text())
    began = {
        "data": str(data.resolve()),
        "begun": time.time(),
        "versions": versions(),
        "like": str(like.resolve()) if like else None,
    }
    atomic_files.write(path / RUN, to_json(began))


def _tidy(path: Path) -> None:
    """Removes what a killed run left half done; a package that it had just set aside for a newer one comes back."""
    if not (path / PACKAGE).exists():
        for old in path.glob(f".{PACKAGE}-old-*"):
            old.rename(path / PACKAGE)
            break
    atomic_files.remove_unfinished(path, *ORPHANS)


def _forget(path: Path) -> None:
    """Removes a folder in which nothing was begun, unless something of somebody else's is in it."""
    for name in (RUN, RECIPE, PLAN, LOCK):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()
        if path.parent == RUNS:
            RUNS.rmdir()


def _is_of(run: Path, data: Path) -> bool:
    began = read(run)
    return began.get("data") == str(data.resolve()) and not finished(run.parent)


def _warn_of_other_versions(began: dict[str, Any]) -> None:
    now, before = versions(), began.get("versions", {})
    if rows := [(name, before.get(name), now[name]) for name in now if before.get(name) != now[name]]:
        say(f"warning: other versions than when the run began, so its numbers may differ slightly:\n{table(rows)}")


def versions() -> dict[str, str | None]:
    """Of the libraries that a run's numbers depend on; None for one that is not there."""
    return {library: _version(library) for library in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
