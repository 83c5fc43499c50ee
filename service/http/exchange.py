"""One HTTP request and its response: counts bytes, adds the request id, closes rejected uploads. No routing."""

import asyncio
import random
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .responses import DEFAULT_HEADERS

LINGER_S = 2.0  # a rejected body is read and discarded for this long, so that the client can read the response


class Exchange:
    """One request with its id, its counters, and its response.

    Args:
        added_headers: of every response.

    Attributes:
        request: its `state` has the `id`, the `code` of the problem it ends with ("ok" if none), and `buffered_bytes`, how
            many bytes of its body are in memory.
        status: of the response; 0 before it starts.
        n_received_bytes: of the body so far.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, added_headers: Mapping[str, str]) -> None:
        self._receive = receive
        self._send = send
        state = {"code": "ok", "buffered_bytes": 0}
        self.request = Request({**scope, "state": state}, self.receive)
        self.id = state["id"] = valid_or_new_id(self.request.headers.get("x-request-id", ""))
        self._added_headers = {**added_headers, "X-Request-ID": self.id}
        self.started = time.perf_counter()
        self.status = 0
        self.n_received_bytes = 0
        headers = self.request.headers
        self._body_complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        """The next message from the client. Counts its bytes."""
        message = await self._receive()
        self.n_received_bytes += len(message.get("body", b""))
        self._body_complete = self._body_complete or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Sends a part of BentoML's response, with the added headers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            added = [(name.lower().encode(), value.encode()) for name, value in (DEFAULT_HEADERS | self._added_headers).items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def respond(self, response: Response) -> None:
        """Sends one of Graft's own responses.

        An unread body is read and discarded for a while before the connection closes (nginx calls this a lingering close):
        if it closed at once, most clients would report a broken pipe instead of the response.
        """
        self.status = response.status_code
        for name, value in DEFAULT_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.update(self._added_headers)
        if not self._body_complete:
            response.headers["Connection"] = "close"
        await self._send({"type": "http.response.start", "status": self.status, "headers": response.raw_headers})
        body = b"" if self.request.method == "HEAD" else response.body
        if not self._body_complete:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._linger()
            body = b""
        await self._send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._body_complete:
                    await self.receive()
        except TimeoutError:
            pass


def valid_or_new_id(request_id: str) -> str:
    """The client's request id if it is short and printable, else a new one."""
    is_valid = 0 < len(request_id) <= 64 and request_id.isascii() and request_id.isprintable()
    return request_id if is_valid else new_id()


def new_id() -> str:
    """A random 128-bit id in hex. Not from os.urandom, which releases the GIL; an id need not be secret."""
    return f"{random.getrandbits(128):032x}"
