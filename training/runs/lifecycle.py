"""Lifecycle of run folders: naming, locking, resuming, cleanup after a killed run, and marking as finished."""

import errno
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graft.service.inference.devices import resolve_device
from graft.service.manifest import MANIFEST, PACKAGE
from graft.training.config.recipe import Recipe
from graft.training.runs import latest
from graft.training.runs.run_folder import (
    DECISIONS,
    RECIPE,
    RUN,
    RUNS,
    SPLITS,
    TEMPORARY_PREFIX,
    RunError,
    RunFolder,
    format_differences,
    read_json,
    run_of,
    to_json,
)
from graft.training.runtime import atomic_files, gpu
from graft.training.runtime.folder_lock import LOCK, locked
from graft.training.runtime.progress import log

UNFINISHED_PATTERNS = (".package-*", f"{TEMPORARY_PREFIX}*")
LIBRARIES = ("graft-vision", "torch", "timm", "pytorch-lightning", "albumentations", "scikit-learn", "openvino", "numpy")


@contextmanager
def open_run(
    out: Path | None, data: Path, recipe: Recipe, resume: bool = False, replay_of: Path | None = None
) -> Iterator[RunFolder]:
    """Opens a new or resumed run folder, and locks it until the block ends.

    After an error, a folder without a started run is removed. After Ctrl-C or SIGTERM, it is kept.

    Raises:
        RunError: if the folder contains another run, or is inside the data.
        FolderInUse: if another process has it.
        OSError: if it is not writable.
    """
    path = out or _new_folder(data)
    check_run_folder(path, data)
    path.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if not resume and (path / SPLITS).exists():
            raise RunError(f"{path} already contains a run. Use --resume to continue it, or choose another --out.")
        _clean_up(path)
        try:
            if not resume or not (path / RUN).exists():
                _write_metadata(path, data, recipe, replay_of)
            metadata = read_json(path / RUN)
            _warn_about_versions(metadata)
            _warn_about_machine(metadata, recipe)
            yield RunFolder(path, Path(metadata["like"]) if metadata.get("like") else None)
        except (KeyboardInterrupt, SystemExit):
            log(f"resume with: graft fit {shlex.quote(str(data))} --out {shlex.quote(str(path))} --resume")
            raise
        except Exception:
            if not (path / SPLITS).exists():
                _discard(path)
            raise


def check_run_folder(path: Path, data: Path) -> None:
    """Rejects a run folder that is not writable or is inside the data, before anything is computed."""
    if data.is_dir() and path.resolve().is_relative_to(data.resolve()):
        raise RunError(f"The run folder {path} is inside the data folder, and Graft never writes there. Choose another --out.")
    existing = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PermissionError(errno.EACCES, "The run folder is not writable", str(existing))


def find_resumable(data: Path, out: Path | None) -> Path:
    """Finds the run to resume: `out`, or the newest unfinished run of this data in `runs/`.

    Raises:
        RunError: if there is none, or `out` is not a run.
    """
    if out is not None:
        out = run_of(out)
        _check_resumable(out)
        return out
    candidates = [
        path.parent for path in RUNS.glob(f"*/{RUN}") if not path.parent.is_symlink() and _is_unfinished_run_of(path, data)
    ]
    if not candidates:
        raise RunError(f"There is no unfinished run of {data} in {RUNS}/; use --out RUN for another location.")
    return max(candidates, key=lambda path: float(read_json(path / RUN)["begun"]))


def _check_resumable(out: Path) -> None:
    """Rejects a folder that never was a run. One with only its recipe was: killed before it began."""
    if (out / RUN).is_file():
        return
    if not out.is_dir():
        raise RunError(f"{out} does not exist, so there is no run to resume. Start one without --resume.")
    if any(path.name != RECIPE and not path.name.startswith(".") for path in out.iterdir()):
        raise RunError(f"{out} has no run to resume. Start one without --resume, in another --out.")


def is_finished(path: Path) -> bool:
    """Whether a run is finished and its package exists."""
    return bool(read_json(path / RUN).get("finished")) and (path / PACKAGE / MANIFEST).is_file()


def mark_finished(path: Path) -> None:
    """Marks a run as finished, and makes it the latest."""
    latest.set_latest(path)
    atomic_files.write_text(path / RUN, to_json(read_json(path / RUN) | {"finished": time.time()}))


def run_name(data: Path) -> str:
    """Name of a run and its model: the name of the data folder or file."""
    return data.resolve().stem or "model"


def _new_folder(data: Path) -> Path:
    """Creates a new folder in `runs/` at once, so that no other process takes its name."""
    check_run_folder(RUNS / "new", data)
    RUNS.mkdir(exist_ok=True)
    stamp, number = f"{run_name(data)}-{datetime.now().strftime('%Y%m%d-%H%M%S')}", 1
    while True:
        path = RUNS / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _write_metadata(path: Path, data: Path, recipe: Recipe, replay_of: Path | None) -> None:
    atomic_files.write_text(path / RECIPE, recipe.to_yaml())
    metadata = {
        "data": str(data.resolve()),
        "begun": time.time(),
        "versions": library_versions(),
        "machine": gpu.machine_record(resolve_device(recipe.device)),
        "like": str(replay_of.resolve()) if replay_of else None,
    }
    atomic_files.write_text(path / RUN, to_json(metadata))


def _clean_up(path: Path) -> None:
    """Removes unfinished files of a killed run, and restores a package that it was replacing."""
    if not (path / PACKAGE).exists():
        for backup in path.glob(f".{PACKAGE}-old-*"):
            backup.rename(path / PACKAGE)
            break
    atomic_files.remove_temp_files(path, *UNFINISHED_PATTERNS)


def _discard(path: Path) -> None:
    """Removes a folder without a started run, unless it contains other files."""
    for name in (RUN, RECIPE, DECISIONS, LOCK):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()
        if path.parent == RUNS:
            RUNS.rmdir()


def _is_unfinished_run_of(metadata_file: Path, data: Path) -> bool:
    metadata = read_json(metadata_file)
    return metadata.get("data") == str(data.resolve()) and not is_finished(metadata_file.parent)


def _warn_about_versions(metadata: dict[str, Any]) -> None:
    current, recorded = library_versions(), metadata.get("versions", {})
    if rows := [(name, recorded.get(name), current[name]) for name in current if recorded.get(name) != current[name]]:
        log(
            "warning: library versions have changed since the run started, so results may differ slightly:\n"
            f"{format_differences(rows)}"
        )


def _warn_about_machine(metadata: dict[str, Any], recipe: Recipe) -> None:
    recorded, current = metadata.get("machine"), gpu.machine_record(resolve_device(recipe.device))
    if recorded and recorded != current:
        log(
            f"warning: the run was started on {gpu.describe_machine(recorded)}, and goes on on"
            f" {gpu.describe_machine(current)}, so results may differ slightly"
        )


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that affect the results; None if a library is not installed."""
    return {library: _version(library) for library in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
