"""The HTTP protocol with raw sockets: malformed, slow, and oversized requests, and disconnects."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from api_client import TIMEOUT_S, BlockingEngine, http_server

from graft.service.inference.model import Model

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def port(model) -> Iterator[int]:
    with http_server(model, header_deadline_s=0.5, read_deadline_s=0.5) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def read_to_end(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    chunks = []
    while chunk := connection.recv(2**16):
        chunks.append(chunk)
    return b"".join(chunks)


def send_invalid(port: int, sent: bytes) -> tuple[int, dict]:
    """Status and problem of the response, once the server has closed the connection."""
    with connect(port) as connection:
        connection.sendall(sent)
        answer = read_to_end(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    fields = json.loads(body)
    assert f"x-request-id: {fields['request_id']}".encode() in head.lower()
    return int(head.split()[1]), fields


MALFORMED = {
    "length and chunks": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "two lengths": HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "negative length": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "length in words": HEAD + b"Content-Length: three\r\n\r\nabc",
    "no method": b"\r\n\r\n\x00\x01\x02 / HTTP/1.1\r\n\r\n",
    "binary": bytes(range(256)),
    "NUL in a header": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "NUL in the path": b"GET /li\0vez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header without a name": b"GET /livez HTTP/1.1\r\n: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_malformed_request_is_rejected_and_the_connection_closed(port, sent):
    status, fields = send_invalid(port, sent)
    assert (status, fields["code"]) == (400, "bad_request")


def test_invalid_chunk_closes_the_connection(port):
    with connect(port) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n")
        assert b"400 Bad Request" in read_to_end(connection)


LARGE = {
    "one large header": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "3,000 small ones": b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 3000 + b"\r\n",
    "a long path": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "headers that never end": b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
def test_headers_over_the_limit_are_rejected(port, sent):
    status, fields = send_invalid(port, sent)
    assert (status, fields["code"]) == (431, "headers_too_large")
    assert fields["limit"] == {"name": "max_header_bytes", "value": 32_768, "setting": "GRAFT_MAX_HEADER_BYTES"}


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_missing_headers_time_out(port, sent):
    status, fields = send_invalid(port, sent)
    assert (status, fields["code"]) == (408, "slow_headers")
    assert fields["limit"]["setting"] == "GRAFT_HEADER_DEADLINE_S"


def test_slow_headers_time_out(port):
    with connect(port) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        start = time.monotonic()
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - start < TIMEOUT_S:
            connection.sendall(b"A: b\r\n")
            with suppress(TimeoutError):
                answer = connection.recv(2**16)
    assert b"slow_headers" in answer


def test_missing_body_times_out(port, shirt):
    head = HEAD + f"Content-Length: {len(shirt)}\r\n\r\n".encode()
    status, fields = send_invalid(port, head + shirt[:50])
    assert (status, fields["code"]) == (408, "slow_upload")


def test_idle_connections_do_not_block_requests(port, shirt):
    idle = [connect(port) for _ in range(100)]
    try:
        with connect(port) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(shirt)}\r\nConnection: close\r\n\r\n".encode() + shirt)
            assert b"200 OK" in read_to_end(connection)
    finally:
        for connection in idle:
            connection.close()


def test_too_large_body_is_rejected_before_it_is_sent(port):
    with connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
        answer = connection.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413")


def test_client_that_sends_too_much_can_read_the_response(port):
    with connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 12000000\r\n\r\n")
        connection.sendall(bytes(12_000_000))
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer


def test_keep_alive_connection_carries_many_requests(port, shirt):
    head = HEAD + f"Content-Length: {len(shirt)}\r\n".encode()
    with connect(port) as connection:
        connection.sendall((head + b"\r\n" + shirt) * 3 + head + b"Connection: close\r\n\r\n" + shirt)
        assert read_to_end(connection).count(b"200 OK") == 4


@pytest.mark.parametrize(
    "path", [b"//v1/classify", b"/v1/../v1/classify", b"/v1/%63lassify/", b"http://a/v1/nothing", b"/\xc3\xa9"]
)
def test_odd_path_is_not_found(port, path):
    with connect(port) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_to_end(connection).split()[1] in (b"404", b"400")


def test_disconnected_clients_are_not_computed(model, shirt):
    engine = BlockingEngine(model)
    with http_server(Model(model.artifact, engine)) as port:
        request = HEAD + f"Content-Length: {len(shirt)}\r\n\r\n".encode() + shirt
        first = connect(port)
        first.sendall(request)
        assert engine.started.wait(TIMEOUT_S)
        for _ in range(5):
            with connect(port) as dropped:
                dropped.sendall(request)
                time.sleep(0.2)  # so that it is decoded and waits for the network
        time.sleep(0.2)
        engine.release.set()
        last = connect(port)
        last.sendall(request)
        with first, last:
            assert b"200 OK" in first.recv(2**16)
            assert b"200 OK" in last.recv(2**16)
    assert engine.n_calls == 2


def test_disconnect_during_upload_leaks_nothing(model, shirt):
    before = threading.active_count()
    with http_server(model, max_upload_bytes=10_000) as port:
        for _ in range(20):
            with connect(port) as dropped:
                dropped.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(900))
        time.sleep(0.3)
        with connect(port) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(shirt)}\r\nConnection: close\r\n\r\n".encode() + shirt)
            assert b"200 OK" in read_to_end(connection)
    assert threading.active_count() <= before + 1
