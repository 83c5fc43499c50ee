"""Overload: every request gets the right response or an immediate rejection, and the service recovers quickly."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from api_client import TIMEOUT_S, BlockingEngine, http_server
from load_generator import Phase, RequestSpec, build_post, start_load_generator

from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.model import Model

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n"


class SlowEngine:
    """An engine with a fixed delay that counts its calls."""

    device, precision, streams, max_batch = "cpu", "f32", 1, 1

    def __init__(self, model: Model, seconds: float) -> None:
        self.n_calls = 0
        self._engine, self._seconds = model.engine, seconds

    def __call__(self, batch: Pixels) -> Outputs:
        self.n_calls += 1
        time.sleep(self._seconds)
        return self._engine(batch)


@pytest.fixture(scope="module")
def asks(clothes) -> list[RequestSpec]:
    """One image per label; the response must name the label."""
    images = {label: encoded for label, encoded in clothes if label in {"ankle boot", "bag", "sandal", "trouser"}}
    return [
        RequestSpec(label, build_post("/v1/classify", encoded), expected_body=b'"predictions":[{"label":"%s"' % label.encode())
        for label, encoded in images.items()
    ]


@contextmanager
def overloaded_server(model: Model, shirt: bytes, **settings: object) -> Iterator[tuple[int, threading.Event]]:
    """A service with one slot, which is occupied until the event is set; yields port and event."""
    engine = BlockingEngine(model)
    key = settings.get("api_key")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with http_server(Model(model.artifact, engine), max_waiting=1, **settings) as port, ThreadPoolExecutor(1) as executor:
        first = executor.submit(
            httpx.post, f"http://127.0.0.1:{port}/v1/classify", content=shirt, headers=headers, timeout=TIMEOUT_S
        )
        try:
            assert engine.started.wait(TIMEOUT_S)
            yield port, engine.release
        finally:
            engine.release.set()
        assert first.result(TIMEOUT_S).status_code == 200


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def read_responses(connection: socket.socket, n_responses: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Read the next `n_responses` responses: status, headers and body."""
    received, responses = b"", []
    while len(responses) < n_responses:
        while b"\r\n\r\n" not in received:
            received += recv(connection)
        header, _, received = received.partition(b"\r\n\r\n")
        status, *lines = header.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers["content-length"])
        while len(received) < size:
            received += recv(connection)
        responses.append((int(status.split()[1]), headers, received[:size]))
        received = received[size:]
    assert received == b""
    return responses


def recv(connection: socket.socket) -> bytes:
    chunk = connection.recv(2**16)
    assert chunk, "connection closed"
    return chunk


def metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def content_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % len(body)


def test_every_request_gets_a_response_or_an_immediate_rejection(model, asks):
    engine = SlowEngine(model, 0.01)
    with http_server(Model(model.artifact, engine), max_waiting=8) as port, start_load_generator(port) as clients:
        outcomes = clients.open_loop(asks, [Phase(400, 2)]).result().outcomes
        later_outcomes = clients.open_loop(asks, [Phase(20, 1)], seed=1).result().outcomes
    good = [outcome for outcome in outcomes if outcome.status == 200]
    rejected = [outcome for outcome in outcomes if outcome.status == 503]
    assert len(good) + len(rejected) == len(outcomes) > 500
    assert {outcome.code for outcome in good} == {""}
    assert {outcome.code for outcome in rejected} == {"overloaded"}
    assert {outcome.retry_after for outcome in rejected} == {"1", "2", "3"}
    assert engine.n_calls == len(good) + len(later_outcomes)
    assert {(outcome.status, outcome.code) for outcome in later_outcomes} == {(200, "")}


def test_no_inference_after_the_deadline(model, asks):
    engine = SlowEngine(model, 0.05)
    with http_server(Model(model.artifact, engine), queue_deadline_s=0.2) as port, start_load_generator(port) as clients:
        outcomes = clients.open_loop(asks, [Phase(60, 2)]).result().outcomes
    good = [outcome for outcome in outcomes if outcome.status == 200]
    late = [outcome for outcome in outcomes if (outcome.status, outcome.code) == (503, "overloaded")]
    assert len(good) + len(late) == len(outcomes)
    assert late
    assert engine.n_calls == len(good)


def test_queues_are_empty_afterwards(model, asks):
    engine = SlowEngine(model, 0.01)
    with http_server(Model(model.artifact, engine), max_waiting=4) as port, start_load_generator(port) as clients:
        outcomes = clients.open_loop(asks, [Phase(300, 1)]).result().outcomes
        lines = metrics(port).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith(("graft_waiting", "graft_requests_total")))
    assert {values[f'graft_waiting{{queue="{queue}"}}'] for queue in ("images", "decode", "network")} == {"0.0"}
    for status, code in ((200, "ok"), (503, "overloaded")):
        count = values[f'graft_requests_total{{code="{code}",route="/v1/classify",status="{status}"}}']
        assert float(count) == sum(outcome.status == status for outcome in outcomes)


def test_image_is_rejected_from_its_headers(model, shirt):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        connection.sendall(HEAD + b"X-Request-ID: mine\r\nContent-Length: 40000\r\n\r\n")
        [(status, headers, body)] = read_responses(connection, 1)
    fields = json.loads(body)
    assert (status, fields["code"], fields["request_id"]) == (503, "overloaded", "mine")
    assert fields["limit"] == {"name": "max_waiting", "value": 1, "setting": "GRAFT_MAX_WAITING"}
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-request-id"] == "mine"
    assert headers["retry-after"] in ("1", "2", "3")
    assert "connection" not in headers


@pytest.mark.parametrize("path", [b"/v1/classify?top_k=3", b"/v1/classify/batch", b"/v1/embed", b"/v1/similar", b"/classify"])
def test_every_image_route_rejects_from_headers(model, shirt, path):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n")
        assert read_responses(connection, 1)[0][0] == 503


def test_connection_is_reused_after_a_rejection(model, shirt):
    with overloaded_server(model, shirt) as (port, go), connect(port) as connection:
        connection.sendall(HEAD + content_length(shirt))
        assert read_responses(connection, 1)[0][0] == 503
        connection.sendall(shirt)
        connection.sendall(LIVEZ + b"\r\n")
        assert read_responses(connection, 1)[0][0] == 200
        go.set()
        wait_until_idle(port)
        connection.sendall(HEAD + content_length(shirt) + shirt)
        assert read_responses(connection, 1)[0][0] == 200


def wait_until_idle(port: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while 'graft_waiting{queue="images"} 0.0' not in metrics(port):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "body", [content_length(bytes(40_000)) + bytes(40_000), b"Transfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n"]
)
def test_rejected_body_is_not_parsed_as_the_next_request(model, shirt, body):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        for _ in range(3):
            connection.sendall(HEAD + body + LIVEZ + b"\r\n")
            assert [status for status, _, _ in read_responses(connection, 2)] == [503, 200]


def test_pipelined_request_waits_for_the_previous_one(model, shirt):
    engine = BlockingEngine(model)
    with http_server(Model(model.artifact, engine), max_waiting=1) as port, connect(port) as connection:
        connection.sendall((HEAD + content_length(shirt) + shirt) * 2)
        try:
            assert engine.started.wait(TIMEOUT_S)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        finally:
            engine.release.set()
        connection.settimeout(TIMEOUT_S)
        assert [status for status, _, _ in read_responses(connection, 2)] == [200, 200]


def test_connection_close_is_honored_after_a_rejection(model, shirt):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        connection.sendall(HEAD + b"Connection: close\r\n" + content_length(shirt) + shirt)
        [(status, headers, _)] = read_responses(connection, 1)
        assert (status, headers["connection"]) == (503, "close")
        assert connection.recv(1) == b""


def test_expect_100_continue_is_rejected_before_the_body(model, shirt):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\n" + content_length(shirt))
        [(status, headers, _)] = read_responses(connection, 1)
        assert (status, headers["connection"]) == (503, "close")
        assert connection.recv(1) == b""


def test_missing_body_of_a_rejected_request_closes_the_connection(model, shirt):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 40000\r\n\r\n" + bytes(100))
        assert read_responses(connection, 1)[0][0] == 503
        assert connection.recv(1) == b""


def test_malformed_body_of_a_rejected_request_closes_the_connection(model, shirt):
    with overloaded_server(model, shirt) as (port, _), connect(port) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n")
        assert read_responses(connection, 1)[0][0] == 503
        assert connection.recv(1) == b""


def test_requests_without_image_are_served_as_usual(model, shirt):
    with overloaded_server(model, shirt) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        statuses = [client.get(path).status_code for path in ("/livez", "/readyz", "/metrics", "/v1/labels", "/")]
        assert statuses == [200] * 5
        assert client.get("/v1/classify").status_code == 405
        assert client.post("/v1/nothing", content=shirt).status_code == 404


def test_overload_is_not_revealed_without_the_key(model, shirt):
    key = "correct horse battery staple"
    with overloaded_server(model, shirt, api_key=key) as (port, _), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.post("/v1/classify", content=shirt).status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert client.post("/v1/classify", content=shirt, headers=headers).status_code == 503


def test_burst_reads_only_as_many_bodies_as_slots(model, shirt):
    engine = BlockingEngine(model)
    with http_server(Model(model.artifact, engine), max_waiting=4) as port:
        connections = [connect(port) for _ in range(40)]
        try:
            for connection in connections:  # all headers arrive before any image
                connection.sendall(HEAD + content_length(shirt))
            for connection in connections:
                connection.sendall(shirt)
            wait_until_refused(port, 36)
            assert 'graft_stage_seconds_count{stage="read"} 4.0' in metrics(port)
            engine.release.set()
            statuses = [read_responses(connection, 1)[0][0] for connection in connections]
        finally:
            engine.release.set()
            for connection in connections:
                connection.close()
    assert sorted(statuses) == [200] * 4 + [503] * 36


def wait_until_refused(port: int, n_requests: int) -> None:
    line = f'graft_requests_total{{code="overloaded",route="/v1/classify",status="503"}} {n_requests}.0'
    deadline = time.monotonic() + TIMEOUT_S
    while line not in metrics(port):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_slow_uploads_do_not_block_other_requests(model, shirt):
    with http_server(model, max_waiting=2) as port:
        slow = [connect(port) for _ in range(20)]
        try:
            for connection in slow:
                connection.sendall(HEAD + content_length(shirt) + shirt[:100])
            time.sleep(0.5)  # longer than a slot stays reserved
            assert httpx.post(f"http://127.0.0.1:{port}/v1/classify", content=shirt).status_code == 200
        finally:
            for connection in slow:
                connection.close()


def test_rejections_are_logged_once_per_second(model, shirt, caplog):
    with caplog.at_level("INFO", "graft"), overloaded_server(model, shirt) as (port, _):
        with httpx.Client() as client:
            statuses = [client.post(f"http://127.0.0.1:{port}/v1/classify", content=shirt).status_code for _ in range(20)]
        assert statuses == [503] * 20
        deadline = time.monotonic() + TIMEOUT_S
        while n_logged_rejections(caplog) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    lines = [record for record in caplog.records if record.getMessage() == "requests rejected"]
    assert len(lines) <= 10


def n_logged_rejections(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.fields["times"] for record in caplog.records if record.getMessage() == "requests rejected")
