"""Number and total size of the packages that a list of requirements installs. Runs with the Python of any environment.

.bench/bin/python benchmarks/measuring/installed.py fastapi uvicorn torch
"""

import argparse
import json
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")  # dependencies of torch for CUDA


def dependency_closure(requirements: list[str]) -> dict[str, Distribution]:
    """All direct and transitive dependencies by name; skips those not installed here, such as for another system."""
    installed: dict[str, Distribution] = {}
    pending, seen = [Requirement(text) for text in requirements], set()
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed[name] = distribution(name)
        except PackageNotFoundError:
            continue
        pending += [
            dependency for text in installed[name].requires or () if marker_applies(dependency := Requirement(text), extras)
        ]
    return installed


def marker_applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether the environment marker is true on this system, with one of the extras or with none."""
    marker, environment = requirement.marker, default_environment()
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in (*extras, ""))


def installed_bytes(package: Distribution) -> int:
    """Total size of its files in bytes, from its RECORD file."""
    return sum(file.size or 0 for file in package.files or ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("requirements", nargs="+")
    installed = dependency_closure(parser.parse_args().requirements)
    sizes = {name: installed_bytes(package) for name, package in installed.items()}
    n_bytes_without_cuda = sum(n_bytes for name, n_bytes in sizes.items() if not name.startswith(CUDA_PREFIXES))
    print(json.dumps({"packages": len(installed), "bytes": sum(sizes.values()), "bytes_without_cuda": n_bytes_without_cuda}))


if __name__ == "__main__":
    main()
