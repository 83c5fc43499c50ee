"""Shared fixtures: a run fitted on the sample, its model, and a running server, each created once per session."""

import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image
from skip_counter import pytest_sessionfinish  # noqa: F401  pytest finds the hook here

ROOT = Path(__file__).parent.parent
set_hypothesis_home_dir(ROOT / ".pytest_cache" / "hypothesis")  # a test run leaves nothing else in the checkout
SHARED = ROOT.parent / "shared" / "data"

# Imports take longer than training here, so one process imports everything, computes nothing, and is forked for each fit.
FORK_SERVER = """
import json, os, resource, sys
import sklearn.linear_model, threadpoolctl, safetensors.torch, timm, torch.onnx
import graft.training.backbones.onnx_export, graft.training.features.lightning_extractor
import graft.training.finetuning.trainer, graft.training.pipelines.fit, graft.training.strategies.finetune
from graft.training.cli.main import main
import openvino  # after Graft, which turns its telemetry off

print("ready", flush=True)
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(command["folder"])
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (0, 1, 2):
            os.dup2(output, stream)
        if command["file_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_bytes"], resource.RLIM_INFINITY))
        os._exit(main(command["arguments"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class ForkServer:
    """Fork server: runs `graft` commands in forks of a process that has imported everything."""

    process: subprocess.Popen[str]

    def run(
        self,
        folder: Path,
        *arguments: str,
        kill_after_s: float | None = None,
        interrupt: tuple[str, signal.Signals] | None = None,
        file_bytes: int = 0,
    ) -> int:
        """Run `graft ARGUMENTS` in a folder and write its output to the file `output`.

        Args:
            kill_after_s: send SIGKILL after this many seconds.
            interrupt: (text, signal): send the signal once the output contains the text.
            file_bytes: maximum file size, to simulate a full disk; 0 for no limit.

        Returns:
            The exit code; -9 if the command was killed.
        """
        self.process.stdin.write(json.dumps({"folder": str(folder), "arguments": arguments, "file_bytes": file_bytes}) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill_after_s is not None and not self._exits_within(kill_after_s):
            os.kill(child, signal.SIGKILL)
        while interrupt and not self._exits_within(0.02):
            if interrupt[0] in (folder / "output").read_text():
                os.kill(child, interrupt[1])
                break
        return int(self.process.stdout.readline())

    def _exits_within(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A separate cache folder, in which every server gets its own BentoML home; Hugging Face Hub is set to offline."""
    folder = tmp_path_factory.mktemp("cache")
    settings = {"GRAFT_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    previous = {name: os.environ.get(name) for name in (*settings, "BENTOML_HOME")}
    os.environ.pop("BENTOML_HOME", None)
    os.environ.update(settings)
    yield folder
    for name, value in previous.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory of the session's fit, with its `runs/`."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def fitted(cache: Path, workplace: Path):
    """A probe fitted on the embedded sample (a graft.training.pipelines.fit.FitResult)."""
    from graft.training.config.recipe import Recipe
    from graft.training.pipelines import fit as pipeline
    from graft.training.sample import SAMPLE

    previous = Path.cwd()
    os.chdir(workplace)
    try:
        return pipeline.fit(SAMPLE, workplace / "runs" / "sample", Recipe(strategy="probe"))
    finally:
        os.chdir(previous)


@pytest.fixture(scope="session")
def fork_server(cache: Path) -> Iterator[ForkServer]:
    """Fork server for tests that run whole `graft` processes."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FORK_SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, bufsize=1) as process:
        assert process.stdout.readline() == "ready\n"
        yield ForkServer(process)
        process.stdin.close()


@pytest.fixture(scope="session")
def model(fitted):
    """The loaded package of `fitted` (a graft.service.inference.model.Model)."""
    from graft.service.inference import model

    return model.load(fitted.artifact.path)


@pytest.fixture(scope="session")
def classifier(model):
    """The Python API's classifier of `model` (a graft.Classifier)."""
    import graft

    return graft.Classifier(model)


@pytest.fixture(scope="session")
def pack(fitted, tmp_path_factory):
    """A random_packages.CreatePackage, for packages of other backbones with random weights: `pack("resnet18", "all")`."""
    import random_packages

    return random_packages.package_factory(fitted, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def client(model):
    """An HTTP client of a service with the fitted package, in this process."""
    from api_client import asgi_app
    from starlette.testclient import TestClient

    with asgi_app(model) as app, TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def server(fitted) -> Iterator[str]:
    """The URL of a real `bentoml serve` with the fitted package."""
    from graft.training.pipelines.demo import running_server

    with running_server(fitted.artifact.path) as url:
        yield url


@pytest.fixture(scope="session")
def clothes() -> list[tuple[str, bytes]]:
    """Ten test images of the sample, one per label: (label, encoded PNG)."""
    from graft.training.data.dataset import scan
    from graft.training.sample import SAMPLE

    dataset = scan(SAMPLE)
    test_samples = [sample for sample in dataset.samples if sample.split == "test"]
    by_label = {sample.label: sample for sample in reversed(test_samples)}
    return [(dataset.labels[label], dataset.read(sample)) for label, sample in sorted(by_label.items())]


@pytest.fixture(scope="session")
def shirt(clothes: list[tuple[str, bytes]]) -> bytes:
    """A test image of the label `shirt`, as PNG."""
    return dict(clothes)["shirt"]


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[str, list[str]]]:
    """A local URL without a scheme, and the list of clients that have connected to it."""
    clients: list[str] = []
    with socket.socket() as server_socket:
        server_socket.bind(("127.0.0.1", 0))
        server_socket.listen()

        def accept() -> None:
            while True:
                try:
                    connection, address = server_socket.accept()
                except OSError:
                    return
                clients.append(str(address))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server_socket.getsockname()[1]}/cat.jpg", clients
        server_socket.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encodes an image: `encode(array_or_image, "JPEG", quality=90)`."""

    def encoded(image: np.ndarray | Image.Image, format: str = "PNG", **settings: object) -> bytes:
        file = io.BytesIO()
        pil_image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        pil_image.save(file, format, **settings)
        return file.getvalue()

    return encoded


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth color gradient with a different color in each corner: uint8 (60, 80, 3)."""
    rows, columns = np.mgrid[0:60, 0:80]
    return np.stack([rows * 4, columns * 3, 255 - rows * 2 - columns], axis=-1).astype(np.uint8)


@pytest.fixture
def make_folder(tmp_path: Path, encode) -> Callable[..., Path]:
    """Creates a folder of random images: `make_folder({"cat": 5, "dog": 5})`; labels may contain a slash: "train/cat"."""

    def made(counts: dict[str, int], seed: int = 0, side: int = 40) -> Path:
        random = np.random.default_rng(seed)
        for label, count in counts.items():
            folder = tmp_path / "photos" / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                (folder / f"{number:03d}.png").write_bytes(encode(random.integers(0, 256, (side, side, 3), dtype=np.uint8)))
        return tmp_path / "photos"

    return made


def shared(name: str) -> Path:
    """Path of a dataset in ../shared/data; skips the test if it is missing."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/data; the embedded sample covers the same code path")
    return path


@contextmanager
def file_size_limit(n_bytes: int | None) -> Iterator[None]:
    """Simulate a full disk by limiting the file size to `n_bytes`; None for no limit."""
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (previous[0] if n_bytes is None else n_bytes, previous[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
