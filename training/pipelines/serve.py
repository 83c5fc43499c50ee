"""`graft serve`: runs `bentoml serve` with a package and an isolated environment."""

import os
import sys
from pathlib import Path

from graft.service.artifact import read
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.import_root import IMPORT_ROOT


def environment(package: Path, port: int) -> dict[str, str]:
    """The environment variables for one server.

    Each port gets a separate BentoML home, because `bentoml serve` deletes the metrics folder of its home, even when
    another server uses it.
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
    """The command line of one server; its working directory must be IMPORT_ROOT."""
    return [sys.executable, "-m", "bentoml", "serve", "graft.service.app:Graft", "--host", host, "--port", str(port)]


def serve(package: Path, host: str, port: int) -> None:
    """Replaces this process with `bentoml serve`. Raises ArtifactError if the package cannot be served."""
    read(package)
    env = environment(package, port)
    os.chdir(IMPORT_ROOT)
    os.execve(sys.executable, command(host, port), env)
