"""Provides a default package for benchmarks that are started without one."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring.pictures import HYMENOPTERA
from measuring.tables import log

ROOT = Path(__file__).parents[2]


@contextmanager
def given_or_fitted_package(package: Path | None) -> Iterator[Path]:
    """Yield the given package, or fit a new one: a linear probe of tf_efficientnet_lite0 at 224 pixels on hymenoptera."""
    if package is not None:
        yield package
        return
    log("fitting a package")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["fit", str(HYMENOPTERA), "--strategy", "probe", "--out", folder + "/run"]
        subprocess.run([sys.executable, "-m", "graft", *arguments], check=True, cwd=ROOT, capture_output=True)
        yield Path(folder, "run", "package")
