"""The CUDA engine with the CPU behind it: streams do nothing, and a graph runs what was captured once more."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from graft.service.inference import cuda


class Stream:
    """A stream in which everything is done at once."""

    def synchronize(self) -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 0)) -> list[str]:
    """Installs the fake card. Returns a list that records what the engine captures and waits for.

    Args:
        capability: compute capability of the card.
    """
    events: list[str] = []

    def capture(compute: Callable[[], None], stream: Stream, pool: object) -> Callable[[], None]:
        compute()
        events.append("capture")
        return compute

    monkeypatch.setattr(cuda, "CUDA", torch.device("cpu"))
    monkeypatch.setattr(cuda, "_capture", capture)
    monkeypatch.setattr(cuda, "_empty_pinned", lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    return events
