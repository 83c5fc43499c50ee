"""The gate: who gets in, which paths lead anywhere, and what an operator sees of every request."""

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from api_client import PATIENCE, HeldEngine, mounted, problem
from starlette.testclient import TestClient

from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.model import Model
from graft.service.monitoring.logs import JsonFormatter

KEY = "correct horse battery staple"
GUARDED = ["/v1/model", "/v1/labels", "/v1/limits", "/metrics", "/docs.json", "/nothing", "/v1/nothing", "/schema.json"]
OPEN = ["/livez", "/healthz", "/readyz"]


@pytest.fixture(scope="module")
def shirt(clothes) -> bytes:
    return clothes[6][1]


@pytest.fixture(scope="module")
def client(model) -> Iterator[TestClient]:
    with mounted(model) as app, TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def locked(model) -> Iterator[TestClient]:
    with mounted(model, api_key=KEY) as app, TestClient(app) as client:
        yield client


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "given", [None, "", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \xe9"]
)
def test_without_the_key_nothing_is_told(locked, path, given):
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    response = locked.get(path, headers=headers)
    problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_without_the_key_no_image_is_read(locked, shirt):
    def never() -> Iterator[bytes]:
        yield shirt

    problem(locked.post("/v1/classify", content=never()), 401, "unauthorized")
    problem(locked.post("/classify", content=shirt), 401, "unauthorized")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_opens_it(locked, shirt, scheme):
    headers = {"Authorization": f"{scheme} {KEY}"}
    assert locked.post("/v1/classify", content=shirt, headers=headers).status_code == 200
    assert locked.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_key(locked, path):
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/Livez", "/livez/", "/metrics/", "/..%2fv1", "/static", "/%00"])
def test_an_unknown_path_is_a_problem_outside_of_v1_too(client, path):
    problem(client.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/model", "/v1/labels", "/v1/limits", "/metrics", "/docs.json", *OPEN])
def test_what_can_be_got_can_be_asked_for_its_head(client, path):
    assert client.head(path).status_code == 200


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_bentomls_name_is_answered_by_the_same_handler(client, model, shirt, path):
    answer = client.post(f"{path}?top_k=1&threshold=0.1", content=shirt).json()
    assert answer["predictions"][0]["label"] == model.classify(shirt, 1).ranked[0].label


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/*", "text/html, */*;q=0.1", ""])
def test_an_answer_that_is_wanted_as_json_is_sent(client, shirt, accept):
    assert client.post("/v1/classify", content=shirt, headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/json;q=0", "*/*;q=0", "application/json;q=nonsense"])
def test_an_answer_that_nobody_wants_is_refused(client, shirt, accept):
    problem(client.post("/v1/classify", content=shirt, headers={"Accept": accept}), 406, "not_acceptable")


def test_while_the_package_is_loaded_it_says_so(shirt):
    with mounted(None) as app, TestClient(app) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/limits").status_code == 200
        for response in (client.get("/readyz"), client.post("/v1/classify", content=shirt), client.get("/v1/model")):
            problem(response, 503, "not_ready")
            assert response.headers["Retry-After"] in ("1", "2", "3")


def held(model: Model) -> tuple[HeldEngine, Model]:
    engine = HeldEngine(model)
    return engine, Model(model.artifact, engine)


def test_an_answer_that_takes_too_long_is_given_up(model, shirt):
    engine, slow = held(model)
    with mounted(slow, answer_deadline_s=0.2) as app, TestClient(app) as client:
        try:
            fields = problem(client.post("/v1/classify", content=shirt), 504, "deadline")
        finally:
            engine.go.set()
    assert fields["limit"] == {"name": "answer_deadline_s", "value": 0.2, "setting": "GRAFT_ANSWER_DEADLINE_S"}


def test_a_network_that_hangs_makes_the_service_unready_and_then_dead(model, shirt):
    engine, slow = held(model)
    with mounted(slow, answer_deadline_s=0.2) as app, TestClient(app) as client:
        try:
            client.post("/v1/classify", content=shirt)
            time.sleep(0.1)
            problem(client.get("/readyz"), 503, "not_ready")
            problem(client.get("/livez"), 503, "not_ready")
        finally:
            engine.go.set()


def test_what_has_waited_past_its_deadline_is_never_computed(model, shirt):
    engine, slow = held(model)
    with mounted(slow, queue_deadline_s=0.3) as app, TestClient(app) as client, ThreadPoolExecutor(1) as elsewhere:
        first = elsewhere.submit(client.post, "/v1/classify", content=shirt)
        try:
            assert engine.begun.wait(PATIENCE)
            fields = problem(client.post("/v1/classify", content=shirt), 503, "overloaded")
        finally:
            engine.go.set()
        assert first.result(PATIENCE).status_code == 200
    assert fields["limit"] == {"name": "queue_deadline_s", "value": 0.3, "setting": "GRAFT_QUEUE_DEADLINE_S"}
    assert engine.calls == 1


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})()])
def test_a_network_without_memory_asks_for_patience_and_a_new_process(model, shirt, error):
    class Full(HeldEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            raise error

    with mounted(Model(model.artifact, Full(model))) as app, TestClient(app) as client:
        problem(client.post("/v1/classify", content=shirt), 503, "out_of_memory")
        assert [client.get(path).status_code for path in OPEN] == [503, 503, 503]


def test_three_answers_in_a_row_that_are_no_numbers_make_it_unready(model, shirt):
    class Broken(HeldEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            return Outputs(np.full((1, 10), np.nan, np.float32), np.zeros((1, 1280), np.float32))

    with mounted(Model(model.artifact, Broken(model))) as app, TestClient(app) as client:
        states = []
        for _ in range(3):
            problem(client.post("/v1/classify", content=shirt), 500, "model_output_invalid")
            states.append(client.get("/readyz").status_code)
    assert states == [200, 200, 503]


def series(client: TestClient) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_every_answer_is_counted_by_route_status_and_code(model, shirt):
    with mounted(model) as app, TestClient(app) as client:
        client.post("/v1/classify", content=shirt)
        client.post("/v1/classify", content=b"")
        client.get("/secret")
        found = series(client)
    assert found['graft_requests_total{code="ok",route="/v1/classify",status="200"}'] == 1
    assert found['graft_requests_total{code="empty_image",route="/v1/classify",status="422"}'] == 1
    assert found['graft_requests_total{code="not_found",route="other",status="404"}'] == 1
    assert found['graft_stage_seconds_count{stage="network"}'] == 1
    assert found["graft_batch_size_sum"] == 1
    assert found["graft_images_total"] == 1
    assert found["graft_outlier_score_count"] == 1
    assert found['graft_waiting{queue="images"}'] == 0


def test_abstentions_are_counted_by_reason(model, encode):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    with mounted(model) as app, TestClient(app) as client:
        client.post("/v1/classify", content=encode(noise))
        assert series(client)['graft_abstentions_total{reason="outlier"}'] == 1


def test_the_model_is_told_to_the_operator(client, model):
    [told] = [name for name in series(client) if name.startswith("graft_model_info")]
    assert f'sha256="{model.manifest.sha256}"' in told
    assert 'device="cpu"' in told


def test_no_caller_can_make_new_series(client):
    client.get("/a")
    before = set(series(client))
    for number in range(20):
        client.request(f"M{number}", f"/path{number}?q={number}", headers={"X-Request-ID": f"id{number}"})
    assert set(series(client)) == before


def test_every_request_is_one_line_of_json_without_pixels_or_keys(model, shirt, caplog):
    with caplog.at_level(logging.INFO, "graft"), mounted(model, api_key=KEY) as app, TestClient(app) as client:
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": "mine"}
        client.post("/v1/classify?top_k=1", files={"image": ("secret.png\n", shirt)}, headers=headers)
    [record] = [record for record in caplog.records if record.name == "graft"]
    line = JsonFormatter().format(record)
    fields = json.loads(line)
    assert "\n" not in line
    assert "secret" not in line
    assert KEY not in line
    assert {name: fields[name] for name in ("event", "request_id", "method", "route", "status", "code")} == {
        "event": "request",
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/classify",
        "status": 200,
        "code": "ok",
    }


def test_probes_do_not_fill_the_log(client, caplog):
    with caplog.at_level(logging.INFO, "graft"):
        client.get("/readyz")
    assert [record for record in caplog.records if record.name == "graft"] == []


def test_the_log_can_be_silenced(model, shirt, caplog):
    with caplog.at_level(logging.INFO, "graft"), mounted(model, log_requests=False) as app, TestClient(app) as client:
        client.post("/v1/classify", content=shirt)
    assert [record for record in caplog.records if record.name == "graft"] == []


def test_bytes_in_memory_are_bounded_for_all_requests_together(model, shirt):
    with mounted(model, max_upload_bytes=len(shirt) - 1) as app, TestClient(app) as client:
        fields = problem(client.post("/v1/classify", content=shirt), 503, "overloaded")
    assert fields["limit"]["setting"] == "GRAFT_MAX_UPLOAD_BYTES"


def test_bytes_are_given_back(model, shirt):
    with mounted(model, max_upload_bytes=len(shirt)) as app, TestClient(app) as client:
        assert [client.post("/v1/classify", content=shirt).status_code for _ in range(3)] == [200, 200, 200]
