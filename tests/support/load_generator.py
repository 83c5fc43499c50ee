"""A crowd of callers on real sockets: requests that come whether or not the server keeps up, each outcome on record.

Open loop: arrivals are random, and a latency counts from the moment when its request was due. A crowd that waited for each
answer before it asked again would hide what a stall costs everybody behind it. It runs in a process of its own.
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
FRESH_S = 2.0  # how long an idle connection is used again; the server closes it after five seconds
PATIENCE_S = 60.0  # until an answer counts as lost
LINGER_S = 0.02  # how long a caller who hangs up early has stayed


@dataclass(frozen=True)
class Ask:
    """What one caller does.

    Attributes:
        kind: its name in the record.
        request: every byte of it.
        stays: until the answer has come; or only until the request has been sent, or half of it.
        expects: what must stand in the body of an answer of 200.
    """

    kind: str
    request: bytes
    stays: Literal["answer", "sent", "half"] = "answer"
    expects: bytes = b""


class Outcome(NamedTuple):
    """What came of one request.

    Attributes:
        kind: the caller's.
        due: seconds from the beginning until it was to be sent.
        seconds: from then on until its last byte was there.
        status: 0 if the connection ended without an answer, and for callers who hung up.
        code: of the problem; "wrong" for an answer that does not hold what was expected; or "".
        retry_after: the header, or "".
    """

    kind: str
    due: float
    seconds: float
    status: int
    code: str
    retry_after: str


class Record(NamedTuple):
    """What came of many.

    Attributes:
        begun: on time.monotonic()'s clock, which all processes of a machine share.
    """

    begun: float
    outcomes: list[Outcome]


class Phase(NamedTuple):
    """So many requests a second, on average, for so long."""

    rate: float
    seconds: float


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A whole request. `headers` is lines that each end with CR LF."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@dataclass(frozen=True)
class Crowd:
    """Callers in a process of their own, of one server."""

    port: int
    pool: ProcessPoolExecutor

    def offer(self, asks: Sequence[Ask], phases: Sequence[Phase], seed: int = 0) -> Future[Record]:
        """Random ones of `asks` at random moments; done when every answer has come."""
        return self.pool.submit(_run, _offer, self.port, asks, phases, seed)

    def keep(self, asks: Sequence[Ask], callers: int, seconds: float, seed: int = 0) -> Future[Record]:
        """So many callers for so long, each of whom asks again as soon as it has an answer."""
        return self.pool.submit(_run, _keep, self.port, asks, callers, seconds, seed)

    def each(self, asks: Sequence[Ask], callers: int) -> Future[Record]:
        """Every one of `asks` once, by so many callers."""
        return self.pool.submit(_run, _each, self.port, asks, callers)


@contextmanager
def crowd(port: int) -> Iterator[Crowd]:
    """Callers until the block ends."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield Crowd(port, pool)


def _run(play: Callable[..., Awaitable[list[Outcome]]], port: int, *arguments: object) -> Record:
    async def played() -> Record:
        lines = _Lines(port)
        record = Record(lines.begun, await play(lines, *arguments))
        lines.close()
        return record

    return uvloop.run(played())


async def _offer(lines: "_Lines", asks: Sequence[Ask], phases: Sequence[Phase], seed: int) -> list[Outcome]:
    chance, callers = random.Random(seed), []
    for due in _arrivals(phases, chance):
        await asyncio.sleep(max(0.0, due - lines.now()))
        callers.append(asyncio.create_task(lines.ask(chance.choice(asks), due)))
    return list(await asyncio.gather(*callers))


def _arrivals(phases: Sequence[Phase], chance: random.Random) -> Iterator[float]:
    """Seconds from the beginning, of a Poisson process whose rate changes with the phases."""
    begin = 0.0
    for phase in phases:
        moment = begin + chance.expovariate(phase.rate)
        while moment < begin + phase.seconds:
            yield moment
            moment += chance.expovariate(phase.rate)
        begin += phase.seconds


async def _keep(lines: "_Lines", asks: Sequence[Ask], callers: int, seconds: float, seed: int) -> list[Outcome]:
    chance, found = random.Random(seed), []

    async def call() -> None:
        while (now := lines.now()) < seconds:
            found.append(await lines.ask(chance.choice(asks), now))

    await asyncio.gather(*(call() for _ in range(callers)))
    return found


async def _each(lines: "_Lines", asks: Sequence[Ask], callers: int) -> list[Outcome]:
    rest = iter(asks)  # which all callers share

    async def call() -> list[Outcome]:
        return [await lines.ask(ask, lines.now()) for ask in rest]

    return [outcome for found in await asyncio.gather(*(call() for _ in range(callers))) for outcome in found]


class _Lines:
    """The connections of one crowd; idle ones are used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Line] = []
        self._loop = asyncio.get_running_loop()
        self.begun = time.monotonic()

    def now(self) -> float:
        """Seconds from the beginning."""
        return time.monotonic() - self.begun

    async def ask(self, ask: Ask, due: float) -> Outcome:
        """One request, from when it was due."""
        try:
            line = self._again() or (await self._loop.create_connection(_Line, HOST, self._port))[1]
            if ask.stays != "answer":
                await line.leave(ask)
                return self._outcome(ask, due, None)
            async with asyncio.timeout(PATIENCE_S):
                answer = await line.ask(ask.request)
        except OSError:  # TimeoutError is one of them
            return self._outcome(ask, due, None)
        if answer.lasts:
            line.idle_since = self.now()
            self._idle.append(line)
        else:
            line.transport.close()
        return self._outcome(ask, due, answer)

    def close(self) -> None:
        for line in self._idle:
            line.transport.close()

    def _again(self) -> "_Line | None":
        while self._idle:
            line = self._idle.pop()
            if not line.transport.is_closing() and self.now() - line.idle_since < FRESH_S:
                return line
            line.transport.close()
        return None

    def _outcome(self, ask: Ask, due: float, answer: "_Answer | None") -> Outcome:
        seconds = self.now() - due
        if answer is None:
            return Outcome(ask.kind, due, seconds, 0, "", "")
        wrong = answer.status == 200 and ask.expects not in answer.body
        return Outcome(ask.kind, due, seconds, answer.status, "wrong" if wrong else answer.code, answer.retry_after)


class _Answer(NamedTuple):
    status: int
    code: str
    retry_after: str
    body: bytes
    lasts: bool  # whether the connection does


class _Line(asyncio.Protocol):
    """One connection, and the answer that it waits for."""

    transport: asyncio.Transport
    idle_since = 0.0

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[_Answer] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    async def ask(self, request: bytes) -> _Answer:
        """The answer. Raises OSError if there is none."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    async def leave(self, ask: Ask) -> None:
        """Hangs up early."""
        self.transport.write(ask.request if ask.stays == "sent" else ask.request[: len(ask.request) // 2])
        await asyncio.sleep(LINGER_S)
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answer is None:  # nobody asked: it is being hung up on, or left behind
            self.transport.close()
        elif (answer := _whole(self._received)) and not self._answer.done():
            self._received = b""
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error if isinstance(error, OSError) else ConnectionResetError())


def _whole(received: bytes) -> _Answer | None:
    """The answer, once all of it is there."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if len(body) < int(headers["content-length"]):
        return None
    code = body.partition(b'"code":"')[2].partition(b'"')[0].decode()
    lasts = headers.get("connection", "").lower() != "close"
    return _Answer(int(lines[0].split()[1]), code, headers.get("retry-after", ""), body, lasts)
