"""`graft demo`: fits on the sample data set, packages, serves, and sends one request over HTTP."""

import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.pipelines import fit
from graft.training.pipelines.serve import ROOT, command, environment
from graft.training.runtime.progress import log
from graft.training.sample import SAMPLE

READY_TIMEOUT_S = 60.0


def demo() -> str:
    """Runs the demo; returns the server's response and the next steps, as text.

    Raises:
        RuntimeError: if the server does not become ready.
    """
    # The default recipe flips images, which is valid for clothes.
    result = fit.fit(SAMPLE, None, Recipe(strategy="probe"))
    log(fit.summary(result))
    dataset = scan(SAMPLE)
    image = next(sample for sample in dataset.samples if sample.split == "test")
    with running_server(result.artifact.path) as url:
        log(f"sending {image.path} to {url}/v1/classify")
        response = classify(url, dataset.read(image))
    return f"{json.dumps(response, indent=2)}\n\n{NEXT_STEPS.format(package=result.artifact.path)}"


NEXT_STEPS = """Next steps:
  keep it running:    graft serve {package}      (or, in this folder: bentoml serve)
  your own images:    graft fit photos/          (one folder per label, or a .zip)
(The commands are in .venv/bin: `source .venv/bin/activate` first.)"""


@contextmanager
def running_server(package: Path) -> Iterator[str]:
    """Runs `bentoml serve` on a free port; yields its URL when ready. Raises RuntimeError if the server exits early."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment(package, port)
    # Output goes to a file, because a full pipe would block the server.
    with tempfile.TemporaryFile() as log_file:
        server = subprocess.Popen(command("127.0.0.1", port), cwd=ROOT, env=env, stdout=log_file, stderr=log_file)
        try:
            _wait_until_ready(server, url, log_file)
            yield url
            _check_running(server, log_file)
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def classify(url: str, encoded: bytes) -> object:
    """Sends one image; returns the parsed JSON response."""
    request = urllib.request.Request(f"{url}/v1/classify?top_k=3", data=encoded, headers={"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log_file: IO[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        _check_running(server, log_file)
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"bentoml serve was not ready within {READY_TIMEOUT_S:.0f} s.")


def _check_running(server: subprocess.Popen[bytes], log_file: IO[bytes]) -> None:
    """Raises RuntimeError, with the end of the server's output, if the server has exited."""
    if server.poll() is not None:
        log_file.seek(0)
        output = log_file.read().decode(errors="replace")
        raise RuntimeError(f"bentoml serve exited with code {server.returncode}:\n{output[-2000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
