"""Messages over a socket between this machine's own processes: a JSON head, and bytes as they are. No pickle."""

import json
import socket
import struct
import time
from typing import Any

Head = dict[str, Any]

MOST_HEAD_BYTES = 2**20
_LENGTHS = struct.Struct("!IQ")


def tell(channel: socket.socket, head: Head, body: bytes = b"", deadline: float | None = None) -> None:
    """Sends one message.

    Args:
        deadline: on time.monotonic()'s clock.

    Raises:
        OSError: TimeoutError once the deadline has passed, any other if nobody listens any more.
    """
    encoded = json.dumps(head).encode()
    for part in (_LENGTHS.pack(len(encoded), len(body)) + encoded, body):
        _wait_until(deadline, channel)
        channel.sendall(part)


def hear(channel: socket.socket, most_bytes: int, deadline: float | None = None) -> tuple[Head, bytearray]:
    """Receives one message: its head and its body.

    Args:
        most_bytes: that the body may have.
        deadline: on time.monotonic()'s clock.

    Raises:
        EOFError: if the other end is gone.
        OSError: TimeoutError once the deadline has passed.
        ValueError: if this is no message.
    """
    n_head, n_body = _LENGTHS.unpack(_exactly(_LENGTHS.size, channel, deadline))
    if n_head > MOST_HEAD_BYTES or n_body > most_bytes:
        raise ValueError(f"The message claims {n_head:,} and {n_body:,} bytes.")
    head = json.loads(_exactly(n_head, channel, deadline))
    if not isinstance(head, dict):
        raise ValueError("The message has no head.")
    return head, _exactly(n_body, channel, deadline)


def _exactly(n_bytes: int, channel: socket.socket, deadline: float | None) -> bytearray:
    content = bytearray(n_bytes)
    rest = memoryview(content)
    while rest:
        _wait_until(deadline, channel)
        received = channel.recv_into(rest)
        if not received:
            raise EOFError("The other end is gone.")
        rest = rest[received:]
    return content


def _wait_until(deadline: float | None, channel: socket.socket) -> None:
    # Never 0: that would mean not to wait even for what is there already.
    channel.settimeout(None if deadline is None else max(1e-3, deadline - time.monotonic()))
