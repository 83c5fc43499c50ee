"""What is installed because of some packages: how many there are, and their bytes. Runs in any environment's python.

.bench/bin/python benchmarks/measuring/installed.py fastapi uvicorn torch
"""

import argparse
import json
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CUDA = ("nvidia-", "cuda-", "triton")  # that torch brings along for a GPU


def closure(wanted: list[str]) -> dict[str, Distribution]:
    """All that these requirements need here, by name; what is not installed, such as for another system, is passed over."""
    found: dict[str, Distribution] = {}
    waiting, seen = [Requirement(text) for text in wanted], set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        waiting += [needed for text in found[name].requires or () if applies(needed := Requirement(text), extras)]
    return found


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether it holds on this system, for one of the extras or for none."""
    here = default_environment()
    return requirement.marker is None or any(requirement.marker.evaluate({**here, "extra": extra}) for extra in (*extras, ""))


def size(found: Distribution) -> int:
    """Bytes of its files, by its own record."""
    return sum(file.size or 0 for file in found.files or ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("requirements", nargs="+")
    found = closure(parser.parse_args().requirements)
    sizes = {name: size(each) for name, each in found.items()}
    lean = sum(n_bytes for name, n_bytes in sizes.items() if not name.startswith(CUDA))
    print(json.dumps({"packages": len(found), "bytes": sum(sizes.values()), "bytes_without_cuda": lean}))


if __name__ == "__main__":
    main()
