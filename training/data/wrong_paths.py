"""Names what a path is, if it cannot be a data set: an address, a device, a package or a run. Opens no file."""

from pathlib import Path

from graft.service.artifact import package_folder
from graft.service.manifest import MANIFEST
from graft.service.remote_paths import rejection
from graft.training.data.errors import DatasetError


def check(path: Path) -> None:
    """Raises DatasetError if the path is an address, a device, a package or a run."""
    if reason := rejection(path):
        raise DatasetError(reason)
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise DatasetError(
            f"{path} is neither a file nor a folder, but a named pipe or a device: save the data to a file first."
        )
    if is_package(path):
        kind = "a package" if package_folder(path) == path else "a run"
        raise DatasetError(f"{path} is {kind}, not labeled images. To train it further: graft fit DATA --from {path}")


def is_package(path: Path) -> bool:
    """Whether the path is a package, or a run with one."""
    return (package_folder(path) / MANIFEST).is_file()
