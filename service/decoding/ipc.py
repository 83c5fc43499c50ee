"""Messages over a socket between local processes: a JSON header and a binary body. No pickle."""

import json
import socket
import struct
import time
from typing import Any

MessageHeader = dict[str, Any]

MAX_HEADER_BYTES = 2**20
_LENGTHS = struct.Struct("!IQ")


def send(channel: socket.socket, header: MessageHeader, body: bytes = b"", deadline: float | None = None) -> None:
    """Sends one message.

    Args:
        deadline: time.monotonic() clock.

    Raises:
        OSError: TimeoutError if the deadline passed, any other if the peer is gone.
    """
    for chunk in (pack(header, len(body)), body):
        _set_timeout(deadline, channel)
        channel.sendall(chunk)


def recv(channel: socket.socket, max_body_bytes: int, deadline: float | None = None) -> tuple[MessageHeader, bytearray]:
    """Receives one message. Returns its header and its body.

    Args:
        max_body_bytes: maximum length of the body.
        deadline: time.monotonic() clock.

    Raises:
        EOFError: if the peer closed the connection.
        OSError: TimeoutError if the deadline passed.
        ValueError: if the message is invalid.
    """
    header_length, body_length = _read_lengths(_recv_exactly(_LENGTHS.size, channel, deadline), max_body_bytes)
    header = _parse_header(_recv_exactly(header_length, channel, deadline))
    return header, _recv_exactly(body_length, channel, deadline)


def pack(header: MessageHeader, body_length: int) -> bytes:
    """A message up to its body."""
    encoded = json.dumps(header).encode()
    return _LENGTHS.pack(len(encoded), body_length) + encoded


def unpack(received: bytearray) -> MessageHeader | None:
    """The header of a message without a body; None if it is not complete. Raises ValueError if it is invalid."""
    if len(received) < _LENGTHS.size:
        return None
    header_length, _ = _read_lengths(received[: _LENGTHS.size], max_body_bytes=0)
    if (n_missing := _LENGTHS.size + header_length - len(received)) > 0:
        return None
    if n_missing < 0:
        raise ValueError(f"The message is {-n_missing:,} bytes longer than it says.")
    return _parse_header(received[_LENGTHS.size :])


def _read_lengths(content: bytearray, max_body_bytes: int) -> tuple[int, int]:
    header_length, body_length = _LENGTHS.unpack(content)
    if header_length > MAX_HEADER_BYTES or body_length > max_body_bytes:
        raise ValueError(f"The message is too long: a header of {header_length:,} bytes and a body of {body_length:,} bytes.")
    return header_length, body_length


def _parse_header(encoded: bytearray) -> MessageHeader:
    header = json.loads(encoded)
    if not isinstance(header, dict):
        raise ValueError("The header of the message is not a JSON object.")
    return header


def _recv_exactly(n_bytes: int, channel: socket.socket, deadline: float | None) -> bytearray:
    content = bytearray(n_bytes)
    remaining = memoryview(content)
    while remaining:
        _set_timeout(deadline, channel)
        received = channel.recv_into(remaining)
        if not received:
            raise EOFError("The peer closed the connection.")
        remaining = remaining[received:]
    return content


def _set_timeout(deadline: float | None, channel: socket.socket) -> None:
    # Never 0, which would make the socket non-blocking.
    channel.settimeout(None if deadline is None else max(1e-3, deadline - time.monotonic()))
