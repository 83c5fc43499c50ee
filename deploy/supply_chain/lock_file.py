"""Reads the lock files that uv writes: the packages with their versions, hashes, and what requires them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICE_LOCK = ROOT / "requirements-service.lock"  # what the image installs
LOCKS = (ROOT / "requirements.lock", SERVICE_LOCK, ROOT / "requirements-gpu.lock")

_REQUIREMENT = re.compile(r"(?P<name>[a-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?")
_HASH = re.compile(r"--hash=sha256:(?P<digest>[0-9a-f]{64})")
_VIA = re.compile(r"#\s+(?:via )?(?P<name>[a-z0-9._-]+)(?: \(pyproject\.toml\))?")


@dataclass(frozen=True)
class LockedPackage:
    """One package of a lock file.

    Attributes:
        marker: the condition under which it is installed; empty if it always is.
        sha256: the digests of the files from which it may be installed.
        required_by: the names of the packages that require it, the project among them.
    """

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]
    required_by: tuple[str, ...]


def read_lock(path: Path) -> list[LockedPackage]:
    """The packages of a lock file, in its order. Raises ValueError for a line that is none of uv's."""
    return [_read_package(block) for block in _blocks(path)]


def _blocks(path: Path) -> Iterator[list[str]]:
    """The lines of each package: the requirement, its hashes, and comments that name what requires it."""
    block: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith((" ", "#")) and block:
            yield block
            block = []
        if block or not line.startswith("#"):  # the file begins with a comment
            block.append(line)
    yield block


def _read_package(lines: list[str]) -> LockedPackage:
    if not (requirement := _REQUIREMENT.fullmatch(lines[0])):
        raise ValueError(f"{lines[0]!r} is not a locked requirement")
    digests = tuple(match["digest"] for line in lines if (match := _HASH.search(line)))
    required_by = tuple(match["name"] for line in lines if (match := _VIA.fullmatch(line.strip())) and match["name"] != "via")
    return LockedPackage(requirement["name"], requirement["version"], requirement["marker"] or "", digests, required_by)
