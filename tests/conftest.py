"""What several test modules share: one fitted sample, its model, and a running server, each made once a session."""

import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"

# Importing takes longer than learning here; so one process imports, computes nothing, and is forked for each fit.
NURSERY = """
import json, os, resource, sys
import sklearn.linear_model, threadpoolctl, safetensors.torch, timm, torch.onnx, openvino
import graft.training.backbones.onnx_export, graft.training.features.lightning_extractor
import graft.training.finetuning.trainer, graft.training.pipelines.fit, graft.training.strategies.finetune
from graft.training.cli.main import main

print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(order["folder"])
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (0, 1, 2):
            os.dup2(said, stream)
        if order["file_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], resource.RLIM_INFINITY))
        os._exit(main(order["words"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Nursery:
    """Starts `graft` as children of a process that has imported everything."""

    process: subprocess.Popen[str]

    def run(
        self,
        folder: Path,
        *words: str,
        kill_after_s: float | None = None,
        interrupt: tuple[str, signal.Signals] | None = None,
        file_bytes: int = 0,
    ) -> int:
        """The exit code of `graft WORDS` in a folder, where `said` gets what it says; -9 if it was killed before it ended.

        Args:
            interrupt: a signal that it gets once it has said something.
            file_bytes: what the largest file may hold, as on a disk that is full; 0: no limit.
        """
        self.process.stdin.write(json.dumps({"folder": str(folder), "words": words, "file_bytes": file_bytes}) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill_after_s is not None and not self._ended_within(kill_after_s):
            os.kill(child, signal.SIGKILL)
        while interrupt and not self._ended_within(0.02):
            if interrupt[0] in (folder / "said").read_text():
                os.kill(child, interrupt[1])
                break
        return int(self.process.stdout.readline())

    def _ended_within(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that nobody else uses, where every server gets a BentoML home of its own; no hub is ever asked."""
    folder = tmp_path_factory.mktemp("cache")
    given = {"GRAFT_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in (*given, "BENTOML_HOME")}
    os.environ.pop("BENTOML_HOME", None)
    os.environ.update(given)
    yield folder
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of the session's own fit, where its `runs/` appears."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def fitted(cache: Path, workplace: Path):
    """A probe on the embedded sample: what `graft fit` leaves behind (a graft.training.pipelines.fit.Result)."""
    from graft.training.config.recipe import Recipe
    from graft.training.pipelines import fit as run
    from graft.training.sample import SAMPLE

    here = Path.cwd()
    os.chdir(workplace)
    try:
        return run.fit(SAMPLE, workplace / "runs" / "sample", Recipe(strategy="probe"))
    finally:
        os.chdir(here)


@pytest.fixture(scope="session")
def nursery(cache: Path) -> Iterator[Nursery]:
    """For tests of whole processes."""
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings, bufsize=1
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process)
        process.stdin.close()


@pytest.fixture(scope="session")
def model(fitted):
    """The fitted package brought to life (a graft.service.inference.model.Model)."""
    from graft.service.inference import model

    return model.load(fitted.artifact.path)


@pytest.fixture(scope="session")
def pack(fitted, tmp_path_factory):
    """A package of another backbone with random weights and a random head (a packing.Pack): `pack("resnet18", "all")`."""
    import random_packages as packing

    return packing.packer(fitted, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def client(model):
    """Asks a service with the fitted package, in this process."""
    from api_client import mounted
    from starlette.testclient import TestClient

    with mounted(model) as app, TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def server(fitted) -> Iterator[str]:
    """The URL of a real `bentoml serve` with the fitted package."""
    from graft.training.pipelines.demo import serving

    with serving(fitted.artifact.path) as url:
        yield url


@pytest.fixture(scope="session")
def clothes() -> list[tuple[str, bytes]]:
    """Ten held-out images of the sample, one of each label: (label, encoded PNG)."""
    from graft.training.data.dataset import scan
    from graft.training.sample import SAMPLE

    dataset = scan(SAMPLE)
    held_out = [sample for sample in dataset.samples if sample.part == "test"]
    first = {sample.label: sample for sample in reversed(held_out)}
    return [(dataset.labels[label], dataset.read(sample)) for label, sample in sorted(first.items())]


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """An image as a file: `encode(array_or_image, "JPEG", quality=90)`."""

    def encoded(image: np.ndarray | Image.Image, format: str = "PNG", **settings: object) -> bytes:
        file = io.BytesIO()
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture.save(file, format, **settings)
        return file.getvalue()

    return encoded


@pytest.fixture
def photo() -> np.ndarray:
    """Smooth colours that are different in every corner: uint8 (60, 80, 3)."""
    rows, columns = np.mgrid[0:60, 0:80]
    return np.stack([rows * 4, columns * 3, 255 - rows * 2 - columns], axis=-1).astype(np.uint8)


@pytest.fixture
def make_folder(tmp_path: Path, encode) -> Callable[..., Path]:
    """A folder of random images: `make_folder({"cat": 5, "dog": 5})`; a label may hold a slash, as in "train/cat"."""

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
    """A data set that lies beside the repository; skips the test where it does not."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} does not lie in ../shared/data; the embedded sample covers the same path")
    return path


@contextmanager
def files_of_at_most(n_bytes: int | None) -> Iterator[None]:
    """A disk that is full as soon as a file has so many bytes; None: the disk as it is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if n_bytes is None else n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
