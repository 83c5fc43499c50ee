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
    encoded = json.dumps(header).encode()
    for chunk in (_LENGTHS.pack(len(encoded), len(body)) + encoded, body):
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
    header_length, body_length = _LENGTHS.unpack(_recv_exactly(_LENGTHS.size, channel, deadline))
    if header_length > MAX_HEADER_BYTES or body_length > max_body_bytes:
        raise ValueError(f"The message is too long: a header of {header_length:,} bytes and a body of {body_length:,} bytes.")
    header = json.loads(_recv_exactly(header_length, channel, deadline))
    if not isinstance(header, dict):
        raise ValueError("The header of the message is not a JSON object.")
    return header, _recv_exactly(body_length, channel, deadline)


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
