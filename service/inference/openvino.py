"""The CPU engine: ONNX models compiled by OpenVINO."""

import sys
import threading
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fidelity import Precision
from .devices import Device, available_cpus
from .engine import LOGITS, VECTORS, Floats, Outputs, Pixels

if TYPE_CHECKING:
    import openvino

# OpenVINO imports it if it is there. It looks up a web host, keeps a thread, and writes into the home folder.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

ALONE_CALLS = 4  # in a row, after which the next one is taken to be alone too
MAX_LATENCY_THREADS = 4  # with more threads, the work per thread is too small to pay off


@cache
def openvino_core() -> "openvino.Core":
    """The process's only OpenVINO Core; it lives as long as the process.

    A Core installs a signal stack in the thread that creates it and frees it on deletion. If two Cores are deleted in the
    wrong order or in another thread, the next signal kills the process.
    """
    import openvino

    return openvino.Core()


class OpenVinoModel:
    """A graph file compiled for the CPU. Runs one image at a time in each of `streams` threads.

    Batches were no faster here, and with single images a result cannot depend on other images in the batch. Each calling
    thread has its own inference request. OpenVINO releases the GIL during inference.

    The file is read into memory, never mapped, so that overwriting it cannot change or crash a running model.

    Args:
        path: an ONNX file.
        streams: number of parallel inference streams; default: one per CPU.
        output_names: outputs to compute; unknown names are ignored. Default: all.
        threads: number of threads for all streams together; default: one per CPU.
        precision: "bf16" runs the whole model in bf16. Any other value uses the types in the file: f32, or partly int8.
        size: (height, width) of the images, for a fully convolutional model; the outputs scale with it. Default: the size
            in the file.
        transform: changes the graph in place before it is compiled.

    Attributes:
        side: of the square images in the file, in pixels.
        outputs: the names of the computed outputs.
        widths: number of values or channels of each output in the file, its second dimension; 0 if it is not fixed.

    Raises:
        RuntimeError: if the model does not support that size.
    """

    def __init__(
        self,
        path: Path,
        streams: int | None = None,
        output_names: Collection[str] | None = None,
        threads: int | None = None,
        precision: Precision = "f32",
        size: tuple[int, int] | None = None,
        transform: Callable[["openvino.Model"], None] | None = None,
    ) -> None:
        import openvino
        from openvino import properties

        self.streams = streams or available_cpus()
        model = openvino_core().read_model(path.read_bytes(), b"")
        if transform:
            transform(model)
        side = model.input(0).get_partial_shape()[1].get_length()
        height, width = size or (side, side)
        model.reshape([1, height, width, 3])
        self.side = side
        self.widths = {output.get_any_name(): _width(output) for output in model.outputs}
        for output in model.outputs:
            if output_names is not None and output.get_any_name() not in output_names:
                model.remove_result(output.get_node())
        # Read before compiling: the compiler adds the names of the no-ops that it removes.
        self.outputs: tuple[str, ...] = tuple(output.get_any_name() for output in model.outputs)
        settings = {
            properties.hint.inference_precision: openvino.Type.bf16 if precision == "bf16" else openvino.Type.f32,
            properties.hint.performance_mode: properties.hint.PerformanceMode.THROUGHPUT,
            properties.num_streams: self.streams,
            properties.inference_num_threads: threads or available_cpus(),
        }
        self._compiled = openvino_core().compile_model(model, "CPU", settings)
        self._requests = threading.local()
        # Run a first inference in one thread: the bindings initialize tables in it and hold a lock while waiting for the GIL.
        # Two threads that run their first inference at the same time would deadlock.
        self._compiled.create_infer_request().infer([np.zeros((1, height, width, 3), np.uint8)])

    def __call__(self, batch: Pixels) -> dict[str, Floats]:
        """Runs pixels, uint8 (N, S, S, 3) or (N, *size, 3). Returns the outputs by name, float32 (N, ...)."""
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
        outputs: dict[str, list[Floats]] = {name: [] for name in self.outputs}
        for pixels in batch:
            results = request.infer([pixels[None]], share_inputs=True)
            for index, name in enumerate(self.outputs):
                outputs[name].append(results[index])
        return {name: np.concatenate(rows) for name, rows in outputs.items()}


def _width(output: Any) -> int:
    shape = output.get_partial_shape()
    is_fixed = not shape.rank.is_dynamic and len(shape) > 1 and not shape[1].is_dynamic
    return int(shape[1].get_length()) if is_fixed else 0


class OpenVinoEngine:
    """Runs a package's graph on the CPU, compiled for throughput: parallel calls are fastest with one core each."""

    device: Device = "cpu"
    max_batch = 1

    def __init__(self, graph: Path, streams: int | None = None, precision: Precision = "f32") -> None:
        self._compile = partial(OpenVinoModel, graph, output_names=(LOGITS, VECTORS), precision=precision)
        self._throughput = self._compile(streams)
        self._latency: OpenVinoModel | None = None
        self._in_flight, self._n_alone, self._lock = 0, ALONE_CALLS, threading.Lock()
        self.precision = precision
        self.streams = self._throughput.streams
        self.side, self.widths = self._throughput.side, self._throughput.widths

    def compile_for_latency(self) -> None:
        """Compiles the graph a second time: from now on a call that runs alone, as those before it did, uses all cores.

        On two cores such a call takes two thirds of the time. The cost is a second copy of the weights.
        """
        if self._latency is None:
            self._latency = self._compile(1, threads=min(available_cpus(), MAX_LATENCY_THREADS))

    def __call__(self, batch: Pixels) -> Outputs:
        with self._lock:
            self._in_flight += 1
            # Under load, a call is alone now and then, but the other cores are not idle: they decode the next images.
            self._n_alone = self._n_alone + 1 if self._in_flight == 1 else 0
            model = self._latency if self._latency and self._n_alone > ALONE_CALLS else self._throughput
        try:
            outputs = model(batch)
        finally:
            with self._lock:
                self._in_flight -= 1
        return Outputs(outputs[LOGITS], outputs[VECTORS])
