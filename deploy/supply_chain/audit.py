"""Checks the lock files against the known advisories in `advisories.toml`. Needs no network.

    .venv/bin/python deploy/supply_chain/audit.py

The exit code is 1 if a locked version is affected. If the advisories were looked up more than 90 days ago, it warns. The file
holds what was looked up for the packages that it names, and nothing about any other: it replaces no scanner with a live feed.
"""

import datetime
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lock_file import LOCKS, ROOT, read_lock
from packaging.specifiers import SpecifierSet

ADVISORIES = Path(__file__).parent / "advisories.toml"
MAX_AGE = datetime.timedelta(days=90)


@dataclass(frozen=True)
class Advisory:
    """One known vulnerability.

    Attributes:
        affected: the versions that have it.
        source: where that was read.
    """

    package: str
    id: str
    affected: SpecifierSet
    summary: str
    source: str


def read_advisories(path: Path) -> tuple[datetime.date, list[Advisory]]:
    """The day on which the advisories were looked up, and the advisories."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    advisories = [Advisory(**{**fields, "affected": SpecifierSet(fields["affected"])}) for fields in content["advisory"]]
    return content["looked_up"], advisories


def find_affected(lock: Path, advisories: Iterable[Advisory]) -> list[str]:
    """A line for each locked package that an advisory affects."""
    versions: dict[str, set[str]] = {}
    for package in read_lock(lock):
        versions.setdefault(package.name, set()).add(package.version)
    return [
        f"{lock.name}: {advisory.package} {version} is affected by {advisory.id} ({advisory.affected}): {advisory.summary}"
        f"\n  {advisory.source}"
        for advisory in advisories
        for version in sorted(versions.get(advisory.package, ()))
        if advisory.affected.contains(version, prereleases=True)
    ]


def main(advisories_path: Path = ADVISORIES, locks: Iterable[Path] = LOCKS) -> int:
    looked_up, advisories = read_advisories(advisories_path)
    age = datetime.datetime.now(datetime.UTC).date() - looked_up
    if age > MAX_AGE:
        print(f"warning: the advisories were looked up {age.days} days ago; see docs/security.md", file=sys.stderr)
    affected = [line for lock in locks for line in find_affected(lock, advisories)]
    for line in affected:
        print(f"error: {line}", file=sys.stderr)
    if not affected:
        n_packages = len({advisory.package for advisory in advisories})
        names = " and ".join(str(lock.relative_to(ROOT)) if lock.is_relative_to(ROOT) else lock.name for lock in locks)
        print(f"{names}: none of {len(advisories)} advisories for {n_packages} packages, looked up on {looked_up}, applies")
    return bool(affected)


if __name__ == "__main__":
    raise SystemExit(main())
