"""Compares the predictions of two servers for the same images."""

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

CONCURRENCY = 4
TIMEOUT_S = 600.0  # on a busy machine, a forward pass with two threads that block each other can take a minute
Probabilities = dict[str, float]  # keyed by label


@dataclass(frozen=True)
class Agreement:
    """How well the predictions of two servers agree.

    Attributes:
        n_images, n_same_top1: number of images sent, and number of images with the same most probable label.
        max_difference: the largest absolute difference between two probabilities of the same label.
    """

    n_images: int
    n_same_top1: int
    max_difference: float


def fetch_predictions(port: int, requests: Sequence[bytes]) -> list[Probabilities]:
    """Send complete HTTP requests to a server and return the predictions in the same order."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(lambda request: _send(port, request), requests))


def compare(reference: Sequence[Probabilities], other: Sequence[Probabilities]) -> Agreement:
    """Compare two lists of predictions, image by image."""
    pairs = list(zip(reference, other, strict=True))
    n_same_top1 = sum(max(first, key=first.__getitem__) == max(second, key=second.__getitem__) for first, second in pairs)
    max_difference = max(abs(first[label] - second[label]) for first, second in pairs for label in first)
    return Agreement(len(pairs), n_same_top1, max_difference)


def _send(port: int, request: bytes) -> Probabilities:
    """Raises RuntimeError if the status is not 200."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request("POST", lines[0].split()[1], body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {content[:500]!r}")
    return _parse_probabilities(json.loads(content))


def _parse_probabilities(response: Any) -> Probabilities:
    [result] = response if isinstance(response, list) else [response]  # a batch API returns a list, also for one image
    return {entry["label"]: entry["probability"] for entry in result["predictions"]}
