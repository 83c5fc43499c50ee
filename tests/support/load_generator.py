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
MAX_IDLE_S = 2.0  # maximum idle time of a reused connection; the server closes it after five seconds
TIMEOUT_S = 60.0  # until a response counts as lost
LINGER_S = 0.02  # how long a client waits before it disconnects early


@dataclass(frozen=True)
class RequestSpec:
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
    expected_body: bytes = b""


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


class LoadRecord(NamedTuple):
    """Outcomes of one load.

    Attributes:
        started_at: time.monotonic() at the start; this clock is the same in all processes of a machine.
    """

    started_at: float
    outcomes: list[Outcome]


class Phase(NamedTuple):
    """A period with an average number of requests per second."""

    rate: float
    seconds: float


def build_post(path: str, body: bytes, headers: str = "") -> bytes:
    """A complete request. Each line of `headers` ends with CR LF."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class LoadGenerator:
    """Clients of one server, in a separate process."""

    port: int
    pool: ProcessPoolExecutor

    def open_loop(self, requests: Sequence[RequestSpec], phases: Sequence[Phase], seed: int = 0) -> Future[LoadRecord]:
        """Open loop: send randomly chosen requests at random times; done when all responses have arrived."""
        return self.pool.submit(_run, _open_loop, self.port, requests, phases, seed)

    def closed_loop(self, requests: Sequence[RequestSpec], n_clients: int, seconds: float, seed: int = 0) -> Future[LoadRecord]:
        """Closed loop: each client sends the next request as soon as it has a response."""
        return self.pool.submit(_run, _closed_loop, self.port, requests, n_clients, seconds, seed)

    def send_each(self, requests: Sequence[RequestSpec], n_clients: int) -> Future[LoadRecord]:
        """Send each request once, with several concurrent clients."""
        return self.pool.submit(_run, _send_each, self.port, requests, n_clients)


@contextmanager
def start_load_generator(port: int) -> Iterator[LoadGenerator]:
    """Run a client process until the block ends."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield LoadGenerator(port, pool)


def _run(send_load: Callable[..., Awaitable[list[Outcome]]], port: int, *arguments: object) -> LoadRecord:
    async def run_clients() -> LoadRecord:
        pool = _ConnectionPool(port)
        record = LoadRecord(pool.started_at, await send_load(pool, *arguments))
        pool.close()
        return record

    return uvloop.run(run_clients())


async def _open_loop(
    pool: "_ConnectionPool", requests: Sequence[RequestSpec], phases: Sequence[Phase], seed: int
) -> list[Outcome]:
    rng, tasks = random.Random(seed), []
    for due in _arrivals(phases, rng):
        await asyncio.sleep(max(0.0, due - pool.now()))
        tasks.append(asyncio.create_task(pool.send(rng.choice(requests), due)))
    return list(await asyncio.gather(*tasks))


def _arrivals(phases: Sequence[Phase], rng: random.Random) -> Iterator[float]:
    """Arrival times in seconds, from a Poisson process with one rate per phase."""
    phase_start = 0.0
    for phase in phases:
        arrival = phase_start + rng.expovariate(phase.rate)
        while arrival < phase_start + phase.seconds:
            yield arrival
            arrival += rng.expovariate(phase.rate)
        phase_start += phase.seconds


async def _closed_loop(
    pool: "_ConnectionPool", requests: Sequence[RequestSpec], n_clients: int, seconds: float, seed: int
) -> list[Outcome]:
    rng, outcomes = random.Random(seed), []

    async def run_client() -> None:
        while (now := pool.now()) < seconds:
            outcomes.append(await pool.send(rng.choice(requests), now))

    await asyncio.gather(*(run_client() for _ in range(n_clients)))
    return outcomes


async def _send_each(pool: "_ConnectionPool", requests: Sequence[RequestSpec], n_clients: int) -> list[Outcome]:
    remaining = iter(requests)  # shared by all clients

    async def run_client() -> list[Outcome]:
        return [await pool.send(request, pool.now()) for request in remaining]

    return [
        outcome
        for client_outcomes in await asyncio.gather(*(run_client() for _ in range(n_clients)))
        for outcome in client_outcomes
    ]


class _ConnectionPool:
    """Keeps idle connections for reuse."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []
        self._loop = asyncio.get_running_loop()
        self.started_at = time.monotonic()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_at

    async def send(self, request: RequestSpec, due: float) -> Outcome:
        """Send one request and return its outcome."""
        try:
            connection = self._reuse_idle() or (await self._loop.create_connection(_Connection, HOST, self._port))[1]
            if request.stays != "answer":
                await connection.disconnect_early(request)
                return self._outcome(request, due, None)
            async with asyncio.timeout(TIMEOUT_S):
                response = await connection.send(request.request)
        except OSError:  # includes TimeoutError
            return self._outcome(request, due, None)
        if response.keep_alive:
            connection.idle_since = self.now()
            self._idle.append(connection)
        else:
            connection.transport.close()
        return self._outcome(request, due, response)

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()

    def _reuse_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing() and self.now() - connection.idle_since < MAX_IDLE_S:
                return connection
            connection.transport.close()
        return None

    def _outcome(self, request: RequestSpec, due: float, response: "_Response | None") -> Outcome:
        seconds = self.now() - due
        if response is None:
            return Outcome(request.kind, due, seconds, 0, "", "")
        unexpected = response.status == 200 and request.expected_body not in response.body
        return Outcome(
            request.kind, due, seconds, response.status, "wrong" if unexpected else response.code, response.retry_after
        )


class _Response(NamedTuple):
    status: int
    code: str
    retry_after: str
    body: bytes
    keep_alive: bool  # whether the connection stays open


class _Connection(asyncio.Protocol):
    """One connection and its pending response."""

    transport: asyncio.Transport
    idle_since = 0.0

    def __init__(self) -> None:
        self._received = b""
        self._response: asyncio.Future[_Response] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    async def send(self, request: bytes) -> _Response:
        """Send a request and wait for the response. Raises OSError if the connection is lost."""
        self._response = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._response

    async def disconnect_early(self, request: RequestSpec) -> None:
        """Send the request, or half of it, and disconnect early."""
        self.transport.write(request.request if request.stays == "sent" else request.request[: len(request.request) // 2])
        await asyncio.sleep(LINGER_S)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._response is None:  # no pending request: an early disconnect, or an unexpected response
            self.transport.close()
        elif (response := _parse_response(self._received)) and not self._response.done():
            self._received = b""
            self._response.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(error if isinstance(error, OSError) else ConnectionResetError())


def _parse_response(received: bytes) -> _Response | None:
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
    return _Response(int(lines[0].split()[1]), code, headers.get("retry-after", ""), body, keep_alive)
