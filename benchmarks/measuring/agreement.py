"""Whether two servers say the same about the same images."""

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

CALLERS = 4
PATIENCE_S = 600.0  # on a busy machine one forward pass in two threads, each waiting for the other, can take a minute
Probabilities = dict[str, float]  # by label


@dataclass(frozen=True)
class Agreement:
    """How one server's answers compare with another's.

    Attributes:
        n_images, n_same: how many were asked, and how many got the same most probable label.
        furthest: the largest difference of a probability.
    """

    n_images: int
    n_same: int
    furthest: float


def answers(port: int, requests: Sequence[bytes]) -> list[Probabilities]:
    """What a server says to whole requests, in their order."""
    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(lambda request: _ask(port, request), requests))


def compare(ours: Sequence[Probabilities], theirs: Sequence[Probabilities]) -> Agreement:
    pairs = list(zip(ours, theirs, strict=True))
    n_same = sum(max(mine, key=mine.__getitem__) == max(other, key=other.__getitem__) for mine, other in pairs)
    furthest = max(abs(mine[label] - other[label]) for mine, other in pairs for label in mine)
    return Agreement(len(pairs), n_same, furthest)


def _ask(port: int, request: bytes) -> Probabilities:
    """Raises RuntimeError if it is refused."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("POST", lines[0].split()[1], body, headers)
    response = connection.getresponse()
    said = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {said[:500]!r}")
    return _probabilities(json.loads(said))


def _probabilities(answer: Any) -> Probabilities:
    [whole] = answer if isinstance(answer, list) else [answer]  # an API over batches answers with one, too
    return {entry["label"]: entry["probability"] for entry in whole["predictions"]}
