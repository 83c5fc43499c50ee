"""Runs explanations in one thread with a short queue, so that they never delay predictions."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import Overloaded, ProblemError
from ..explain.deletion import Deletion
from ..explain.explainer import Explainer, Explanation, Method, UnsupportedMethod
from ..imaging.preprocess import DecodedImage
from ..inference.model import Model
from ..monitoring.metrics import Metrics

R = TypeVar("R")


class ExplainQueue:
    """Explains decoded images, one at a time.

    Args:
        max_explanations: how many explanations may be waiting or running; one more is rejected.
    """

    def __init__(self, model: Model, max_explanations: int, metrics: Metrics) -> None:
        self._explainer = Explainer(model.artifact, model.engine.precision)
        self._max_explanations = max_explanations
        self._n_pending = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explainer")
        self._seconds = metrics.stage_seconds.labels("explain")
        metrics.track_queue("explain", lambda: self._n_pending)

    def check_capacity(self) -> None:
        """Raises Overloaded if the queue is full."""
        if self._n_pending >= self._max_explanations:
            raise Overloaded(f"{self._n_pending} explanations are already waiting or running.", "max_explanations")

    async def explain(
        self, decoded: DecodedImage, label: int | None, method: Method | None, finish: Callable[[Explanation], R]
    ) -> R:
        """Explains an image and returns the result of `finish`, which runs in the explainer's thread.

        Raises:
            Overloaded: if the queue is full.
            ProblemError: if the network does not support the method, or its outputs are not finite.
        """
        return await self._run(lambda should_continue: finish(self._explainer.explain(decoded, label, method, should_continue)))

    async def explain_with_score(
        self, decoded: DecodedImage, label: int | None, method: Method | None
    ) -> tuple[Explanation, Deletion]:
        """Explains an image and computes the deletion score. Raises as `explain` does."""

        def explain_and_score(should_continue: Callable[[], bool]) -> tuple[Explanation, Deletion]:
            explanation = self._explainer.explain(decoded, label, method, should_continue)
            return explanation, self._explainer.deletion(explanation, should_continue)

        return await self._run(explain_and_score)

    async def _run(self, work: Callable[[Callable[[], bool]], R]) -> R:
        """Runs `work` in the explainer's thread. It gets a function that returns False once the request is cancelled."""
        self.check_capacity()
        self._n_pending += 1
        cancelled = threading.Event()  # checked between two forward passes

        def run() -> R:
            with self._seconds.time():
                return work(lambda: not cancelled.is_set())

        try:
            return await asyncio.wrap_future(self._thread.submit(run))
        except UnsupportedMethod as error:
            raise ProblemError("bad_method", str(error), field="method") from None
        except FloatingPointError as error:
            raise ProblemError("model_output_invalid", str(error)) from None
        finally:
            cancelled.set()
            self._n_pending -= 1

    def close(self) -> None:
        """Cancels the waiting explanations and finishes the running one."""
        self._thread.shutdown(cancel_futures=True)
