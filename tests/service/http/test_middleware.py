"""The middleware: authorization, routing, deadlines, metrics, and the access log."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from api_client import TIMEOUT_S, BlockingEngine, asgi_app, assert_problem
from starlette.testclient import TestClient

from graft.service.http.middleware import Middleware
from graft.service.inference.engine import DeviceFailed, Outputs, Pixels
from graft.service.inference.model import Model
from graft.service.monitoring.logs import JsonFormatter

KEY = "correct horse battery staple"
PROTECTED = ["/v1/model", "/v1/labels", "/v1/limits", "/metrics", "/nothing", "/v1/nothing", "/schema.json"]
PUBLIC = ["/livez", "/healthz", "/readyz"]
DOCS = ["/", "/docs", "/docs.json", "/openapi.json"]


@pytest.fixture(scope="module")
def client(model) -> Iterator[TestClient]:
    with asgi_app(model) as app, TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def protected(model) -> Iterator[TestClient]:
    with asgi_app(model, api_key=KEY) as app, TestClient(app) as client:
        yield client


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "authorization", [None, "", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \xe9"]
)
def test_protected_routes_need_the_key(protected, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    response = protected.get(path, headers=headers)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_upload_without_the_key_is_rejected(protected, shirt):
    def body() -> Iterator[bytes]:
        yield shirt

    assert_problem(protected.post("/v1/classify", content=body()), 401, "unauthorized")
    assert_problem(protected.post("/classify", content=shirt), 401, "unauthorized")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_valid_key_is_accepted(protected, shirt, scheme):
    headers = {"Authorization": f"{scheme} {KEY}"}
    assert protected.post("/v1/classify", content=shirt, headers=headers).status_code == 200
    assert protected.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize("path", PUBLIC)
def test_probes_need_no_key(protected, path):
    assert protected.get(path).status_code == 200


@pytest.mark.parametrize("path", DOCS)
def test_page_and_documentation_need_no_key(protected, path):
    assert protected.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/Livez", "/livez/", "/metrics/", "/..%2fv1", "/static", "/%00"])
def test_unknown_path_outside_v1_is_not_found(client, path):
    assert_problem(client.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/model", "/v1/labels", "/v1/limits", "/metrics", "/docs.json", *PUBLIC])
def test_get_routes_accept_head(client, path):
    assert client.head(path).status_code == 200


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_bentoml_alias_uses_the_same_handler(client, model, shirt, path):
    answer = client.post(f"{path}?top_k=1&threshold=0.1", content=shirt).json()
    assert answer["predictions"][0]["label"] == model.classify(shirt, 1).ranked[0].label


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/*", "text/html, */*;q=0.1", ""])
def test_accept_header_that_allows_json(client, shirt, accept):
    assert client.post("/v1/classify", content=shirt, headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/json;q=0", "*/*;q=0", "application/json;q=nonsense"])
def test_accept_header_that_excludes_json_is_rejected(client, shirt, accept):
    assert_problem(client.post("/v1/classify", content=shirt, headers={"Accept": accept}), 406, "not_acceptable")


def test_service_is_not_ready_while_the_package_loads(shirt):
    with asgi_app(None) as app, TestClient(app) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/limits").status_code == 200
        for response in (client.get("/readyz"), client.post("/v1/classify", content=shirt), client.get("/v1/model")):
            assert_problem(response, 503, "not_ready")
            assert response.headers["Retry-After"] in ("1", "2", "3")


def held_model(model: Model) -> tuple[BlockingEngine, Model]:
    engine = BlockingEngine(model)
    return engine, Model(model.artifact, engine)


def test_answer_deadline(model, shirt):
    engine, slow = held_model(model)
    with asgi_app(slow, answer_deadline_s=0.2) as app, TestClient(app) as client:
        try:
            fields = assert_problem(client.post("/v1/classify", content=shirt), 504, "deadline")
        finally:
            engine.release.set()
    assert fields["limit"] == {"name": "answer_deadline_s", "value": 0.2, "setting": "GRAFT_ANSWER_DEADLINE_S"}


def test_hanging_network_fails_readiness_and_liveness(model, shirt):
    engine, slow = held_model(model)
    with asgi_app(slow, answer_deadline_s=0.2) as app, TestClient(app) as client:
        try:
            client.post("/v1/classify", content=shirt)
            time.sleep(0.1)
            assert_problem(client.get("/readyz"), 503, "not_ready")
            assert_problem(client.get("/livez"), 503, "not_ready")
        finally:
            engine.release.set()


def test_image_past_its_queue_deadline_is_not_computed(model, shirt):
    engine, slow = held_model(model)
    with asgi_app(slow, queue_deadline_s=0.3) as app, TestClient(app) as client, ThreadPoolExecutor(1) as executor:
        first = executor.submit(client.post, "/v1/classify", content=shirt)
        try:
            assert engine.started.wait(TIMEOUT_S)
            fields = assert_problem(client.post("/v1/classify", content=shirt), 503, "overloaded")
        finally:
            engine.release.set()
        assert first.result(TIMEOUT_S).status_code == 200
    assert fields["limit"] == {"name": "queue_deadline_s", "value": 0.3, "setting": "GRAFT_QUEUE_DEADLINE_S"}
    assert engine.n_calls == 1


@pytest.mark.parametrize("error", [MemoryError(), type("OutOfMemoryError", (RuntimeError,), {})()])
def test_out_of_memory_fails_liveness(model, shirt, error):
    class OutOfMemory(BlockingEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            raise error

    with asgi_app(Model(model.artifact, OutOfMemory(model))) as app, TestClient(app) as client:
        assert_problem(client.post("/v1/classify", content=shirt), 503, "out_of_memory")
        assert [client.get(path).status_code for path in PUBLIC] == [503, 503, 503]


def test_failed_gpu_fails_readiness_and_liveness_at_once(model, shirt):
    class Failed(BlockingEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            self.n_calls += 1
            raise type("AcceleratorError", (RuntimeError,), {})("CUDA error: an illegal memory access was encountered")

    engine = Failed(model)
    with asgi_app(Model(model.artifact, engine)) as app, TestClient(app) as client:
        responses = [client.post("/v1/classify", content=shirt) for _ in range(40)]
        for response in responses:
            assert_problem(response, 503, "device_failed")
            assert 1 <= int(response.headers["Retry-After"]) <= 3
        assert [client.get(path).status_code for path in PUBLIC] == [503, 503, 503]
    assert engine.n_calls == 1


def test_failed_gpu_is_a_problem_of_each_image_of_a_batch(model, shirt):
    class Failed(BlockingEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            raise DeviceFailed("lost")

    files = [("images", ("shirt.png", shirt, "image/png"))] * 3
    with asgi_app(Model(model.artifact, Failed(model))) as app, TestClient(app) as client:
        results = client.post("/v1/classify/batch", files=files).json()["results"]
    assert [result["error"]["code"] for result in results] == ["device_failed"] * 3


def test_three_consecutive_nan_outputs_fail_readiness(model, shirt):
    class Broken(BlockingEngine):
        def __call__(self, batch: Pixels) -> Outputs:
            return Outputs(np.full((1, 10), np.nan, np.float32), np.zeros((1, 1280), np.float32))

    with asgi_app(Model(model.artifact, Broken(model))) as app, TestClient(app) as client:
        states = []
        for _ in range(3):
            assert_problem(client.post("/v1/classify", content=shirt), 500, "model_output_invalid")
            states.append(client.get("/readyz").status_code)
    assert states == [200, 200, 503]


def series(client: TestClient) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_requests_are_counted_by_route_status_and_code(model, shirt):
    with asgi_app(model) as app, TestClient(app) as client:
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
    with asgi_app(model) as app, TestClient(app) as client:
        client.post("/v1/classify", content=encode(noise))
        assert series(client)['graft_abstentions_total{reason="outlier"}'] == 1


def test_model_info_metric(client, model):
    [info] = [name for name in series(client) if name.startswith("graft_model_info")]
    assert f'sha256="{model.manifest.sha256}"' in info
    assert 'device="cpu"' in info


def test_clients_cannot_create_metric_series(client):
    client.get("/a")
    before = set(series(client))
    for number in range(20):
        client.request(f"M{number}", f"/path{number}?q={number}", headers={"X-Request-ID": f"id{number}"})
    assert set(series(client)) == before


def test_access_log_is_one_json_line_without_pixels_or_keys(model, shirt, caplog):
    with caplog.at_level(logging.INFO, "graft"), asgi_app(model, api_key=KEY) as app, TestClient(app) as client:
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


def test_probes_are_not_logged(client, caplog):
    with caplog.at_level(logging.INFO, "graft"):
        client.get("/readyz")
    assert [record for record in caplog.records if record.name == "graft"] == []


def test_access_log_can_be_disabled(model, shirt, caplog):
    with caplog.at_level(logging.INFO, "graft"), asgi_app(model, log_requests=False) as app, TestClient(app) as client:
        client.post("/v1/classify", content=shirt)
    assert [record for record in caplog.records if record.name == "graft"] == []


def test_upload_budget_is_shared_by_all_requests(model, shirt):
    with asgi_app(model, max_upload_bytes=len(shirt) - 1) as app, TestClient(app) as client:
        fields = assert_problem(client.post("/v1/classify", content=shirt), 503, "overloaded")
    assert fields["limit"]["setting"] == "GRAFT_MAX_UPLOAD_BYTES"


def test_upload_budget_is_released(model, shirt):
    with asgi_app(model, max_upload_bytes=len(shirt)) as app, TestClient(app) as client:
        assert [client.post("/v1/classify", content=shirt).status_code for _ in range(3)] == [200, 200, 200]


PRIVATE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@pytest.mark.parametrize(
    "path", ["/v1/model", "/v1/labels", "/v1/limits", "/metrics", "/livez", "/readyz", "/v1/nothing", "/redoc"]
)
def test_no_answer_is_stored_or_sniffed(client, path):
    assert PRIVATE.items() <= client.get(path, follow_redirects=False).headers.items()


def test_no_result_or_problem_of_an_image_is_stored_or_sniffed(client, protected, shirt):
    answers = [client.post("/v1/classify", content=content) for content in (shirt, b"GIF89a", b"")]
    answers += [client.post("/v1/explain", content=shirt, headers={"Accept": "image/png"}), protected.get("/v1/model")]
    answers += [client.get("/v1/classify"), client.options("/v1/classify")]
    assert [answer.status_code for answer in answers] == [200, 422, 422, 200, 401, 405, 405]
    assert all(PRIVATE.items() <= answer.headers.items() for answer in answers)


def test_files_of_the_page_keep_their_own_caching(client):
    for path in ("/", "/docs", "/openapi.json"):
        assert client.get(path).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_on_the_path_of_bentoml_get_a_problem(client, method):
    response = client.request(method, "/schema.json")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "GET, HEAD"


def refuse_websocket(app: Middleware, extensions: dict[str, object]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/classify", "headers": [], "query_string": b"", "extensions": extensions}
    asyncio.run(app(scope, receive, send))
    return sent


def test_refused_websockets_are_counted_and_logged(model, caplog):
    with caplog.at_level(logging.INFO, "graft"), asgi_app(model) as app:
        assert refuse_websocket(app, {}) == [{"type": "websocket.close", "code": 1008}]
        text = app.app_state.metrics.to_text().decode()
    assert 'graft_requests_total{code="bad_request",route="/v1/classify",status="400"} 1.0' in text
    [fields] = [record.fields for record in caplog.records if record.getMessage() == "request"]
    assert (fields["route"], fields["status"], fields["code"]) == ("/v1/classify", 400, "bad_request")


def test_a_server_that_can_answers_a_websocket_with_a_problem(model):
    with asgi_app(model) as app:
        start, body = refuse_websocket(app, {"websocket.http.response": {}})
    assert (start["type"], start["status"], body["type"]) == (
        "websocket.http.response.start",
        400,
        "websocket.http.response.body",
    )
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert json.loads(body["body"])["code"] == "bad_request"
