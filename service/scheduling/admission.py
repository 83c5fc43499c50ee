"""Admission control: limits how many images are in the service at once. Used only by the event loop, so it has no locks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Overloaded

ARRIVES_WITHIN_S = 0.25  # a slot is reserved for an upload for this long: a slow upload must not block others


class Room:
    """A fixed number of slots for images.

    Args:
        most: the number of slots; one more image is rejected.

    Attributes:
        inside: how many slots are in use.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._expected = 0
        self.inside = 0

    def check(self) -> None:
        """Raises Overloaded if no slot is free. Call it before an image's bytes are read."""
        if self.inside >= self._most:
            raise Overloaded(f"{self.inside} images are already waiting.", "max_waiting")

    def expect(self) -> "Arrival":
        """Reserves a slot for an image that is being uploaded. Raises Overloaded if no slot is free.

        Without reservations, a thousand requests that arrive together would all find the same free slot, and all uploads
        but one would be read in vain.
        """
        if self.inside + self._expected >= self._most:
            detail = f"{self.inside} images are already waiting, and {self._expected} are being uploaded."
            raise Overloaded(detail, "max_waiting")
        return Arrival(self)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a slot until the block ends. Raises Overloaded if no slot is free."""
        self.check()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def _count(self, n_more: int) -> None:
        self._expected += n_more


class Arrival:
    """A slot that is reserved for `RESERVATION_S`."""

    def __init__(self, room: Room) -> None:
        self._room: Room | None = room
        self._late = asyncio.get_running_loop().call_later(ARRIVES_WITHIN_S, self.end)
        room._count(1)

    def end(self) -> None:
        """Gives the slot back: the upload is complete, was aborted, or is late."""
        if self._room is not None:
            self._room._count(-1)
            self._room = None
            self._late.cancel()
