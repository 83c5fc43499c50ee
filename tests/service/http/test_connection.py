"""What comes over a connection that no well-behaved client would send: bytes on a socket, and what comes back."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from api_client import PATIENCE, HeldEngine, listening

from graft.service.inference.model import Model

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def shirt(clothes) -> bytes:
    return clothes[6][1]


@pytest.fixture(scope="module")
def port(model) -> Iterator[int]:
    with listening(model, header_deadline_s=0.5, read_deadline_s=0.5) as port:
        yield port


def opened(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def said(connection: socket.socket) -> bytes:
    """Everything until the other side hangs up."""
    pieces = []
    while piece := connection.recv(2**16):
        pieces.append(piece)
    return b"".join(pieces)


def asked(port: int, sent: bytes) -> tuple[int, dict]:
    """Status and problem of what comes back, once the other side has hung up."""
    with opened(port) as connection:
        connection.sendall(sent)
        answer = said(connection)
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
def test_what_is_no_request_is_refused_and_the_connection_closed(port, sent):
    status, fields = asked(port, sent)
    assert (status, fields["code"]) == (400, "bad_request")


def test_a_bad_chunk_ends_the_connection(port):
    with opened(port) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n")
        assert b"400 Bad Request" in said(connection)


LARGE = {
    "one large header": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "3,000 small ones": b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 3000 + b"\r\n",
    "a long path": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "headers that never end": b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
def test_headers_over_the_limit_are_refused_by_its_name(port, sent):
    status, fields = asked(port, sent)
    assert (status, fields["code"]) == (431, "headers_too_large")
    assert fields["limit"] == {"name": "max_header_bytes", "value": 32_768, "setting": "GRAFT_MAX_HEADER_BYTES"}


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_headers_that_do_not_come_are_not_waited_for(port, sent):
    status, fields = asked(port, sent)
    assert (status, fields["code"]) == (408, "slow_headers")
    assert fields["limit"]["setting"] == "GRAFT_HEADER_DEADLINE_S"


def test_headers_that_drip_are_not_waited_for(port):
    with opened(port) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        begun = time.monotonic()
        connection.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - begun < PATIENCE:
            connection.sendall(b"A: b\r\n")
            with suppress(TimeoutError):
                answer = connection.recv(2**16)
    assert b"slow_headers" in answer


def test_a_body_that_does_not_come_is_not_waited_for(port, shirt):
    head = HEAD + f"Content-Length: {len(shirt)}\r\n\r\n".encode()
    status, fields = asked(port, head + shirt[:50])
    assert (status, fields["code"]) == (408, "slow_upload")


def test_half_open_connections_hold_nobody_up(port, shirt):
    idle = [opened(port) for _ in range(100)]
    try:
        with opened(port) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(shirt)}\r\nConnection: close\r\n\r\n".encode() + shirt)
            assert b"200 OK" in said(connection)
    finally:
        for connection in idle:
            connection.close()


def test_too_large_a_body_is_refused_before_it_is_sent(port):
    with opened(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
        answer = connection.recv(2**16)
    assert answer.startswith(b"HTTP/1.1 413")


def test_who_sends_too_much_all_the_same_can_read_why(port):
    with opened(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 12000000\r\n\r\n")
        connection.sendall(bytes(12_000_000))
        answer = said(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer


def test_one_connection_carries_many_requests(port, shirt):
    ask = HEAD + f"Content-Length: {len(shirt)}\r\n".encode()
    with opened(port) as connection:
        connection.sendall((ask + b"\r\n" + shirt) * 3 + ask + b"Connection: close\r\n\r\n" + shirt)
        assert said(connection).count(b"200 OK") == 4


@pytest.mark.parametrize(
    "path", [b"//v1/classify", b"/v1/../v1/classify", b"/v1/%63lassify/", b"http://a/v1/nothing", b"/\xc3\xa9"]
)
def test_an_odd_path_leads_nowhere(port, path):
    with opened(port) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert said(connection).split()[1] in (b"404", b"400")


def test_a_caller_who_hangs_up_is_not_computed_for(model, shirt):
    engine = HeldEngine(model)
    with listening(Model(model.artifact, engine)) as port:
        whole = HEAD + f"Content-Length: {len(shirt)}\r\n\r\n".encode() + shirt
        first = opened(port)
        first.sendall(whole)
        assert engine.begun.wait(PATIENCE)
        for _ in range(5):
            with opened(port) as gone:
                gone.sendall(whole)
                time.sleep(0.2)  # so that it is decoded, and waits for the network
        time.sleep(0.2)
        engine.go.set()
        last = opened(port)
        last.sendall(whole)
        with first, last:
            assert b"200 OK" in first.recv(2**16)
            assert b"200 OK" in last.recv(2**16)
    assert engine.calls == 2


def test_a_caller_who_hangs_up_while_sending_leaves_nothing_behind(model, shirt):
    before = threading.active_count()
    with listening(model, max_upload_bytes=10_000) as port:
        for _ in range(20):
            with opened(port) as gone:
                gone.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + bytes(900))
        time.sleep(0.3)
        with opened(port) as connection:
            connection.sendall(HEAD + f"Content-Length: {len(shirt)}\r\nConnection: close\r\n\r\n".encode() + shirt)
            assert b"200 OK" in said(connection)
    assert threading.active_count() <= before + 1
