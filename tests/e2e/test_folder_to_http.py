"""End to end: fit on a folder of images; every API returns the same predictions."""

import base64
import subprocess
import sys
from pathlib import Path

import bentoml
import httpx
import numpy as np
import pytest

from graft.service.inference.postprocess import rank, to_probabilities


@pytest.fixture(scope="module")
def image(clothes, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "ankle boot.png"
    path.write_bytes(clothes[0][1])
    return path


@pytest.fixture(scope="module")
def expected(fitted, image) -> dict[str, float]:
    """Predictions of the network in memory after training: label -> probability."""
    from graft.service.imaging.preprocess import decode

    trained = fitted.trained
    pixels = decode(image.read_bytes(), trained.preprocessing).pixels
    row = to_probabilities(trained.network(pixels[None]).logits, trained.temperature)[0]
    labels = fitted.artifact.manifest.labels
    return dict(rank(row, labels, len(labels)))


def by_raw_body(url: str, image: Path) -> list[dict]:
    response = httpx.post(f"{url}/v1/classify?top_k=10", content=image.read_bytes(), headers={"Content-Type": "image/png"})
    return response.json()["predictions"]


def by_multipart(url: str, image: Path) -> list[dict]:
    response = httpx.post(f"{url}/v1/classify", files={"image": image.open("rb")}, data={"top_k": "10"})
    return response.json()["predictions"]


def by_json(url: str, image: Path) -> list[dict]:
    body = {"image": base64.b64encode(image.read_bytes()).decode(), "top_k": 10}
    return httpx.post(f"{url}/v1/classify", json=body).json()["predictions"]


def by_bentoml_client(url: str, image: Path) -> list[dict]:
    with bentoml.SyncHTTPClient(url) as client:
        return client.classify(image=image, top_k=10)["predictions"]


def by_command_line(package: Path, image: Path) -> list[dict]:
    import json

    command = [sys.executable, "-m", "graft", "predict", str(package), str(image), "--top-k", "10", "--json"]
    [result] = json.loads(subprocess.check_output(command))["images"]
    return result["predictions"]


@pytest.mark.parametrize("send", [by_raw_body, by_multipart, by_json, by_bentoml_client])
def test_http_predictions_match_the_network_in_memory(send, server, image, expected):
    assert_same(send(server, image), expected)


def test_command_line_predictions_match_the_network_in_memory(fitted, image, expected):
    assert_same(by_command_line(fitted.artifact.path, image), expected)


def test_model_is_better_than_chance(fitted):
    score = fitted.artifact.manifest.scores["test"]
    assert score.n == 500
    assert score.low > 0.75  # chance level is 0.1 with ten labels


def assert_same(predictions: list[dict], expected: dict[str, float]) -> None:
    assert [prediction["label"] for prediction in predictions] == list(expected)
    found = np.array([prediction["probability"] for prediction in predictions])
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-4)
