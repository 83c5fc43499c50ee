"""What several test modules share: one fitted sample, its model, and a running server, each made once a session."""

import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


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
    """A probe on the embedded sample: what `graft fit` leaves behind (a training.run.Result)."""
    from training import run
    from training.recipe import Recipe
    from training.sample import SAMPLE

    here = Path.cwd()
    os.chdir(workplace)
    try:
        return run.fit(SAMPLE, workplace / "runs" / "sample", Recipe(strategy="probe"))
    finally:
        os.chdir(here)


@pytest.fixture(scope="session")
def model(fitted):
    """The fitted package brought to life (a service.model.Model)."""
    from service import model

    return model.load(fitted.artifact.path)


@pytest.fixture(scope="session")
def server(fitted) -> Iterator[str]:
    """The URL of a real `bentoml serve` with the fitted package."""
    from training.demo import serving

    with serving(fitted.artifact.path) as url:
        yield url


@pytest.fixture(scope="session")
def clothes() -> list[tuple[str, bytes]]:
    """Ten held-out images of the sample, one of each label: (label, encoded PNG)."""
    from training.dataset import scan
    from training.sample import SAMPLE

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
