"""A decoder pool in an event loop of its own thread, for tests and programs without one."""

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from graft.service.decoding.pool import DecoderPool
from graft.service.imaging.preprocess import DecodedImage


class ThreadedPool:
    """As `DecoderPool`, but its methods are for any thread, and its futures those of `concurrent.futures`.

    Args:
        arguments, options: of `DecoderPool`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._pool = DecoderPool(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        return self._pool.depth

    @property
    def full(self) -> bool:
        return self._pool.full

    def submit(self, encoded: bytes, cost_ms: float = 0.0) -> "Future[DecodedImage]":
        submitted: Future[Future[DecodedImage]] = Future()

        def submit() -> None:
            try:
                decoding = self._pool.submit(encoded, cost_ms)
            except Exception as error:  # noqa: BLE001 - raised in the calling thread
                submitted.set_exception(error)
            else:
                submitted.set_result(asyncio.run_coroutine_threadsafe(_result(decoding), self._loop))

        self._loop.call_soon_threadsafe(submit)
        return submitted.result()

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._pool.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _result(decoding: "asyncio.Future[DecodedImage]") -> DecodedImage:
    return await decoding
