"""The peers (other serving tools): their environment, start commands, and a search for the fastest settings of each."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measuring.servers import Server, exclusive_server, suspended_servers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".bench" / "bin" / "python"
SCRIPTS = ROOT / "benchmarks" / "peers"


@dataclass(frozen=True)
class PeerSettings:
    """Settings of one peer.

    Attributes:
        threads: torch threads per forward pass.
        workers: number of processes, each with its own copy of the network.
        max_batch_size: maximum images per forward pass; None if the peer does not batch.
    """

    threads: int
    workers: int
    max_batch_size: int | None = None

    def __str__(self) -> str:
        batching = "" if self.max_batch_size is None else f", batches of up to {self.max_batch_size}"
        return f"{self.workers} x {self.threads} threads{batching}"


CANDIDATES = {
    "FastAPI + torch": ("serve_fastapi.py", (PeerSettings(1, 1), PeerSettings(2, 1), PeerSettings(1, 2))),
    "LitServe + torch": (
        "serve_litserve.py",
        (PeerSettings(1, 2, 1), PeerSettings(2, 1, 1), PeerSettings(1, 2, 8), PeerSettings(2, 1, 8)),
    ),
    "BentoML batchable + torch": ("serve_bentoml.py", (PeerSettings(1, 1, 32), PeerSettings(2, 1, 32), PeerSettings(1, 2, 32))),
}
HEALTH_PATHS = {"serve_bentoml.py": "/readyz"}


def check_installed() -> None:
    """Raises RuntimeError if the peers are not installed."""
    if not PYTHON.exists():
        raise RuntimeError(f"The environment of the peers, {PYTHON.parents[1]}, does not exist; run `make .bench/.ready`.")


def peer_server(name: str, script: str, settings: PeerSettings, package: Path, bentoml_home: Path) -> Server:
    """Describe one peer that serves the package's weights."""
    command = [str(PYTHON), str(SCRIPTS / script), "--port", "{port}", "--workers", str(settings.workers)]
    if settings.max_batch_size is not None:
        command += ["--batch", str(settings.max_batch_size)]
    environment = {
        "PEER_PACKAGE": str(package.resolve()),
        "PEER_THREADS": str(settings.threads),
        "OMP_NUM_THREADS": str(settings.threads),
        "BENTOML_HOME": str(bentoml_home),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS)]),
    }
    return Server(name, command, HEALTH_PATHS.get(script, "/health"), environment)


def find_fastest(
    package: Path, bentoml_home: Path, n_settings: int, measure: Callable[[Server], float]
) -> tuple[list[Server], dict[str, dict[str, float]]]:
    """Find the fastest settings of each peer; also return the responses per second of all settings tried.

    Args:
        n_settings: maximum number of settings to try per peer.
        measure: returns the responses per second of a running server.
    """
    selected, rates_by_peer = [], {}
    for name, (script, all_settings) in CANDIDATES.items():
        rates = {}
        for settings in all_settings[:n_settings]:
            candidate = peer_server(name, script, settings, package, bentoml_home)
            with suspended_servers([candidate]), exclusive_server(candidate):
                rates[settings] = measure(candidate)
        fastest = max(rates, key=lambda settings: rates[settings])
        selected.append(peer_server(name, script, fastest, package, bentoml_home))
        rates_by_peer[name] = {str(settings): settings_rate for settings, settings_rate in rates.items()}
    return selected, rates_by_peer
