"""One request and its answer on the wire: what came in, what went out, and how a refused upload ends."""

import asyncio
import random
import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

LINGER_S = 2.0  # how long a refused body is still taken off the wire, so that its sender can read why


class Visit:
    """One request, with its id and what is counted of it.

    Attributes:
        request: its `state` has the `id`, the `code` of the problem it ends with ("ok" if none), and how many bytes of its
            body are `held` in memory.
        status: of the answer; 0 until there is one.
        received: bytes of the body so far.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        state = {"code": "ok", "held": 0}
        self.request = Request({**scope, "state": state}, self.receive)
        self.id = state["id"] = given_or_new(self.request.headers.get("x-request-id", ""))
        self.begun = time.perf_counter()
        self.status = 0
        self.received = 0
        headers = self.request.headers
        self._whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        """The next piece of the body, counted."""
        message = await self._receive()
        self.received += len(message.get("body", b""))
        self._whole = self._whole or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """A part of somebody else's answer, with our id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.id.encode())]}
        await self._send(message)

    async def reply(self, response: Response) -> None:
        """Sends an answer of ours.

        A body that was refused unread is still taken off the wire for a while before the connection closes: closed at
        once, most clients report a broken pipe instead of the answer.
        """
        self.status = response.status_code
        response.headers["X-Request-ID"] = self.id
        if not self._whole:
            response.headers["Connection"] = "close"
        await self._send({"type": "http.response.start", "status": self.status, "headers": response.raw_headers})
        body = b"" if self.request.method == "HEAD" else response.body
        if not self._whole:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._linger()
            body = b""
        await self._send({"type": "http.response.body", "body": body})

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._whole:
                    await self.receive()
        except TimeoutError:
            pass


def given_or_new(request_id: str) -> str:
    """The caller's own request id if it is short and printable, else a new one."""
    fit = 0 < len(request_id) <= 64 and request_id.isascii() and request_id.isprintable()
    return request_id if fit else new_id()


def new_id() -> str:
    """Not from the system's own randomness: that call gives other threads their turn, and nobody guards an id."""
    return f"{random.getrandbits(128):032x}"
