"""The explainer's own slot: one thread with a short queue, so that explaining never stands in front of answering."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.batcher import Overloaded
from service.explain import Explainer, Explanation, Method, Unexplainable
from service.metrics import Metrics
from service.model import Model
from service.preprocess import Decoded
from service.problems import Refused

R = TypeVar("R")


class Explaining:
    """Explains decoded images, one after the other.

    Args:
        most: how many explanations may be waiting or being made; one more is refused.
    """

    def __init__(self, model: Model, most: int, metrics: Metrics) -> None:
        self._explainer = Explainer(model)
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
        self.check_room()
        self._inside += 1
        gone = threading.Event()  # so that an answer that nobody waits for any more is given up between two passes

        def explain() -> R:
            with self._seconds.time():
                return finish(self._explainer.explain_decoded(decoded, label, method, lambda: not gone.is_set()))

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
