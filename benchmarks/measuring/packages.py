"""The package that is served where none is given."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring.pictures import HYMENOPTERA
from measuring.tables import say

ROOT = Path(__file__).parents[2]


@contextmanager
def packaged(given: Path | None) -> Iterator[Path]:
    """The one that is given, or a new one: a probe on hymenoptera's photos, tf_efficientnet_lite0 at 224 pixels."""
    if given is not None:
        yield given
        return
    say("fitting a package")
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", str(HYMENOPTERA), "--strategy", "probe", "--out", folder + "/run"]
        subprocess.run([sys.executable, "-m", "graft", *fit], check=True, cwd=ROOT, capture_output=True)
        yield Path(folder, "run", "package")
