"""`graft build`: builds a Bento from the service and one package. Needs no source checkout."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from graft.service.artifact import read
from graft.service.settings import BENTO_PACKAGE
from graft.training.runtime.import_root import IMPORT_ROOT

# What `bentoml build` reads in a checkout, for CPUs and for GPUs; an installed graft carries the same files.
SOURCES = ("bentofile.yaml", "requirements-service.lock", "service")
GPU_SOURCES = ("bentofile.gpu.yaml", "requirements-gpu.lock", "service")


class BuildError(RuntimeError):
    """`bentoml build` failed; the message is its output."""


def build(package: Path, gpu: bool = False) -> str:
    """Builds a Bento in the local Bento store.

    Args:
        package: the package to include in the Bento, or its run.
        gpu: whether the Bento asks for a GPU and brings torch with CUDA, several GB; without, it runs on CPUs.

    Returns:
        The Bento's tag, such as `graft:zk3v7xq2ysd5wjtm`.

    Raises:
        ArtifactError: if the package cannot be served.
        BuildError: if BentoML fails, or the temporary folder is inside a hidden folder, which BentoML skips.
    """
    package = read(package).path
    with tempfile.TemporaryDirectory(prefix="graft-build-") as folder:
        context = Path(folder).resolve()
        if hidden := next((name for name in context.parts if name.startswith(".")), None):
            raise BuildError(
                f"{context}: bentoml cannot build inside a hidden folder ({hidden}). Set TMPDIR to another folder."
            )
        sources = GPU_SOURCES if gpu else SOURCES
        _stage(context, sources, package)
        return _bentoml_build(context, sources[0])


def _stage(context: Path, sources: Sequence[str], package: Path) -> None:
    """Copies the files into the layout of a checkout."""
    home = IMPORT_ROOT / "graft"
    for name in sources:
        if (home / name).is_dir():
            shutil.copytree(home / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(home / name, context / name)
    shutil.copytree(package, context / BENTO_PACKAGE)


def _bentoml_build(context: Path, bentofile: str) -> str:
    # In a subprocess, because bentoml imports `service`, and this process has already imported `graft.service`.
    command = [sys.executable, "-m", "bentoml", "build", "--bentofile", bentofile, "--output", "tag"]
    environment = {"BENTOML_DO_NOT_TRACK": "True", **os.environ}
    result = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)
    tag = result.stdout.strip().rpartition("__tag__:")[2]
    if result.returncode != 0 or not tag:
        raise BuildError((result.stderr or result.stdout).strip())
    return tag
