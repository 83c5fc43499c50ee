"""`graft demo`: fits on the sample data set, packages, serves, and sends one request over HTTP."""

import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from graft.service.settings import DeviceSetting
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.pipelines import fit
from graft.training.pipelines.serve import command, environment
from graft.training.report.render import REPORT_FILE
from graft.training.runtime.device import select_device
from graft.training.runtime.import_root import IMPORT_ROOT
from graft.training.runtime.progress import log, step
from graft.training.sample import SAMPLE

READY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running `bentoml serve`; `log_file` receives its output."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: IO[bytes]

    def check(self) -> None:
        """Raises RuntimeError, with the end of the server's output, if the server has exited."""
        if self.process.poll() is not None:
            self.log_file.seek(0)
            output = self.log_file.read().decode(errors="replace")
            raise RuntimeError(f"bentoml serve exited with code {self.process.returncode}:\n{output[-2000:]}")

    def wait(self) -> None:
        """Waits for Ctrl-C. Raises RuntimeError if the server exits before."""
        # Ctrl-C reaches the server too, so after it the server may have exited.
        with suppress(KeyboardInterrupt):
            self.process.wait()
            self.check()


@dataclass(frozen=True)
class Demo:
    """The outcome of the demo while its server runs."""

    run: Path
    package: Path
    response: object
    server: Server

    def to_text(self, keep_serving: bool) -> str:
        """The response, then where to look next."""
        text = SERVING if keep_serving else NEXT_STEPS
        names = {"url": self.server.url, "report": self.run / REPORT_FILE, "package": self.package}
        return f"{json.dumps(self.response, indent=2)}\n\n{text.format_map(names)}"


NEXT_STEPS = """Next steps:
  try it in a browser:  graft serve {package}
                        and open http://127.0.0.1:3000 (or start with `graft demo --serve`)
  read the report:      {report}
  use your own images:  graft fit photos/      (one folder per label, or a .zip)
In a checkout, `source .venv/bin/activate` first."""

SERVING = """page:    {url}/
report:  {report}
Open both in a browser. Ctrl-C stops the server; `graft serve {package}` starts it again."""


@contextmanager
def demo(device: DeviceSetting = "auto") -> Iterator[Demo]:
    """Fits on the sample, starts a server and sends one request; the server runs until the `with` block ends.

    Raises:
        DeviceError: if the device cannot be used.
        RuntimeError: if the server does not become ready.
    """
    selected = select_device(device)
    # The default recipe flips images, which is valid for clothes.
    result = fit.fit(SAMPLE, None, Recipe(strategy="probe", device=selected))
    log(fit.summary(result))
    dataset = scan(SAMPLE)
    image = next(sample for sample in dataset.samples if sample.split == "test")
    with _start_server(result.artifact.path, selected) as server:
        log(f"sending {image.path} to {server.url}/v1/classify")
        yield Demo(result.run, result.artifact.path, classify(server.url, dataset.read(image)), server)


@contextmanager
def running_server(package: Path) -> Iterator[str]:
    """Runs `bentoml serve` on a free port; yields its URL when ready. Raises RuntimeError if the server exits early."""
    with _start_server(package) as server:
        yield server.url
        server.check()


@contextmanager
def _start_server(package: Path, device: DeviceSetting | None = None) -> Iterator[Server]:
    port = _free_port()
    env = environment(package, port, device)
    # Output goes to a file, because a full pipe would block the server.
    with tempfile.TemporaryFile() as log_file:
        process = subprocess.Popen(command("127.0.0.1", port), cwd=IMPORT_ROOT, env=env, stdout=log_file, stderr=log_file)
        server = Server(f"http://127.0.0.1:{port}", process, log_file)
        try:
            with step("starting the server"):
                _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def classify(url: str, encoded: bytes) -> object:
    """Sends one image; returns the parsed JSON response."""
    request = urllib.request.Request(f"{url}/v1/classify?top_k=3", data=encoded, headers={"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        server.check()
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"bentoml serve was not ready within {READY_TIMEOUT_S:.0f} s.")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
