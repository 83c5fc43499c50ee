"""The peers (other serving tools): their environment, start commands, and a search for the fastest settings of each."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measuring.servers import Server, exclusive_server, suspended_servers
from measuring.tables import log

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".bench" / "bin" / "python"
SCRIPTS = ROOT / "benchmarks" / "peers"


@dataclass(frozen=True)
class PeerSettings:
    """Settings of one peer.

    Attributes:
        threads: threads per forward pass; with `streams`, threads of all streams together.
        workers: number of processes, each with its own copy of the network.
        max_batch_size: maximum images per forward pass; None if the peer cannot batch.
        parallel: images that one worker decodes and infers at a time; None if the peer's framework decides.
        streams: OpenVINO's streams per worker; None for other engines.
    """

    threads: int
    workers: int
    max_batch_size: int | None = None
    parallel: int | None = None
    streams: int | None = None

    def __str__(self) -> str:
        parts = [f"workers: {self.workers}", f"threads: {self.threads}"]
        if self.max_batch_size is not None:
            parts.append("no batches" if self.max_batch_size == 1 else f"batches of up to {self.max_batch_size}")
        if self.parallel is not None:
            parts.append(f"{self.parallel} images at a time")
        if self.streams is not None:
            parts.append(f"streams: {self.streams}")
        return ", ".join(parts)

    def environment(self) -> dict[str, str]:
        """The variables from which a peer reads its settings."""
        values = {"PEER_THREADS": self.threads, "PEER_PARALLEL": self.parallel, "PEER_STREAMS": self.streams}
        values["OMP_NUM_THREADS"] = self.threads
        return {name: str(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Peer:
    """One peer.

    Attributes:
        settings: those to try.
        takes_raw: whether it also takes an image as the body, not only as a form.
    """

    script: str
    settings: tuple[PeerSettings, ...]
    health: str = "/health"
    takes_raw: bool = False


# The strongest first; the tables keep this order.
PEERS = {
    "OpenVINO expert": Peer(
        "serve_openvino.py",
        (
            PeerSettings(2, 1, parallel=2, streams=2),
            PeerSettings(2, 1, parallel=3, streams=2),
            PeerSettings(2, 1, parallel=2, streams=1),
            PeerSettings(1, 2, parallel=1, streams=1),
        ),
        takes_raw=True,
    ),
    "ONNX Runtime expert": Peer(
        "serve_onnxruntime.py",
        (PeerSettings(1, 1, parallel=2), PeerSettings(2, 1, parallel=2), PeerSettings(1, 2, parallel=1)),
        takes_raw=True,
    ),
    # One process with two threads per forward pass is left out for the next two: it had at most 0.78 of the best rate.
    "FastAPI + torch": Peer("serve_fastapi.py", (PeerSettings(1, 2), PeerSettings(1, 1))),
    "LitServe + torch": Peer("serve_litserve.py", (PeerSettings(1, 2, 8), PeerSettings(1, 2, 1))),
    "BentoML + torch": Peer(
        "serve_bentoml.py", (PeerSettings(1, 2, 1), PeerSettings(1, 2, 32), PeerSettings(2, 1, 32)), "/readyz"
    ),
}


def check_installed() -> None:
    """Raises RuntimeError if the peers are not installed."""
    if not PYTHON.exists():
        raise RuntimeError(f"The environment of the peers, {PYTHON.parents[1]}, does not exist; run `make .bench/.ready`.")


def peer_server(name: str, settings: PeerSettings, package: Path, scratch: Path) -> Server:
    """Describe one peer that serves the package's weights, with a BentoML home of its own, which two cannot share."""
    peer = PEERS[name]
    command = [str(PYTHON), str(SCRIPTS / peer.script), "--port", "{port}", "--workers", str(settings.workers)]
    if settings.max_batch_size is not None:
        command += ["--batch", str(settings.max_batch_size)]
    environment = settings.environment() | {
        "PEER_PACKAGE": str(package.resolve()),
        "BENTOML_HOME": tempfile.mkdtemp(dir=scratch),
        "PYTHONPATH": str(SCRIPTS),
    }
    return Server(name, command, peer.health, environment)


def find_fastest(
    name: str, package: Path, scratch: Path, n_settings: int, rounds: int, measure: Callable[[Server], float]
) -> tuple[PeerSettings, dict[str, float]]:
    """Find the fastest settings of a peer; also return the median responses per second of all settings tried.

    The settings alternate, as the servers do in the comparison.

    Args:
        n_settings: maximum number of settings to try.
        rounds: number of times that each is measured.
        measure: returns the responses per second of a running server. It has to take as long as a load of the comparison: a
            shorter trial would choose by noise.
    """
    candidates = {settings: peer_server(name, settings, package, scratch) for settings in PEERS[name].settings[:n_settings]}
    rates: dict[PeerSettings, list[float]] = {settings: [] for settings in candidates}
    with suspended_servers(list(candidates.values())):
        for _ in range(rounds):
            for settings, candidate in candidates.items():
                with exclusive_server(candidate):
                    rates[settings].append(measure(candidate))
                log(f"{name}, {settings}: {rates[settings][-1]:.1f} images/s")
    medians = {settings: median(values) for settings, values in rates.items()}
    return max(medians, key=lambda settings: medians[settings]), {str(settings): rate for settings, rate in medians.items()}
