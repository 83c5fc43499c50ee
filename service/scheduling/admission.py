"""Admission control: limits how many images are in the service at once. Used only by the event loop, so it has no locks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Overloaded

RESERVATION_S = 0.25  # a slot is reserved for an upload for this long: a slow upload must not block others
COSTLY_PART = 4  # one of so many slots is for images that are costly to decode, so that they cannot take all


class AdmissionControl:
    """A fixed number of slots for images, of which only a part is for those that are costly to decode.

    Args:
        max_images: the number of slots; one more image is rejected.

    Attributes:
        n_admitted: how many slots are in use.
    """

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._max_costly = max(1, max_images // COSTLY_PART)
        self._n_reserved = self._n_costly = 0
        self.n_admitted = 0

    def check(self) -> None:
        """Raises Overloaded if no slot is free. Call it before an image's bytes are read."""
        if self.n_admitted >= self._max_images:
            raise Overloaded(f"{self.n_admitted} images are already waiting.", "max_waiting")

    def reserve(self) -> "Reservation":
        """Reserves a slot for an image that is being uploaded. Raises Overloaded if no slot is free.

        Without reservations, a thousand requests that arrive together would all find the same free slot, and all uploads
        but one would be read in vain.
        """
        if self.n_admitted + self._n_reserved >= self._max_images:
            detail = f"{self.n_admitted} images are already waiting, and {self._n_reserved} are being uploaded."
            raise Overloaded(detail, "max_waiting")
        return Reservation(self)

    @contextmanager
    def slot(self, costly: bool = False) -> Iterator[None]:
        """Holds a slot until the block ends. Raises Overloaded if none is free, or none that a costly image may have."""
        self.check()
        if costly and self._n_costly >= self._max_costly:
            detail = f"{self._n_costly} images that take long to decode are already waiting. Send a smaller image, or a JPEG."
            raise Overloaded(detail, "max_waiting")
        self.n_admitted += 1
        self._n_costly += costly
        try:
            yield
        finally:
            self.n_admitted -= 1
            self._n_costly -= costly

    def _add_reserved(self, n_more: int) -> None:
        self._n_reserved += n_more


class Reservation:
    """A slot that is reserved for `RESERVATION_S`."""

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission: AdmissionControl | None = admission
        self._timer = asyncio.get_running_loop().call_later(RESERVATION_S, self.release)
        admission._add_reserved(1)

    def release(self) -> None:
        """Gives the slot back: the upload is complete, was aborted, or is late."""
        if self._admission is not None:
            self._admission._add_reserved(-1)
            self._admission = None
            self._timer.cancel()
