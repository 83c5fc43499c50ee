"""How many images may be in the service at once. Only the event loop counts here, so nothing is locked."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Overloaded

ARRIVES_WITHIN_S = 0.25  # how long a place is kept for an upload: who dawdles must not keep others out


class Room:
    """A number of places.

    Args:
        most: how many images may be inside; one more is refused.

    Attributes:
        inside: how many are.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._expected = 0
        self.inside = 0

    def check(self) -> None:
        """Raises Overloaded if there is no place: to be asked before an image's bytes are read."""
        if self.inside >= self._most:
            raise Overloaded(f"{self.inside} images are waiting already.", "max_waiting")

    def expect(self) -> "Arrival":
        """Keeps a place for an image that is on its way. Raises Overloaded if there is none.

        Without that, a thousand requests whose headers come in one moment would all find the same free place, and all but
        one would be read in vain.
        """
        if self.inside + self._expected >= self._most:
            raise Overloaded(f"{self.inside} images are waiting already, and {self._expected} are coming.", "max_waiting")
        return Arrival(self)

    @contextmanager
    def place(self) -> Iterator[None]:
        """One image is inside until the block ends. Raises Overloaded if there is no place."""
        self.check()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def _count(self, n_more: int) -> None:
        self._expected += n_more


class Arrival:
    """A place that is kept, for a moment."""

    def __init__(self, room: Room) -> None:
        self._room: Room | None = room
        self._late = asyncio.get_running_loop().call_later(ARRIVES_WITHIN_S, self.end)
        room._count(1)

    def end(self) -> None:
        """The image is there, or will not come, or is late."""
        if self._room is not None:
            self._room._count(-1)
            self._room = None
            self._late.cancel()
