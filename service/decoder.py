"""Decodes images beside the event loop, a bounded number at a time."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from service.batcher import Overloaded
from service.preprocess import Decoded


class Decoder:
    """A pool of threads in front of one decoding function; Pillow lets go of the GIL while it works.

    Args:
        decode: encoded bytes to pixels; raises ImageError.
        workers: how many decode at once.
        max_waiting: how many may be in here, working or waiting; one more is refused.
    """

    def __init__(self, decode: Callable[[bytes], Decoded], workers: int, max_waiting: int) -> None:
        self._decode = decode
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decoder")
        self._places = threading.Semaphore(max_waiting)
        self._max_waiting = max_waiting

    def submit(self, encoded: bytes) -> Future[Decoded]:
        """The promise of one image's pixels. Raises Overloaded at once if there is no place."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{self._max_waiting} images are being decoded already.")
        promise = self._pool.submit(self._decode, encoded)
        promise.add_done_callback(lambda _: self._places.release())
        return promise

    def close(self) -> None:
        """Finishes what waits, then ends the threads."""
        self._pool.shutdown()
