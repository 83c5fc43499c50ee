"""The CPU engine: ONNX graphs compiled by OpenVINO."""

import threading
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..artifact import Precision

if TYPE_CHECKING:
    import openvino
from .devices import cores
from .engine import LOGITS, VECTORS, Floats, Outputs, Pixels

MOST_FOR_ONE = 4  # cores; with more the parts of one image become too small to be worth handing out


@cache
def core() -> "openvino.Core":
    """The process's one OpenVINO, which lives as long as the process.

    Each Core lends the thread that makes it a stack for signals and frees it when it ends; where two end in the wrong
    order or in another thread, the next signal kills the process.
    """
    import openvino

    return openvino.Core()


class Graph:
    """An ONNX file compiled for this CPU, one image at a time in each of `lanes` threads.

    One image a time because batches were no faster here, and because an image's answer then cannot depend on its
    neighbours. Each calling thread gets a request of its own; OpenVINO lets go of the GIL while it computes.

    Args:
        lanes: default: one a core.
        wanted: outputs by name; of the others nothing is computed or copied. Those that the graph has not are passed over.
            Default: all.
        threads: that compute, for all lanes together; default: one a core.
        precision: "bf16" computes all of the graph in it; any other, what the graph itself says: f32, or partly int8.
        size: height and width of the images, of a graph that bears others than its own; `outputs` then grow with them.

    Raises:
        RuntimeError: if the graph does not bear that size.
    """

    def __init__(
        self,
        path: Path,
        lanes: int | None = None,
        wanted: Collection[str] | None = None,
        threads: int | None = None,
        precision: Precision = "f32",
        size: tuple[int, int] | None = None,
    ) -> None:
        import openvino
        from openvino import properties

        self.lanes = lanes or cores()
        model = core().read_model(path)
        side = model.input(0).get_partial_shape()[1].get_length()
        height, width = size or (side, side)
        model.reshape([1, height, width, 3])
        for output in model.outputs:
            if wanted is not None and output.get_any_name() not in wanted:
                model.remove_result(output.get_node())
        # Asked before compiling: an operation that does nothing, and is left out then, leaves its name beside these.
        self.outputs: tuple[str, ...] = tuple(output.get_any_name() for output in model.outputs)
        settings = {
            properties.hint.inference_precision: openvino.Type.bf16 if precision == "bf16" else openvino.Type.f32,
            properties.hint.performance_mode: properties.hint.PerformanceMode.THROUGHPUT,
            properties.num_streams: self.lanes,
            properties.inference_num_threads: threads or cores(),
        }
        self._compiled = core().compile_model(model, "CPU", settings)
        self._requests = threading.local()
        # The bindings fill tables at a process's first inference, holding a lock while they wait for the GIL: two threads
        # that make the first one at the same moment wait for each other for ever.
        self._compiled.create_infer_request().infer([np.zeros((1, height, width, 3), np.uint8)])

    def __call__(self, batch: Pixels) -> dict[str, Floats]:
        """Every output of the graph, by name: float32 (N, ...), for uint8 (N, S, S, 3), or (N, *size, 3)."""
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        found: dict[str, list[Floats]] = {name: [] for name in self.outputs}
        for pixels in batch:
            results = request.infer([pixels[None]], share_inputs=True)
            for index, name in enumerate(self.outputs):
                found[name].append(results[index])
        return {name: np.concatenate(rows) for name, rows in found.items()}


class CpuEngine:
    """A package's graph on the CPU, compiled twice.

    Many calls side by side are fastest with a core each. A call that is alone is sooner done if it gets all of them, by a
    third on two cores; the price is a second copy of the weights.
    """

    device = "cpu"
    max_batch = 1

    def __init__(self, graph: Path, lanes: int | None = None, precision: Precision = "f32") -> None:
        self._shared = Graph(graph, lanes, (LOGITS, VECTORS), precision=precision)
        self._alone = Graph(graph, 1, (LOGITS, VECTORS), min(cores(), MOST_FOR_ONE), precision)
        self._inside, self._lock = 0, threading.Lock()
        self.precision = precision
        self.lanes = self._shared.lanes

    def __call__(self, batch: Pixels) -> Outputs:
        with self._lock:
            self._inside += 1
            graph = self._alone if self._inside == 1 else self._shared
        try:
            outputs = graph(batch)
        finally:
            with self._lock:
                self._inside -= 1
        return Outputs(outputs[LOGITS], outputs[VECTORS])
