"""Runs explanations in one thread with a short queue, so that they never delay predictions."""

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
    """Explains decoded images, one at a time.

    Args:
        most: how many explanations may be waiting or running; one more is rejected.
    """

    def __init__(self, model: Model, most: int, metrics: Metrics) -> None:
        self._explainer = Explainer(model.artifact, model.engine.precision)
        self._most = most
        self._inside = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self._seconds = metrics.stage_seconds.labels("explain")
        metrics.watch("explain", lambda: self._inside)

    def check_room(self) -> None:
        """Raises Overloaded if the queue is full."""
        if self._inside >= self._most:
            raise Overloaded(f"{self._inside} explanations are already waiting or running.", "max_explanations")

    async def explained(
        self, decoded: Decoded, label: int | None, method: Method | None, finish: Callable[[Explanation], R]
    ) -> R:
        """Explains an image and returns the result of `finish`, which runs in the explainer's thread.

        Raises:
            Overloaded: if the queue is full.
            ProblemError: if the network does not support the method, or its outputs are not finite.
        """
        return await self._run(lambda should_continue: finish(self._explainer.explain(decoded, label, method, should_continue)))

    async def judged(self, decoded: Decoded, label: int | None, method: Method | None) -> tuple[Explanation, Deletion]:
        """Explains an image and computes the deletion score. Raises as `explain` does."""

        def explain_and_score(should_continue: Callable[[], bool]) -> tuple[Explanation, Deletion]:
            explanation = self._explainer.explain(decoded, label, method, should_continue)
            return explanation, self._explainer.deletion(explanation, should_continue)

        return await self._run(explain_and_score)

    async def _run(self, work: Callable[[Callable[[], bool]], R]) -> R:
        """Runs `work` in the explainer's thread. It gets a function that returns False once the request is cancelled."""
        self.check_room()
        self._inside += 1
        cancelled = threading.Event()  # checked between two forward passes

        def run() -> R:
            with self._seconds.time():
                return work(lambda: not cancelled.is_set())

        try:
            return await asyncio.wrap_future(self._thread.submit(run))
        except Unexplainable as error:
            raise Refused("bad_method", str(error), field="method") from None
        except FloatingPointError as error:
            raise Refused("model_output_invalid", str(error)) from None
        finally:
            cancelled.set()
            self._inside -= 1

    def close(self) -> None:
        """Cancels the waiting explanations and finishes the running one."""
        self._thread.shutdown(cancel_futures=True)
