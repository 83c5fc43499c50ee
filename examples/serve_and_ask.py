"""Starts the service, asks it in two ways, and stops it.

    python serve_and_ask.py runs/latest/package cat.jpg

In production, `graft serve` or the container image runs the service, and a client holds only what `ask_with_...` does.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bentoml

START_TIMEOUT_S = 60


@contextmanager
def serve(package: str) -> Iterator[str]:
    """Runs `graft serve` on a free port; yields its URL once it is ready."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "graft", "serve", package, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until_ready(url, server)
            yield url
        finally:
            server.terminate()


def wait_until_ready(url: str, server: subprocess.Popen) -> None:
    """The service is ready once its golden answers are the same here. Raises RuntimeError if it exits or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"graft serve did not start (exit code {server.poll()})")


def ask_with_bentoml(url: str, image: Path) -> dict:
    """BentoML's client knows the routes of the service and sends the file."""
    with bentoml.SyncHTTPClient(url) as client:
        return client.classify(image=image, top_k=3)


def ask_with_urllib(url: str, image: Path) -> dict:
    """The standard library: the image is the body. An error's body is JSON too, and says what to do."""
    request = urllib.request.Request(f"{url}/v1/classify?top_k=3", data=image.read_bytes(), method="POST")
    request.add_header("Content-Type", "application/octet-stream")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        raise SystemExit(f"error {problem['status']} ({problem['code']}): {problem['detail']}") from None


def main(package: str, image: str) -> None:
    with serve(package) as url:
        for ask in (ask_with_bentoml, ask_with_urllib):
            answer = ask(url, Path(image))
            best = answer["predictions"][0]
            print(f"{ask.__name__}: {best['label']}\t{best['probability']:.4f}\tabstain: {answer['abstain']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
