"""The tools that are compared with: their environment, how each is started, and what is tried so that each is at its best."""

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
    """One way to run a peer.

    Attributes:
        threads: of one forward pass of torch.
        workers: processes with a network each.
        batch: the most images of one forward pass; None where the peer has no batching of its own.
    """

    threads: int
    workers: int
    batch: int | None = None

    def __str__(self) -> str:
        batch = "" if self.batch is None else f", batches of up to {self.batch}"
        return f"{self.workers} x {self.threads} threads{batch}"


TRIED = {
    "FastAPI + torch": ("serve_fastapi.py", (Settings(1, 1), Settings(2, 1), Settings(1, 2))),
    "LitServe + torch": ("serve_litserve.py", (Settings(1, 2, 1), Settings(2, 1, 1), Settings(1, 2, 8), Settings(2, 1, 8))),
    "BentoML batchable + torch": ("serve_bentoml.py", (Settings(1, 1, 32), Settings(2, 1, 32), Settings(1, 2, 32))),
}
HEALTH = {"serve_bentoml.py": "/readyz"}


def check() -> None:
    """Raises RuntimeError if the peers are not installed."""
    if not PYTHON.exists():
        raise RuntimeError(f"The peers' environment, {PYTHON.parents[1]}, is not here; `make .bench/.ready` makes it.")


def server(name: str, script: str, settings: Settings, package: Path, home: Path) -> Server:
    """One peer with the package's weights."""
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
    """Each peer as it is fastest, and the answers a second of every way that was tried.

    Args:
        n_ways: the most that are tried of each.
        rate: measures a server that is ready.
    """
    chosen, found = [], {}
    for name, (script, ways) in TRIED.items():
        rates = {}
        for settings in ways[:n_ways]:
            candidate = server(name, script, settings, package, home)
            with running([candidate]), alone(candidate):
                rates[settings] = rate(candidate)
        fastest = max(rates, key=lambda settings: rates[settings])
        chosen.append(server(name, script, fastest, package, home))
        found[name] = {str(settings): found_rate for settings, found_rate in rates.items()}
    return chosen, found
