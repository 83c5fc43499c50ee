"""The package that is served and shipped, under two names that stay the same whichever run it came from."""

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
    """Makes a run's package the one that `bentoml serve`, `bentoml build` and the image take.

    `runs/latest` is a link to the run, replaced in one step. `runs/latest-package` holds the package's files themselves, as
    hard links where the disk has them, because builders follow no links.

    Raises:
        ArtifactError: if the run has no package, or one that cannot be served; what was chosen before stays.
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
    beside = RUNS / f".latest-{os.getpid()}"
    beside.symlink_to(os.path.relpath(run.resolve(), RUNS.resolve()), target_is_directory=True)
    os.replace(beside, LATEST)


def _put(package: Path) -> None:
    beside, before = RUNS / f".latest-new-{os.getpid()}", RUNS / f".latest-old-{os.getpid()}"
    shutil.copytree(package, beside, copy_function=_same)
    if PACKED.exists():
        os.rename(PACKED, before)  # a directory with content cannot be replaced in one step
    os.rename(beside, PACKED)
    shutil.rmtree(before, ignore_errors=True)


def _same(file: str, target: str) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(file, target)


@contextmanager
def _alone() -> Iterator[None]:
    """One process at a time renames here; the others wait for the moment it takes."""
    descriptor = os.open(RUNS, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
