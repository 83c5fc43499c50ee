"""The network, run: uint8 pixels in, logits and feature vectors out. OpenVINO on a CPU; on CUDA torch, in `service.cuda`.

The graph itself subtracts the mean and divides by the deviation, so nobody downstream can forget to.
"""

import ctypes
import math
import os
import threading
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.artifact import Artifact, ArtifactError, Precision

if TYPE_CHECKING:
    import openvino

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

MOST_FOR_ONE = 4  # cores; with more the parts of one image become too small to be worth handing out
LOGITS = "logits"
VECTORS = "vectors"


class Outputs(NamedTuple):
    """What the network says of N images.

    Attributes:
        logits: float32 (N, C), before the temperature and the softmax.
        vectors: float32 (N, D), what the head saw.
    """

    logits: Floats
    vectors: Floats


class Engine(Protocol):
    """A loaded network. Calls may come from several threads at once.

    Attributes:
        device: "cpu" or "cuda".
        precision: what it computes in.
        lanes: how many calls run side by side without slowing each other.
        max_batch: the most images of one call that pay off.
    """

    device: str
    precision: Precision
    lanes: int
    max_batch: int

    def __call__(self, batch: Pixels) -> Outputs:
        """The outputs for a batch, uint8 (N, S, S, 3) in RGB."""
        ...


def load(artifact: Artifact, device: str = "auto", precision: Precision = "f32") -> Engine:
    """The engine for this machine: CUDA where there is one, else the CPU.

    Raises:
        ArtifactError: if the package has no network in that precision.
    """
    if resolved(device) == "cuda":
        from service.cuda import CudaEngine

        return CudaEngine(artifact, precision)
    return CpuEngine(graph_of(artifact, precision), precision=precision)


def graph_of(artifact: Artifact, precision: Precision) -> Path:
    """The file with the network for the CPU in a precision. Raises ArtifactError if the package has none."""
    if precision != "int8":
        return artifact.graph
    if "int8" not in artifact.manifest.fidelity:
        raise ArtifactError(f"{artifact.path} has no int8 network. Make one with: graft fit DIR --int8")
    return artifact.int8_graph


def resolved(device: str) -> str:
    """The device that "auto" means on this machine."""
    return device if device != "auto" else "cuda" if cuda_devices() else "cpu"


def native(device: str) -> tuple[Precision, ...]:
    """What a device computes in by itself, without imitating it by something wider: f32 and perhaps more."""
    if device == "cuda":
        from service import cuda

        return cuda.native()
    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", *(name for name in ("bf16", "int8") if name.upper() in able))


@cache
def cuda_devices() -> int:
    """How many CUDA devices the driver offers. Asks the driver itself, because importing torch takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The processors that this process may really use: a container's share, not the machine's total.

    Args:
        groups: where the kernel tells a container's share of time.
    """
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(seen, _share(groups)))


def _share(groups: Path) -> float:
    """The processors' worth of time that a container gets, by `docker run --cpus` or a limit on Kubernetes.

    It sees all the machine's processors nevertheless; a thread on each would spend most of its time held up.
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # control groups of version 2, of 1
        try:
            quota, period = " ".join((groups / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf


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
