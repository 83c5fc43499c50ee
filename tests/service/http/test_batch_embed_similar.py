"""/v1/classify/batch, /v1/embed, and /v1/similar over HTTP."""

import base64

import numpy as np
import pytest
from api_client import BOUNDARY, asgi_app, assert_problem, multipart_body
from starlette.testclient import TestClient


def files(*images: bytes) -> list[tuple[str, bytes]]:
    return [("images", image) for image in images]


def test_batch_returns_one_result_per_image(client, model, clothes):
    answer = client.post("/v1/classify/batch?top_k=1", files=files(*(encoded for _, encoded in clothes))).json()
    assert [result["index"] for result in answer["results"]] == list(range(10))
    found = [result["answer"]["predictions"][0]["label"] for result in answer["results"]]
    assert found == [model.classify(encoded, 1).ranked[0].label for _, encoded in clothes]
    assert {result["answer"]["request_id"] for result in answer["results"]} == {answer["request_id"]}


def test_invalid_image_in_batch_does_not_affect_the_others(client, shirt):
    results = client.post("/v1/classify/batch", files=files(shirt, shirt[:90], b"", shirt)).json()["results"]
    assert [result["error"] is None for result in results] == [True, False, False, True]
    assert [result["error"]["code"] for result in results[1:3]] == ["corrupt_image", "empty_image"]
    assert results[1]["answer"] is None


def test_batch_over_the_image_limit_is_rejected(client, shirt):
    fields = assert_problem(client.post("/v1/classify/batch", files=files(*[shirt] * 17)), 413, "too_many_files")
    assert fields["limit"] == {"name": "max_batch_images", "value": 16, "setting": "GRAFT_MAX_BATCH_IMAGES"}


def test_batch_at_the_image_limit_is_accepted(client, shirt):
    results = client.post("/v1/classify/batch", files=files(*[shirt] * 16)).json()["results"]
    assert all(result["answer"] for result in results)


@pytest.mark.parametrize("field", ["picture", "Images"])
def test_batch_without_images_is_rejected(client, shirt, field):
    assert assert_problem(client.post("/v1/classify/batch", files={field: shirt}), 422, "missing_image")["field"] == "images"


def test_batch_of_urls_is_rejected(client):
    body = multipart_body(b"http://127.0.0.1/cat.jpg", "images").replace(b'; filename="a.png"', b"")
    response = client.post("/v1/classify/batch", content=body, headers=BOUNDARY)
    assert assert_problem(response, 422, "urls_not_accepted")["field"] == "images"


def test_images_of_a_batch_may_have_any_field_for_images(client, shirt):
    sent = [("images[]", shirt), ("files", shirt), ("file", shirt), ("image", shirt)]
    results = client.post("/v1/classify/batch", files=sent).json()["results"]
    assert [result["error"] for result in results] == [None] * 4


def test_batch_must_be_multipart(client, shirt):
    assert_problem(client.post("/v1/classify/batch", content=shirt), 415, "unsupported_media_type")


def test_batch_reports_overload_per_image(model, shirt):
    with asgi_app(model, max_waiting=1) as app, TestClient(app) as client:
        results = client.post("/v1/classify/batch", files=files(*[shirt] * 8)).json()["results"]
    codes = {result["error"]["code"] for result in results if result["error"]}
    assert codes <= {"overloaded"}
    assert any(result["answer"] for result in results)


def test_embed_returns_the_networks_vector(client, model, shirt):
    answer = client.post("/v1/embed", content=shirt).json()
    expected = model.engine(model.decode(shirt).pixels[None]).vectors[0]
    np.testing.assert_allclose(answer["vector"], expected, atol=1e-5)
    assert set(answer) == {"vector", "model", "image", "warnings", "timing_ms", "request_id"}


def test_embed_has_no_options(client, shirt):
    assert assert_problem(client.post("/v1/embed?top_k=1", content=shirt), 422, "unknown_field")["field"] == "top_k"


def test_neighbors_are_sorted_by_distance(client, model, shirt):
    neighbors = client.post("/v1/similar?k=7", content=shirt).json()["neighbors"]
    distances = [neighbor["distance"] for neighbor in neighbors]
    assert len(neighbors) == 7
    assert distances == sorted(distances)
    vector = model.engine(model.decode(shirt).pixels[None]).vectors[0]
    assert distances[0] == pytest.approx(float(model.neighbors.distances(vector).min()), abs=1e-5)
    assert neighbors[0]["path"].startswith("train/")


def test_nearest_neighbor_of_a_training_image_is_itself(client, model):
    from graft.training.data.dataset import scan
    from graft.training.sample import SAMPLE

    dataset = scan(SAMPLE)
    path = model.neighbors.paths[0]
    [sample] = [sample for sample in dataset.samples if sample.path == path]
    nearest = client.post("/v1/similar?k=1", content=dataset.read(sample)).json()["neighbors"][0]
    assert (nearest["path"], nearest["labels"]) == (path, [dataset.labels[sample.label]])
    assert nearest["distance"] < 1e-3


def test_k_above_the_index_size_returns_all_with_a_warning(client, model, shirt):
    answer = client.post("/v1/similar?k=100000", content=shirt).json()
    assert len(answer["neighbors"]) == len(model.neighbors.paths)
    assert answer["warnings"] == [f"k: the package contains only {len(model.neighbors.paths)} training images"]


def test_number_of_neighbors_is_limited_with_a_warning(client, shirt, monkeypatch):
    monkeypatch.setattr("graft.service.answers.MAX_NEIGHBORS", 3)
    answer = client.post("/v1/similar?k=4", content=shirt).json()
    assert len(answer["neighbors"]) == 3
    assert answer["warnings"] == ["k: a response contains at most 3 training images"]


def test_bytes_of_thumbnails_are_limited_with_a_warning(client, model, shirt, monkeypatch):
    everything = client.post("/v1/similar?k=5&thumbnails=true", content=shirt).json()
    thumbnails = [neighbor["thumbnail"] for neighbor in everything["neighbors"]]
    assert everything["warnings"] == []
    monkeypatch.setattr(
        "graft.service.answers.MAX_THUMBNAIL_BYTES", sum(len(base64.b64decode(text)) for text in thumbnails[:3])
    )
    answer = client.post("/v1/similar?k=5&thumbnails=true", content=shirt).json()
    assert [neighbor["thumbnail"] for neighbor in answer["neighbors"]] == [*thumbnails[:3], None, None]
    assert [neighbor["path"] for neighbor in answer["neighbors"]] == [found["path"] for found in everything["neighbors"]]
    assert answer["warnings"] == ["thumbnails: only of the 3 nearest images, because all would take more than 0 MiB"]


@pytest.mark.parametrize("k", ["0", "-1", "1.5", "many", ""])
def test_invalid_k_is_rejected(client, shirt, k):
    assert assert_problem(client.post(f"/v1/similar?k={k}", content=shirt), 422, "bad_k")["field"] == "k"


@pytest.mark.parametrize("path", ["embed", "similar"])
def test_corrupt_image_is_rejected_by_every_route(client, shirt, path):
    assert_problem(client.post(f"/v1/{path}", content=shirt[:90]), 422, "corrupt_image")
