"""Load generator with real sockets: sends requests whether or not the server keeps up, and records each outcome.

Open loop: arrivals are random, and latency counts from the time when a request was due. A closed loop, which waits for each
response before the next request, would hide the effect of a stall on later requests (coordinated omission). Runs in a
separate process.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal, NamedTuple

import uvloop

HOST = "127.0.0.1"
FRESH_S = 2.0  # maximum idle time of a reused connection; the server closes it after five seconds
PATIENCE_S = 60.0  # until a response counts as lost
LINGER_S = 0.02  # how long a client waits before it disconnects early


@dataclass(frozen=True)
class Ask:
    """A request, and how the client behaves.

    Attributes:
        kind: name in the record.
        request: the complete request.
        stays: "answer" waits for the response; "sent" and "half" disconnect after the request, or half of it, was sent.
        expects: bytes that the body of a response with status 200 must contain.
    """

    kind: str
    request: bytes
    stays: Literal["answer", "sent", "half"] = "answer"
    expects: bytes = b""


class Outcome(NamedTuple):
    """Outcome of one request.

    Attributes:
        kind: that of the request.
        due: scheduled send time, in seconds from the start.
        seconds: time from `due` until the last byte of the response.
        status: HTTP status; 0 if the connection ended without a response, or the client disconnected.
        code: problem code; "wrong" if the body lacks the expected bytes; otherwise "".
        retry_after: the Retry-After header, or "".
    """

    kind: str
    due: float
    seconds: float
    status: int
    code: str
    retry_after: str


class Record(NamedTuple):
    """Outcomes of one load.

    Attributes:
        started_at: time.monotonic() at the start; this clock is the same in all processes of a machine.
    """

    begun: float
    outcomes: list[Outcome]


class Phase(NamedTuple):
    """A period with an average number of requests per second."""

    rate: float
    seconds: float


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A complete request. Each line of `headers` ends with CR LF."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class Crowd:
    """Clients of one server, in a separate process."""

    port: int
    pool: ProcessPoolExecutor

    def offer(self, asks: Sequence[Ask], phases: Sequence[Phase], seed: int = 0) -> Future[Record]:
        """Open loop: send randomly chosen requests at random times; done when all responses have arrived."""
        return self.pool.submit(_run, _offer, self.port, asks, phases, seed)

    def keep(self, asks: Sequence[Ask], callers: int, seconds: float, seed: int = 0) -> Future[Record]:
        """Closed loop: each client sends the next request as soon as it has a response."""
        return self.pool.submit(_run, _keep, self.port, asks, callers, seconds, seed)

    def each(self, asks: Sequence[Ask], callers: int) -> Future[Record]:
        """Send each request once, with several concurrent clients."""
        return self.pool.submit(_run, _each, self.port, asks, callers)


@contextmanager
def crowd(port: int) -> Iterator[Crowd]:
    """Run a client process until the block ends."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield Crowd(port, pool)


def _run(play: Callable[..., Awaitable[list[Outcome]]], port: int, *arguments: object) -> Record:
    async def run_clients() -> Record:
        pool = _Lines(port)
        record = Record(pool.begun, await play(pool, *arguments))
        pool.close()
        return record

    return uvloop.run(run_clients())


async def _offer(lines: "_Lines", asks: Sequence[Ask], phases: Sequence[Phase], seed: int) -> list[Outcome]:
    rng, tasks = random.Random(seed), []
    for due in _arrivals(phases, rng):
        await asyncio.sleep(max(0.0, due - lines.now()))
        tasks.append(asyncio.create_task(lines.ask(rng.choice(asks), due)))
    return list(await asyncio.gather(*tasks))


def _arrivals(phases: Sequence[Phase], chance: random.Random) -> Iterator[float]:
    """Arrival times in seconds, from a Poisson process with one rate per phase."""
    phase_start = 0.0
    for phase in phases:
        arrival = phase_start + chance.expovariate(phase.rate)
        while arrival < phase_start + phase.seconds:
            yield arrival
            arrival += chance.expovariate(phase.rate)
        phase_start += phase.seconds


async def _keep(lines: "_Lines", asks: Sequence[Ask], callers: int, seconds: float, seed: int) -> list[Outcome]:
    rng, outcomes = random.Random(seed), []

    async def run_client() -> None:
        while (now := lines.now()) < seconds:
            outcomes.append(await lines.ask(rng.choice(asks), now))

    await asyncio.gather(*(run_client() for _ in range(callers)))
    return outcomes


async def _each(lines: "_Lines", asks: Sequence[Ask], callers: int) -> list[Outcome]:
    remaining = iter(asks)  # shared by all clients

    async def run_client() -> list[Outcome]:
        return [await lines.ask(request, lines.now()) for request in remaining]

    return [
        outcome
        for client_outcomes in await asyncio.gather(*(run_client() for _ in range(callers)))
        for outcome in client_outcomes
    ]


class _Lines:
    """Keeps idle connections for reuse."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Line] = []
        self._loop = asyncio.get_running_loop()
        self.begun = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    async def ask(self, ask: Ask, due: float) -> Outcome:
        """Send one request and return its outcome."""
        try:
            connection = self._again() or (await self._loop.create_connection(_Line, HOST, self._port))[1]
            if ask.stays != "answer":
                await connection.leave(ask)
                return self._outcome(ask, due, None)
            async with asyncio.timeout(PATIENCE_S):
                response = await connection.ask(ask.request)
        except OSError:  # includes TimeoutError
            return self._outcome(ask, due, None)
        if response.lasts:
            connection.idle_since = self.now()
            self._idle.append(connection)
        else:
            connection.transport.close()
        return self._outcome(ask, due, response)

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()

    def _again(self) -> "_Line | None":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing() and self.now() - connection.idle_since < FRESH_S:
                return connection
            connection.transport.close()
        return None

    def _outcome(self, ask: Ask, due: float, answer: "_Answer | None") -> Outcome:
        seconds = self.now() - due
        if answer is None:
            return Outcome(ask.kind, due, seconds, 0, "", "")
        unexpected = answer.status == 200 and ask.expects not in answer.body
        return Outcome(ask.kind, due, seconds, answer.status, "wrong" if unexpected else answer.code, answer.retry_after)


class _Answer(NamedTuple):
    status: int
    code: str
    retry_after: str
    body: bytes
    lasts: bool  # whether the connection stays open


class _Line(asyncio.Protocol):
    """One connection and its pending response."""

    transport: asyncio.Transport
    idle_since = 0.0

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[_Answer] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    async def ask(self, request: bytes) -> _Answer:
        """Send a request and wait for the response. Raises OSError if the connection is lost."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    async def leave(self, ask: Ask) -> None:
        """Send the request, or half of it, and disconnect early."""
        self.transport.write(ask.request if ask.stays == "sent" else ask.request[: len(ask.request) // 2])
        await asyncio.sleep(LINGER_S)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answer is None:  # no pending request: an early disconnect, or an unexpected response
            self.transport.close()
        elif (response := _whole(self._received)) and not self._answer.done():
            self._received = b""
            self._answer.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error if isinstance(error, OSError) else ConnectionResetError())


def _whole(received: bytes) -> _Answer | None:
    """Parse the response; None while it is incomplete."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if len(body) < int(headers["content-length"]):
        return None
    code = body.partition(b'"code":"')[2].partition(b'"')[0].decode()
    keep_alive = headers.get("connection", "").lower() != "close"
    return _Answer(int(lines[0].split()[1]), code, headers.get("retry-after", ""), body, keep_alive)
