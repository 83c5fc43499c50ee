"""`graft serve`: runs `bentoml serve` with a package and an isolated environment."""

import os
import sys
import tempfile
from pathlib import Path

from graft.service import listening
from graft.service.artifact import read
from graft.service.settings import DeviceSetting
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.import_root import IMPORT_ROOT
from graft.training.runtime.progress import log


def environment(package: Path, port: int, device: DeviceSetting | None = None) -> dict[str, str]:
    """The environment variables for one server.

    Each port gets a separate BentoML home, because `bentoml serve` deletes the metrics folder of its home, even when
    another server uses it.

    Args:
        device: None for that of GRAFT_DEVICE.

    Raises:
        OSError: if the home cannot be written.
    """
    home = Path(os.environ.get("BENTOML_HOME") or cache_folder() / "bentoml" / str(port))
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()  # only a write shows a read-only file system
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}. Set BENTOML_HOME to a folder that can be written", str(home)) from None
    return {
        "BENTOML_DO_NOT_TRACK": "True",
        **os.environ,
        "BENTOML_HOME": str(home),
        "GRAFT_PACKAGE": str(package.resolve()),
        **({"GRAFT_DEVICE": device} if device else {}),
    }


def command(host: str, port: int) -> list[str]:
    """The command line of one server; its working directory must be IMPORT_ROOT."""
    return [sys.executable, "-m", "bentoml", "serve", "graft.service.app:Graft", "--host", host, "--port", str(port)]


def serve(package: Path, host: str, port: int, device: DeviceSetting | None = None) -> None:
    """Replaces this process with `bentoml serve`.

    Args:
        host: an IP address or a host name.
        device: None for that of GRAFT_DEVICE. The server itself checks it.

    Raises:
        ArtifactError: if the package cannot be served.
        ListenError: if the server cannot listen on this address.
    """
    host = listening.resolve_host(host)
    listening.check(host, port)
    env = environment(read(package).path, port, device)
    log(f"starting the server of {package}")
    os.chdir(IMPORT_ROOT)
    os.execve(sys.executable, command(host, port), env)
