"""Which image formats a service accepts: five always, others if the training images had them or GRAFT_FORMATS names them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from api_client import asgi_app, assert_problem
from PIL import Image
from starlette.testclient import TestClient

from graft.service.inference.model import Model

ALWAYS = ["JPEG", "PNG", "WebP", "GIF", "BMP"]


@contextmanager
def client_of(model: Model, learned: tuple[str, ...], **settings: str) -> Iterator[TestClient]:
    """A service whose model learned from images in some formats."""
    trained = Model(model.artifact, model.engine)
    trained.manifest = model.manifest.model_copy(update={"formats": learned})
    with asgi_app(trained, **settings) as app, TestClient(app) as client:
        yield client


def encoded(format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", ["TIFF", "AVIF"])
def test_format_that_the_model_did_not_learn_from_is_refused_with_a_remedy(model, format):
    with client_of(model, ("JPEG", "PNG")) as client:
        problem = assert_problem(client.post("/v1/classify", content=encoded(format)), 415, "unsupported_format")
    assert problem["detail"] == f"{format} is not accepted here: send JPEG, PNG, WebP, GIF, BMP."


@pytest.mark.parametrize(("format", "label"), [("TIFF", "TIFF"), ("AVIF", "AVIF")])
def test_format_that_the_model_learned_from_is_accepted(model, format, label):
    with client_of(model, ("PNG", format)) as client:
        assert client.post("/v1/classify", content=encoded(format)).json()["image"]["format"] == format
        assert client.get("/v1/limits").json()["formats"] == [*ALWAYS, label]


def test_setting_adds_a_format(model):
    with client_of(model, ("JPEG",), formats="jpeg,tiff") as client:
        assert client.post("/v1/classify", content=encoded("TIFF")).status_code == 200
        assert client.get("/v1/limits").json()["formats"] == ["JPEG", "TIFF"]


def test_setting_removes_a_format_that_the_model_learned_from(model):
    with client_of(model, ("JPEG", "TIFF"), formats="jpeg,png") as client:
        problem = assert_problem(client.post("/v1/classify", content=encoded("TIFF")), 415, "unsupported_format")
        assert problem["detail"] == "TIFF is not accepted here: send JPEG, PNG."
        assert_problem(client.post("/v1/classify", content=encoded("WEBP")), 415, "unsupported_format")


def test_batch_reports_a_refused_format_for_its_image_alone(model):
    files = [("images", encoded("PNG")), ("images", encoded("TIFF"))]
    with client_of(model, ("PNG",)) as client:
        good, bad = client.post("/v1/classify/batch", files=files).json()["results"]
    assert (good["error"], bad["error"]["code"]) == (None, "unsupported_format")
