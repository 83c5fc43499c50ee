"""`graft build`: a Bento of the service and one package, made without a checkout."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import graft
from graft.service.artifact import read
from graft.service.settings import PACKED

# What `bentoml build` reads in a checkout; an installed graft carries the same files.
SOURCES = ("bentofile.yaml", "requirements-service.lock", "service")


class BuildError(RuntimeError):
    """BentoML refused to build; the text is its own."""


def build(package: Path) -> str:
    """Builds a Bento into BentoML's store.

    Args:
        package: the package that the Bento carries.

    Returns:
        The Bento's tag, such as `graft:zk3v7xq2ysd5wjtm`.

    Raises:
        ArtifactError: if the package cannot be served.
        BuildError: if BentoML fails, or if the temporary folder lies below a hidden one, which BentoML leaves out.
    """
    read(package)
    with tempfile.TemporaryDirectory(prefix="graft-build-") as folder:
        context = Path(folder).resolve()
        if hidden := next((name for name in context.parts if name.startswith(".")), None):
            raise BuildError(f"{context}: bentoml builds nothing below a hidden folder ({hidden}). Set TMPDIR to another one.")
        _stage(context, package)
        return _bentoml_build(context)


def _stage(context: Path, package: Path) -> None:
    """Lays out the files as a checkout has them."""
    home = Path(graft.__file__).parent
    for name in SOURCES:
        if (home / name).is_dir():
            shutil.copytree(home / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(home / name, context / name)
    shutil.copytree(package, context / PACKED)


def _bentoml_build(context: Path) -> str:
    # In a process of its own, because bentoml imports `service` there, and this process holds `graft.service`.
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    environment = {"BENTOML_DO_NOT_TRACK": "True", **os.environ}
    done = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)
    tag = done.stdout.strip().rpartition("__tag__:")[2]
    if done.returncode != 0 or not tag:
        raise BuildError((done.stderr or done.stdout).strip())
    return tag
