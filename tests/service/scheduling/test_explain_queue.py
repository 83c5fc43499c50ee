"""/v1/explain over HTTP: a picture or numbers, by every method, and on demand whether they explain anything."""

import io

import numpy as np
import pytest
from api_client import problem
from PIL import Image

JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def shirt(clothes) -> bytes:
    return dict(clothes)["t-shirt"]


def test_a_picture_comes_unless_numbers_are_asked_for(client, shirt):
    answer = client.post("/v1/explain?label=bag", content=shirt)
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (448, 448)


def test_a_map_says_nothing_of_its_worth_unless_asked(client, shirt):
    answer = client.post("/v1/explain?label=bag", content=shirt, headers=JSON).json()
    assert (answer["label"], answer["method"], answer["deletion"]) == ("bag", "cam", None)


def test_a_maps_worth_is_told_where_it_is_asked_for(client, shirt):
    told = client.post("/v1/explain?deletion=true", content=shirt, headers=JSON).json()
    judged = told["deletion"]
    assert len(judged["probabilities"]) == 9
    assert judged["probabilities"][0] == pytest.approx(told["probability"], abs=1e-6)
    assert judged["score"] == pytest.approx(np.trapezoid(judged["probabilities"], dx=1 / 8))
    assert judged["explains"] is (judged["beaten"] >= 0.9)


def test_a_picture_may_be_asked_for_with_it_and_stays_a_picture(client, shirt):
    assert client.post("/v1/explain?deletion=true", content=shirt).headers["Content-Type"] == "image/png"


def test_gradients_tell_what_the_class_activation_map_tells(client, shirt):
    by_gradients, exact = (
        client.post(f"/v1/explain?label=bag&method={method}", content=shirt, headers=JSON).json()
        for method in ("gradcam", "cam")
    )
    assert (by_gradients["method"], by_gradients["bias"]) == ("gradcam", 0)
    np.testing.assert_allclose(by_gradients["map"], exact["map"], atol=1e-3 * np.abs(exact["map"]).max())


def test_an_impossible_deletion_is_refused(client, shirt):
    answer = client.post("/v1/explain?deletion=maybe", content=shirt, headers=JSON)
    assert problem(answer, 422, "bad_deletion")["field"] == "deletion"
