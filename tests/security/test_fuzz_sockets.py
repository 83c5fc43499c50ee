"""Raw bytes on the socket of a service: no crash, no delay of other callers, no growing memory, and every answer is HTTP."""

import json
import socket
from collections.abc import Iterator

import pytest
from api_client import TIMEOUT_S, http_server
from fuzz_sockets import HEADERS, LINES, PIECES, PROBE, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import bentoml_server

MAX_DELAY_S = 1.0
MAX_GROWTH_BYTES = 50 * 2**20
EXPECTED = {100, 200, 400, 404, 405, 408, 411, 413, 415, 422, 431, 503}  # 503: no model is loaded, or the queue is full


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with http_server(None, header_deadline_s=0.3, read_deadline_s=0.3) as port:
        yield port


def exchange(port: int, sent: bytes) -> bytes:
    """All that the server answers until it closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(2**16):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def responses(received: bytes) -> Iterator[tuple[int, bytes]]:
    """The status and body of each response. Fails if one is not valid HTTP."""
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert end, head
        assert lines[0].startswith(b"HTTP/1.1 "), head
        status = int(lines[0].split()[1])
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        size = int(headers.get(b"content-length", 0))
        if status >= 400:
            assert headers[b"content-type"] == b"application/problem+json", head
        yield status, received[:size]
        received = received[size:]


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.sampled_from([*LINES, *HEADERS, *PIECES]), st.binary(max_size=20)), max_size=12))
def test_any_bytes_get_valid_responses(port, pieces):
    # Not HEAD: its responses have a length but no body.
    received = exchange(port, b"".join(pieces).replace(b"HEAD ", b"HEAT "))
    for status, body in responses(received):
        assert status in EXPECTED
        if status >= 400:
            assert json.loads(body)["status"] == status
    assert exchange(port, PROBE).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "seconds", [pytest.param(20, marks=pytest.mark.slow), pytest.param(600, marks=[pytest.mark.slow, pytest.mark.nightly])]
)
def test_raw_bytes_neither_delay_others_nor_fill_memory(fitted, seconds):
    with bentoml_server(fitted.artifact.path) as server:
        worker = server.worker()
        report = fuzz(server.port, worker, seconds, seed=seconds)
        print(report)
        assert server.worker() == worker
        assert report.n_connections > seconds
        assert report.failed_probes == []
        assert set(report.statuses) <= EXPECTED | {421, 505}
        assert report.longest_probe_s < MAX_DELAY_S
        assert report.growth_bytes < MAX_GROWTH_BYTES
        assert "Traceback" not in server.log_text()
