"""Checks that need several arguments of a job, before anything slow is imported or read."""

from collections.abc import Sequence
from pathlib import Path

from graft.service.artifact import ArtifactError
from graft.training.data.wrong_paths import is_package
from graft.training.runs.run_folder import RUN


def check_order(package: Path, others: Sequence[Path]) -> None:
    """Checks that the package is the first argument, before the data or images, and that those can be read.

    Raises:
        ValueError: if another argument is the package, or a named pipe or device, which may never end.
        ArtifactError: if the first argument is a run that is not finished.
    """
    if device := next((path for path in others if path.exists() and not (path.is_file() or path.is_dir())), None):
        raise ValueError(f"{device} is a named pipe or a device, not a file or folder.")
    if is_package(package):
        return
    if swapped := next((path for path in others if is_package(path)), None):
        raise ValueError(f"{package} is {_kind(package)}, and {swapped} is a package: swap them.")
    if (package / RUN).is_file():
        raise ArtifactError(f"{package} is an unfinished run. Finish it with: graft fit DATA --out {package} --resume")


def _kind(path: Path) -> str:
    return "data" if path.is_dir() or not path.exists() else "a file"
