"""The explainer's own slot: one thread with a short queue, so that explaining never stands in front of answering."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import Overloaded, Refused
from ..explain.deletion import Deletion
from ..explain.explainer import Explainer, Explanation, Method, Unexplainable
from ..imaging.preprocess import Decoded
from ..inference.model import Model
from ..monitoring.metrics import Metrics

R = TypeVar("R")


class Explaining:
    """Explains decoded images, one after the other.

    Args:
        most: how many explanations may be waiting or being made; one more is refused.
    """

    def __init__(self, model: Model, most: int, metrics: Metrics) -> None:
        self._explainer = Explainer(model.artifact, model.engine.precision)
        self._most = most
        self._inside = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self._seconds = metrics.stage_seconds.labels("explain")
        metrics.watch("explain", lambda: self._inside)

    def check_room(self) -> None:
        """Raises Overloaded if one more explanation would be refused."""
        if self._inside >= self._most:
            raise Overloaded(f"{self._inside} explanations are waiting or being made already.", "max_explanations")

    async def explained(
        self, decoded: Decoded, label: int | None, method: Method | None, finish: Callable[[Explanation], R]
    ) -> R:
        """What `finish`, which runs in the explainer's thread, makes of the explanation of an image.

        Raises:
            Overloaded: if there is no room.
            Refused: if the network cannot be explained in that way, or gives no usable answer.
        """
        return await self._run(lambda wanted: finish(self._explainer.explain(decoded, label, method, wanted)))

    async def judged(self, decoded: Decoded, label: int | None, method: Method | None) -> tuple[Explanation, Deletion]:
        """The explanation of an image, and whether it explains anything. Raises as `explained` does."""

        def both(wanted: Callable[[], bool]) -> tuple[Explanation, Deletion]:
            found = self._explainer.explain(decoded, label, method, wanted)
            return found, self._explainer.deletion(found, wanted)

        return await self._run(both)

    async def _run(self, work: Callable[[Callable[[], bool]], R]) -> R:
        """The outcome of work in the explainer's thread, which may ask whether anybody still waits for it."""
        self.check_room()
        self._inside += 1
        gone = threading.Event()  # so that an answer that nobody waits for any more is given up between two passes

        def explain() -> R:
            with self._seconds.time():
                return work(lambda: not gone.is_set())

        try:
            return await asyncio.wrap_future(self._thread.submit(explain))
        except Unexplainable as error:
            raise Refused("bad_method", str(error), field="method") from None
        except FloatingPointError as error:
            raise Refused("model_output_invalid", str(error)) from None
        finally:
            gone.set()
            self._inside -= 1

    def close(self) -> None:
        """Gives up what waits, finishes what is being made."""
        self._thread.shutdown(cancel_futures=True)
