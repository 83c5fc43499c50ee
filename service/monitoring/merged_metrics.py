"""The metrics of several workers as one, so that a scrape, which reaches only one of them, has those of all.

Each worker writes its metrics into a folder that all of them share. Counters of a worker that has ended stay in the sum: a sum
that falls would look to Prometheus like a restart, and count everything once more.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

SUFFIX = ".prom"
# Gauges that are not sums. The labels of graft_model_info are those of one model, so its value stays 1.
COMBINE: dict[str, Callable[[Iterable[float]], float]] = {
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "graft_model_info": max,
}
Key = tuple[str, tuple[tuple[str, str], ...]]  # name and labels of a sample


class MetricsFolder:
    """The folder of one service's workers.

    Args:
        path: an empty folder that only this service uses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, text: bytes) -> None:
        """Writes this process's metrics, in the Prometheus text format, for the other workers."""
        target = self._path / f"{os.getpid()}{SUFFIX}"
        staging = target.with_suffix(".new")
        staging.write_bytes(text)
        staging.replace(target)

    def merge(self, text: bytes) -> bytes:
        """The metrics of all workers: this process's, which are given, and what the others published last."""
        own = os.getpid()
        others = [(int(path.stem), _read(path)) for path in self._path.glob(f"*{SUFFIX}") if path.stem != str(own)]
        texts = [(text, True), *((other, psutil.pid_exists(pid)) for pid, other in others)]
        return merge(texts)


def merge(texts: Iterable[tuple[bytes, bool]]) -> bytes:
    """Adds up metrics in the Prometheus text format.

    Args:
        texts: of each process, and whether it still runs; gauges of others are left out.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    for text, is_running in texts:
        for family in text_string_to_metric_families(text.decode()):
            if not is_running and family.type not in ("counter", "histogram"):
                continue
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            found = values.setdefault(family.name, {})
            for sample in family.samples:
                found.setdefault((sample.name, tuple(sorted(sample.labels.items()))), []).append(sample.value)
    for name, family in families.items():
        combine = COMBINE.get(name, sum)
        for (sample_name, labels), numbers in values[name].items():
            family.add_sample(sample_name, dict(labels), combine(numbers))
    return generate_latest(_Collected(families.values()))


class _Collected:
    """Metrics in the place of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _read(path: Path) -> bytes:
    with suppress(OSError):  # removed at the end of the service
        return path.read_bytes()
    return b""
