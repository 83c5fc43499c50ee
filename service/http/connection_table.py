"""All connections of the process: how many there may be, and how long and how much may wait for clients that do not read.

A client costs nothing while the service waits for it, so nothing slows down one that opens connections and goes silent. Once
all places are taken, a new connection takes that of the client that has kept the service waiting longest.
"""

import asyncio
import math
from typing import NamedTuple, Protocol

SWEEP_INTERVAL_S = 1.0


class Connection(Protocol):
    """What the table needs to know of a connection.

    Attributes:
        transport: of the client.
        n_responses: how many responses are complete, in the transport's buffer or beyond.
    """

    transport: asyncio.Transport
    n_responses: int

    def evict(self) -> None:
        """Closes the connection, to make room for another."""
        ...


class _Stall(NamedTuple):
    """A client that has not read a response yet."""

    n_responses: int
    n_sweeps: int


class ConnectionTable:
    """The open connections.

    Args:
        max_connections: how many there may be.
        max_unsent_bytes: of all responses that clients have not read yet; if there are more, the oldest are dropped.
        write_deadline_s: seconds that a client has to read a response.
    """

    def __init__(self, max_connections: int, max_unsent_bytes: int, write_deadline_s: float) -> None:
        self._max_connections = max_connections
        self._max_unsent_bytes = max_unsent_bytes
        # Counted in sweeps, not by the clock: after a pause of the whole machine, every client gets the rest of its time.
        self._max_sweeps = math.ceil(write_deadline_s / SWEEP_INTERVAL_S)
        self._open: dict[Connection, None] = {}
        self._waiting: dict[Connection, None] = {}  # for the client, the longest wait first
        self._stalls: dict[Connection, _Stall] = {}  # the longest stall first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Adds a connection, which waits for its client. False if all others are at work: then there is no room."""
        if len(self._open) >= self._max_connections:
            if not self._waiting:
                return False
            longest = next(iter(self._waiting))
            self.remove(longest)
            longest.evict()
        self._open[connection] = self._waiting[connection] = None
        if self._timer is None:
            self._schedule_sweep()
        return True

    def remove(self, connection: Connection) -> None:
        """Removes a connection, if it is there."""
        self._open.pop(connection, None)
        self._waiting.pop(connection, None)
        self._stalls.pop(connection, None)

    def set_waiting(self, connection: Connection) -> None:
        """The service now waits for the client of a connection: for a request."""
        if connection in self._open:
            self._waiting[connection] = None

    def set_working(self, connection: Connection) -> None:
        """The service now works on a complete request."""
        self._waiting.pop(connection, None)

    def _schedule_sweep(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SWEEP_INTERVAL_S, self._sweep)

    def _sweep(self) -> None:
        """Drops clients that have not read a response for too long, and the oldest ones of too many."""
        self._timer = None
        unsent = {connection: size for connection in self._open if (size := connection.transport.get_write_buffer_size())}
        self._stalls = {
            connection: stall
            for connection, stall in self._stalls.items()
            if connection in unsent and connection.n_responses == stall.n_responses
        }
        for connection in unsent:
            n_sweeps = self._stalls[connection].n_sweeps if connection in self._stalls else 0
            self._stalls[connection] = _Stall(connection.n_responses, n_sweeps + 1)
        n_bytes = sum(unsent.values())
        for connection, stall in list(self._stalls.items()):
            if stall.n_sweeps > self._max_sweeps or n_bytes > self._max_unsent_bytes:
                n_bytes -= unsent[connection]
                self.remove(connection)
                connection.transport.abort()
        if self._open:
            self._schedule_sweep()
