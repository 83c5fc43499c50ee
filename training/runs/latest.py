"""Maintains `runs/latest` and `runs/latest-package`, the fixed paths of the package that is served and shipped."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graft.service.artifact import Artifact, read
from graft.service.settings import PACKED
from graft.training.runs.run_folder import PACKAGE
from graft.training.runtime import atomic_files

RUNS = Path("runs")
LATEST = RUNS / "latest"
HALF_DONE = ".latest-*"


def choose(run: Path) -> Artifact:
    """Selects the package of a run for `bentoml serve`, `bentoml build` and the image.

    `runs/latest` is a symbolic link to the run, replaced atomically. `runs/latest-package` contains the files of the package
    (hard links if possible), because image builders do not follow symbolic links.

    Raises:
        ArtifactError: if the run has no valid package; the previous selection stays.
    """
    artifact = read(run / PACKAGE)
    RUNS.mkdir(exist_ok=True)
    with _alone():
        atomic_files.remove_unfinished(RUNS, HALF_DONE)
        _link(run)
        _put(artifact.path)
        atomic_files.sync(RUNS)
    return artifact


def _link(run: Path) -> None:
    temporary = RUNS / f".latest-{os.getpid()}"
    temporary.symlink_to(os.path.relpath(run.resolve(), RUNS.resolve()), target_is_directory=True)
    os.replace(temporary, LATEST)


def _put(package: Path) -> None:
    new, old = RUNS / f".latest-new-{os.getpid()}", RUNS / f".latest-old-{os.getpid()}"
    shutil.copytree(package, new, copy_function=_same)
    if PACKED.exists():
        os.rename(PACKED, old)  # a non-empty directory cannot be replaced atomically
    os.rename(new, PACKED)
    shutil.rmtree(old, ignore_errors=True)


def _same(file: str, target: str) -> None:
    try:
        os.link(file, target)
    except OSError:  # another filesystem, or no support for hard links
        shutil.copy2(file, target)


@contextmanager
def _alone() -> Iterator[None]:
    """Lets one process at a time rename; others wait."""
    descriptor = os.open(RUNS, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network filesystems cannot lock directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
