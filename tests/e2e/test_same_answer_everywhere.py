"""200 images of all formats and modes: torch, the engine, `graft predict` and REST agree at all batch sizes."""

import itertools
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest
from api_client import TIMEOUT_S, http_server
from handmade_files import encode_image
from PIL import Image
from threaded_pool import ThreadedPool

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode
from graft.service.networks import network
from graft.service.settings import Settings
from graft.training.pipelines.predict import predict

pytestmark = pytest.mark.slow

N_IMAGES = 200
SIZES = [(28, 28), (64, 64), (640, 480), (37, 300), (480, 640), (1, 1), (3, 40), (1000, 20), (20, 1000), (224, 224), (501, 333)]
EXIF_ORIENTATION = 0x0112
Kind = tuple[str, str, dict[str, object]]  # format, Pillow mode, save options
KINDS: list[Kind] = [
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "P", {"transparency": 7}),
    *(("JPEG", mode, {"quality": 90}) for mode in ("L", "RGB", "CMYK")),
    ("JPEG", "RGB", {"quality": 60, "progressive": True}),
    *(("JPEG", "RGB", {"quality": 95, "orientation": orientation}) for orientation in range(1, 9)),
    ("WEBP", "RGB", {"quality": 80}),
    ("WEBP", "RGB", {"lossless": True, "orientation": 6}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    ("GIF", "P", {"transparency": 3}),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
]


def synthetic_image(number: int, size: tuple[int, int], mode: str) -> Image.Image:
    """A smooth image with some noise, different for each number."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (4, 4, 4), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels = np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode) if mode != "LA" else image.convert("LA")


def encoded_image(number: int, size: tuple[int, int], kind: Kind) -> bytes:
    format, mode, settings = kind
    settings = dict(settings)
    if orientation := settings.pop("orientation", None):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        settings["exif"] = exif
    return encode_image(synthetic_image(number, size, mode), format, **settings)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    """All kinds and sizes in turn, and one 12-megapixel photo."""
    turns = zip(range(N_IMAGES - 1), itertools.cycle(SIZES), itertools.cycle(KINDS), strict=False)
    return [*(encoded_image(number, size, kind) for number, size, kind in turns), encoded_image(999, (4000, 3000), KINDS[13])]


@pytest.fixture(scope="module")
def pixels(model, images) -> np.ndarray:
    """Preprocessed images: uint8 (200, S, S, 3)."""
    return np.stack([model.decode(image).pixels for image in images])


@pytest.fixture(scope="module")
def expected(fitted, model, pixels) -> np.ndarray:
    """Probabilities (200, C) from torch with the weights of the package."""
    import torch

    trained = network.load(fitted.artifact).eval()
    with torch.inference_mode():
        logits = torch.cat([trained(batch)[0] for batch in torch.from_numpy(pixels).split(8)])
    return model.probabilities(logits.numpy())


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    with http_server(model, max_batch_images=32) as port:
        yield f"http://127.0.0.1:{port}"


def to_probabilities(answers: Sequence[Sequence[tuple[str, float]]], labels: Sequence[str]) -> np.ndarray:
    """Ranked predictions as probabilities (N, C) in the order of the labels."""
    return np.array([[dict(answer)[label] for label in labels] for answer in answers])


def predictions(answer: dict) -> list[tuple[str, float]]:
    return [(prediction["label"], prediction["probability"]) for prediction in answer["predictions"]]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape == (N_IMAGES, 10)
    assert np.abs(found - expected).max() <= 1e-4
    runner_up, best = np.sort(expected, axis=1)[:, -2:].T
    is_clear = best - runner_up > 2e-4  # with a near tie, either label may come first
    assert is_clear.sum() >= N_IMAGES - 5
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[is_clear].all()


def test_images_are_distinct_and_cover_all_kinds(images, pixels, expected):
    assert len(images) == N_IMAGES == len(set(images))
    assert len(np.unique(expected.argmax(axis=1))) >= 3
    assert pixels.std() > 40


@pytest.mark.parametrize("size", [1, 8, 32])
def test_engine_matches_torch_in_batches(model, pixels, expected, size):
    batches = np.array_split(pixels, range(size, N_IMAGES, size))
    assert_same(np.concatenate([model.probabilities(model.engine(batch).logits) for batch in batches]), expected)


def test_predict_matches_torch(classifier, images, expected, tmp_path):
    paths = [tmp_path / f"{number:03d}" for number in range(N_IMAGES)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    answers = [answer for _, answer in predict(classifier, paths, 10)]
    assert not any(isinstance(answer, ImageError) for answer in answers)
    ranked = [[(prediction.label, prediction.probability) for prediction in answer.predictions] for answer in answers]
    assert_same(to_probabilities(ranked, classifier.labels), expected)


def test_rest_matches_torch_for_single_images(url, model, images, expected):
    with httpx.Client(timeout=TIMEOUT_S) as client:
        answers = [client.post(f"{url}/v1/classify?top_k=10", content=image).json() for image in images]
    assert_same(to_probabilities([predictions(answer) for answer in answers], model.manifest.labels), expected)


@pytest.mark.parametrize("size", [1, 8, 32])
def test_rest_matches_torch_in_batches(url, model, images, expected, size):
    answers = []
    with httpx.Client(timeout=TIMEOUT_S) as client:
        for begin in range(0, N_IMAGES, size):
            files = [("images", image) for image in images[begin : begin + size]]
            results = client.post(f"{url}/v1/classify/batch?top_k=10", files=files).json()["results"]
            answers += [predictions(result["answer"]) for result in results]
    assert_same(to_probabilities(answers, model.manifest.labels), expected)


def test_decode_worker_returns_the_same_pixels_as_training(model, images, pixels):
    settings = Settings()
    preprocessing, limits = model.manifest.preprocessing, settings.image_limits
    pool = ThreadedPool(preprocessing, limits, 2, N_IMAGES, settings.decode_deadline_s, settings.max_decode_bytes)
    try:
        futures = [pool.submit(image) for image in images]
        for future, expected in zip(futures, pixels, strict=True):
            np.testing.assert_array_equal(future.result(TIMEOUT_S).pixels, expected)
    finally:
        pool.close()
    np.testing.assert_array_equal(decode(images[0], preprocessing, limits).pixels, pixels[0])
