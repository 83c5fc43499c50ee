"""Maintains `runs/latest` and `runs/latest-package`, the fixed paths of the package that is served and shipped."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graft.service.artifact import Artifact, read
from graft.service.manifest import PACKAGE
from graft.service.settings import BENTO_PACKAGE
from graft.training.runs.run_folder import RUNS, run_of
from graft.training.runtime import atomic_files

LATEST = RUNS / "latest"
UNFINISHED_PATTERN = ".latest-*"


def set_latest(run: Path) -> Artifact:
    """Selects the package of a run for `bentoml serve`, `bentoml build` and the image.

    `runs/latest` is a symbolic link to the run, replaced atomically. `runs/latest-package` contains the files of the package
    (hard links if possible), because image builders do not follow symbolic links.

    Raises:
        ArtifactError: if the run has no valid package; the previous selection stays.
        RunError: if `run` is a package outside of a run.
    """
    run = run_of(run)
    artifact = read(run / PACKAGE)
    RUNS.mkdir(exist_ok=True)
    with _exclusive_lock():
        atomic_files.remove_temp_files(RUNS, UNFINISHED_PATTERN)
        _link(run)
        _copy_package(artifact.path)
        atomic_files.fsync(RUNS)
    return artifact


def _link(run: Path) -> None:
    temporary = RUNS / f".latest-{os.getpid()}"
    temporary.symlink_to(os.path.relpath(run.resolve(), RUNS.resolve()), target_is_directory=True)
    os.replace(temporary, LATEST)


def _copy_package(package: Path) -> None:
    new, old = RUNS / f".latest-new-{os.getpid()}", RUNS / f".latest-old-{os.getpid()}"
    shutil.copytree(package, new, copy_function=_link_or_copy)
    if BENTO_PACKAGE.exists():
        os.rename(BENTO_PACKAGE, old)  # a non-empty directory cannot be replaced atomically
    os.rename(new, BENTO_PACKAGE)
    shutil.rmtree(old, ignore_errors=True)


def _link_or_copy(file: str, target: str) -> None:
    try:
        os.link(file, target)
    except OSError:  # another filesystem, or no support for hard links
        shutil.copy2(file, target)


@contextmanager
def _exclusive_lock() -> Iterator[None]:
    """Lets one process at a time rename; others wait."""
    descriptor = os.open(RUNS, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network filesystems cannot lock directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
