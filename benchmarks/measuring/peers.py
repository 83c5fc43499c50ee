"""The peers (other serving tools): their environment, start commands, and a search for the fastest settings of each."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measuring.servers import Server, alone, running

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".bench" / "bin" / "python"
SCRIPTS = ROOT / "benchmarks" / "peers"


@dataclass(frozen=True)
class Settings:
    """Settings of one peer.

    Attributes:
        threads: torch threads per forward pass.
        workers: number of processes, each with its own copy of the network.
        max_batch_size: maximum images per forward pass; None if the peer does not batch.
    """

    threads: int
    workers: int
    batch: int | None = None

    def __str__(self) -> str:
        batching = "" if self.batch is None else f", batches of up to {self.batch}"
        return f"{self.workers} x {self.threads} threads{batching}"


TRIED = {
    "FastAPI + torch": ("serve_fastapi.py", (Settings(1, 1), Settings(2, 1), Settings(1, 2))),
    "LitServe + torch": ("serve_litserve.py", (Settings(1, 2, 1), Settings(2, 1, 1), Settings(1, 2, 8), Settings(2, 1, 8))),
    "BentoML batchable + torch": ("serve_bentoml.py", (Settings(1, 1, 32), Settings(2, 1, 32), Settings(1, 2, 32))),
}
HEALTH = {"serve_bentoml.py": "/readyz"}


def check() -> None:
    """Raises RuntimeError if the peers are not installed."""
    if not PYTHON.exists():
        raise RuntimeError(f"The environment of the peers, {PYTHON.parents[1]}, does not exist; run `make .bench/.ready`.")


def server(name: str, script: str, settings: Settings, package: Path, home: Path) -> Server:
    """Describe one peer that serves the package's weights."""
    command = [str(PYTHON), str(SCRIPTS / script), "--port", "{port}", "--workers", str(settings.workers)]
    if settings.batch is not None:
        command += ["--batch", str(settings.batch)]
    environment = {
        "PEER_PACKAGE": str(package.resolve()),
        "PEER_THREADS": str(settings.threads),
        "OMP_NUM_THREADS": str(settings.threads),
        "BENTOML_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS)]),
    }
    return Server(name, command, HEALTH.get(script, "/health"), environment)


def best(
    package: Path, home: Path, n_ways: int, rate: Callable[[Server], float]
) -> tuple[list[Server], dict[str, dict[str, float]]]:
    """Find the fastest settings of each peer; also return the responses per second of all settings tried.

    Args:
        n_settings: maximum number of settings to try per peer.
        measure: returns the responses per second of a running server.
    """
    selected, rates_by_peer = [], {}
    for name, (script, all_settings) in TRIED.items():
        rates = {}
        for settings in all_settings[:n_ways]:
            candidate = server(name, script, settings, package, home)
            with running([candidate]), alone(candidate):
                rates[settings] = rate(candidate)
        fastest = max(rates, key=lambda settings: rates[settings])
        selected.append(server(name, script, fastest, package, home))
        rates_by_peer[name] = {str(settings): settings_rate for settings, settings_rate in rates.items()}
    return selected, rates_by_peer
