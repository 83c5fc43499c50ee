import socket
import struct
import threading
import time

import pytest

from graft.service.decoding.ipc import MAX_HEADER_BYTES, recv, send

LIMIT = 2**24


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.mark.parametrize("n_bytes", [0, 1, 3_000_000])
@pytest.mark.parametrize("header", [{}, {"text": "é" * 50_000}])
def test_a_message_arrives_as_it_was_sent(ends, header, n_bytes):
    body = bytes(range(256)) * (n_bytes // 256 + 1)
    sender = threading.Thread(target=send, args=[ends[0], header, body[:n_bytes], time.monotonic() + 30])
    sender.start()
    assert recv(ends[1], LIMIT, time.monotonic() + 30) == (header, body[:n_bytes])
    sender.join()


def test_messages_take_turns(ends):
    for number in range(3):
        send(ends[0], {"question": number}, b"body")
        assert recv(ends[1], LIMIT) == ({"question": number}, b"body")
        send(ends[1], {"answer": number})
        assert recv(ends[0], 0) == ({"answer": number}, b"")


def test_a_message_in_pieces_is_put_together(ends):
    encoded = struct.pack("!IQ", 8, 3) + b'{"a": 1}' + b"xyz"

    def drip() -> None:
        for byte in encoded:
            ends[0].sendall(bytes([byte]))
            time.sleep(0.002)

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert recv(ends[1], LIMIT) == ({"a": 1}, b"xyz")
    dripping.join()


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (struct.pack("!IQ", MAX_HEADER_BYTES + 1, 0), "too long"),
        (struct.pack("!IQ", 2, LIMIT + 1) + b"{}", "too long"),
        (struct.pack("!IQ", 2, 0) + b"[]", "not a JSON object"),
        (struct.pack("!IQ", 2, 0) + b"{,", "Expecting"),
    ],
)
def test_an_invalid_message_is_rejected(ends, encoded, message):
    ends[0].sendall(encoded)
    with pytest.raises(ValueError, match=message):
        recv(ends[1], LIMIT)


@pytest.mark.parametrize("encoded", [b"", b"\0\0", struct.pack("!IQ", 8, 0) + b'{"a"', struct.pack("!IQ", 2, 9) + b"{}body"])
def test_a_closed_connection_is_an_error(ends, encoded):
    ends[0].sendall(encoded)
    ends[0].close()
    with pytest.raises(EOFError):
        recv(ends[1], LIMIT)


def test_a_slow_peer_does_not_extend_the_deadline(ends):
    ends[0].sendall(struct.pack("!IQ", 2, 1_000) + b"{}")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.02):
            ends[0].sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    with pytest.raises(TimeoutError):
        recv(ends[1], LIMIT, time.monotonic() + 0.5)
    stop.set()
    dripping.join()


def test_a_peer_that_does_not_read_stops_the_sender_at_the_deadline(ends):
    with pytest.raises(TimeoutError):
        send(ends[0], {}, bytes(LIMIT), time.monotonic() + 0.2)
