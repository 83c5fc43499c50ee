"""What a client without a key can make the service hold: connections, requests, trailers, and unread responses."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from api_client import TIMEOUT_S, http_server

from graft.service.http.connection import FREE_CHUNKS, MAX_PIPELINED
from graft.service.http.connection_table import ConnectionTable

PROBE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http_server(None) as port:
        yield port


def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(TIMEOUT_S)
    connection.connect(("127.0.0.1", port))
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection, however it does so."""
    received = b""
    try:
        while chunk := connection.recv(2**16):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def send_until_closed(connection: socket.socket, piece: bytes, max_bytes: int) -> int:
    """How many bytes the server takes before it closes the connection."""
    n_sent = 0
    try:
        while n_sent < max_bytes:
            connection.sendall(piece)
            n_sent += len(piece)
    except (ConnectionResetError, BrokenPipeError):
        pass
    return n_sent


@pytest.mark.parametrize("blank", [b"", b"\r\n", b"\n", b"\r\n" * 100])
def test_blank_lines_after_an_answer_do_not_keep_a_connection(port, blank):
    with connect(port) as connection:
        connection.sendall(PROBE)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(blank)
        assert read_to_end(connection) == b""


def test_endless_blank_lines_are_refused(port):
    with connect(port) as connection:
        assert send_until_closed(connection, b"\r\n" * 2**14, 2**26) < 2**26


def test_a_few_pipelined_requests_are_answered(port):
    with connect(port) as connection:
        connection.sendall(PROBE * MAX_PIPELINED)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < MAX_PIPELINED:
            received += connection.recv(2**16)
        connection.sendall(PROBE)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")


def test_many_pipelined_requests_are_not_kept(port):
    with connect(port) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\n\r\n" * 5_000)
        received = read_to_end(connection)
    assert received.count(b"HTTP/1.1 503 ") == MAX_PIPELINED + 1
    assert received.lower().count(b"connection: close") == 1


@pytest.mark.parametrize("second", [b"\0\1\2 nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"])
def test_an_invalid_request_does_not_get_ahead_of_a_pending_answer(port, second):
    with connect(port) as connection:
        connection.sendall(PROBE + second)
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.lower().count(b"connection: close") == 1


def test_pipelined_headers_are_limited_together(port):
    request = b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
    with connect(port) as connection:
        connection.sendall(request * MAX_PIPELINED)
        received = read_to_end(connection)
    assert 2 <= received.count(b"HTTP/1.1 200 ") < MAX_PIPELINED


@pytest.mark.parametrize(
    "trailers", [b"t: 1\r\n" * 1000, b"T: " + b"v" * 5000 + b"\r\n", b"n" * 2**15], ids=["many", "large", "endless"]
)
def test_trailers_are_limited(port, trailers):
    with connect(port) as connection:
        connection.sendall(CHUNKED + b"3\r\nabc\r\n0\r\n")
        assert send_until_closed(connection, trailers, 2**26) < 2**26


def test_a_body_in_tiny_chunks_is_refused(port):
    with connect(port) as connection:
        connection.sendall(CHUNKED)
        assert send_until_closed(connection, b"2\r\nab\r\n" * FREE_CHUNKS, 2**26) < 2**26


def test_a_client_that_does_not_read_is_dropped():
    with http_server(None, write_deadline_s=1.0) as port, connect(port, receive_buffer=4096) as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * MAX_PIPELINED)
        n_sent = send_until_closed(connection, PROBE, 2**20)
        assert n_sent < 2**20 or read_to_end(connection).count(b"HTTP/1.1") < MAX_PIPELINED


def test_a_new_connection_takes_the_place_of_the_longest_wait():
    with http_server(None, max_connections=3) as port:
        connections = [connect(port) for _ in range(3)]
        for connection in connections[1:]:  # the first never sends anything
            connection.sendall(PROBE)
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        with connect(port) as another:
            another.sendall(PROBE)
            assert another.recv(2**16).startswith(b"HTTP/1.1 200 ")
        assert read_to_end(connections[0]) == b""
        connections[1].sendall(PROBE)
        assert connections[1].recv(2**16).startswith(b"HTTP/1.1 200 ")
        for connection in connections:
            connection.close()


class FakeConnection:
    """A connection with some unsent bytes."""

    def __init__(self, n_unsent: int = 0) -> None:
        self.transport = self
        self.n_responses = 0
        self.n_unsent = n_unsent
        self.aborted = self.evicted = False

    def get_write_buffer_size(self) -> int:
        return self.n_unsent

    def abort(self) -> None:
        self.aborted = True

    def evict(self) -> None:
        self.evicted = True


@pytest.fixture
def loop(monkeypatch) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that never runs, so that the tests sweep by themselves."""
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    yield loop
    loop.close()


def sweep(table: ConnectionTable, n: int) -> None:
    for _ in range(n):
        table._sweep()


def test_only_responses_without_progress_reach_the_write_deadline(loop):
    table = ConnectionTable(10, 10**9, write_deadline_s=3)
    stalled, progressing, idle = FakeConnection(10), FakeConnection(10), FakeConnection()
    for connection in (stalled, progressing, idle):
        table.add(connection)
    for _ in range(5):
        progressing.n_responses += 1
        sweep(table, 1)
    assert (stalled.aborted, progressing.aborted, idle.aborted) == (True, False, False)
    assert len(table) == 2


def test_oldest_unread_responses_are_dropped_first(loop):
    table = ConnectionTable(10, 25, write_deadline_s=100)
    connections = [FakeConnection(10) for _ in range(4)]
    for connection in connections:
        table.add(connection)
        sweep(table, 1)
    assert [connection.aborted for connection in connections] == [True, True, False, False]


def test_connections_at_work_are_never_evicted(loop):
    table = ConnectionTable(2, 10**9, 20)
    working, waiting, newcomer, another = (FakeConnection() for _ in range(4))
    table.add(working)
    table.set_working(working)
    table.add(waiting)
    assert table.add(newcomer)
    assert (working.evicted, waiting.evicted) == (False, True)
    table.set_working(newcomer)
    assert not table.add(another)
    table.set_waiting(working)
    assert table.add(another)
    assert working.evicted
