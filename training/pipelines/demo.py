"""The whole road in one command: fit on the sample, package, serve, ask one question over HTTP."""

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
from graft.training.runtime.progress import say
from graft.training.sample import SAMPLE

READY_WITHIN_S = 60.0


def demo() -> str:
    """Runs it; returns what a person should read last.

    Raises:
        RuntimeError: if the server does not become ready.
    """
    # Mirrored clothes are still clothes, so the default recipe fits.
    result = fit.fit(SAMPLE, None, Recipe(strategy="probe"))
    say(fit.summary(result))
    dataset = scan(SAMPLE)
    question = next(sample for sample in dataset.samples if sample.part == "test")
    with serving(result.artifact.path) as url:
        say(f"asking {url}/v1/classify about {question.path}")
        answer = ask(url, dataset.read(question))
    return f"{json.dumps(answer, indent=2)}\n\n{NEXT.format(package=result.artifact.path)}"


NEXT = """That was the whole road. Next:
  keep it running:    graft serve {package}      (or, here: bentoml serve)
  your own images:    graft fit photos/          (one folder of images for each label, or a .zip)
(The commands are in .venv/bin: `source .venv/bin/activate` first.)"""


@contextmanager
def serving(package: Path) -> Iterator[str]:
    """`bentoml serve` on a free port, from ready until the block ends. Raises RuntimeError if it ends before."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    settings = environment(package, port)
    # Into a file, because a pipe that nobody empties fills up and then holds the server.
    with tempfile.TemporaryFile() as said:
        server = subprocess.Popen(command("127.0.0.1", port), cwd=ROOT, env=settings, stdout=said, stderr=said)
        try:
            _wait(server, url, said)
            yield url
            _check_running(server, said)
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def ask(url: str, encoded: bytes) -> object:
    """What the server answers to one image."""
    request = urllib.request.Request(f"{url}/v1/classify?top_k=3", data=encoded, headers={"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _wait(server: subprocess.Popen[bytes], url: str, said: IO[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        _check_running(server, said)
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"bentoml serve was not ready within {READY_WITHIN_S:.0f} s.")


def _check_running(server: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """Raises RuntimeError, with what it said last, if it ended by itself."""
    if server.poll() is not None:
        said.seek(0)
        output = said.read().decode(errors="replace")
        raise RuntimeError(f"bentoml serve ended with code {server.returncode}:\n{output[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
