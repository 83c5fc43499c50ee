"""/v1/explain over HTTP: PNG or JSON, every method, and the deletion score."""

import io

import numpy as np
import pytest
from api_client import assert_problem
from PIL import Image

JSON = {"Accept": "application/json"}
PNG = {"Accept": "image/png"}


@pytest.fixture
def t_shirt(clothes) -> bytes:
    return dict(clothes)["t-shirt"]


def test_default_response_is_json(client, t_shirt):
    assert client.post("/v1/explain?label=bag", content=t_shirt).headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("accept", ["image/png", "image/*", "image/avif,image/webp,image/png,*/*;q=0.8"])
def test_overlay_is_a_png(client, t_shirt, accept):
    answer = client.post("/v1/explain?label=bag", content=t_shirt, headers={"Accept": accept})
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (448, 448)


def test_deletion_is_null_by_default(client, t_shirt):
    answer = client.post("/v1/explain?label=bag", content=t_shirt, headers=JSON).json()
    assert (answer["label"], answer["method"], answer["deletion"]) == ("bag", "cam", None)


def test_deletion_score_on_request(client, t_shirt):
    answer = client.post("/v1/explain?deletion=true", content=t_shirt, headers=JSON).json()
    deletion = answer["deletion"]
    assert len(deletion["probabilities"]) == 9
    assert deletion["probabilities"][0] == pytest.approx(answer["probability"], abs=1e-6)
    assert deletion["score"] == pytest.approx(np.trapezoid(deletion["probabilities"], dx=1 / 8))
    assert deletion["explains"] is (deletion["fraction_beaten"] >= 0.9)


def test_png_ignores_deletion(client, t_shirt):
    answer = client.post("/v1/explain?deletion=true", content=t_shirt, headers=PNG)
    assert answer.headers["Content-Type"] == "image/png"


def test_gradcam_equals_cam(client, t_shirt):
    gradcam, cam = (
        client.post(f"/v1/explain?label=bag&method={method}", content=t_shirt, headers=JSON).json()
        for method in ("gradcam", "cam")
    )
    assert (gradcam["method"], gradcam["bias"]) == ("gradcam", 0)
    np.testing.assert_allclose(gradcam["map"], cam["map"], atol=1e-3 * np.abs(cam["map"]).max())


def test_invalid_deletion_is_rejected(client, t_shirt):
    answer = client.post("/v1/explain?deletion=maybe", content=t_shirt, headers=JSON)
    assert assert_problem(answer, 422, "bad_deletion")["field"] == "deletion"
