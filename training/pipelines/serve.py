"""`graft serve`: BentoML's own `serve`, with a package and an environment in which nothing is shared by accident."""

import os
import sys
from pathlib import Path

import graft
from graft.service.artifact import read
from graft.training.runtime.cache_dir import cache_folder

ROOT = Path(graft.__file__).parents[1]  # where `graft` is found


def environment(package: Path, port: int) -> dict[str, str]:
    """The environment for one server.

    A BentoML home of its own, because each `bentoml serve` deletes its home's metrics folder, a neighbour's included;
    and a port can only have one server.
    """
    home = cache_folder() / "bentoml" / str(port)
    home.mkdir(parents=True, exist_ok=True)
    return {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        **os.environ,
        "GRAFT_PACKAGE": str(package.resolve()),
    }


def command(host: str, port: int) -> list[str]:
    """The command line of one server; it must run in ROOT."""
    return [sys.executable, "-m", "bentoml", "serve", "graft.service.app:Graft", "--host", host, "--port", str(port)]


def serve(package: Path, host: str, port: int) -> None:
    """Becomes `bentoml serve`. Raises ArtifactError first if the package cannot be served."""
    read(package)
    settings = environment(package, port)
    os.chdir(ROOT)
    os.execve(sys.executable, command(host, port), settings)
