"""The CUDA engine: runs the torch network on a GPU. Imported only if a GPU is used."""

import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artifact import Artifact, ArtifactError
from ..fidelity import Precision
from ..networks import network as networks
from ..networks.fold_batch_norm import fold_batch_norm
from ..networks.network import Network
from .devices import Device
from .engine import DeviceFailed, Outputs, Pixels, first_line

logger = logging.getLogger("graft")

CUDA = torch.device("cuda")
DTYPES: dict[Precision, torch.dtype] = {
    "f32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
}
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)  # a batch is padded to the next of them
WARM_UP_CALLS = 3  # before a graph is captured: cuDNN measures its algorithms in the first ones
AMPERE = (8, 0)  # the compute capability from which cards have TF32 and bf16

Step = Callable[[], None]  # computes the outputs of the pixels on the card


def supported_precisions() -> tuple[Precision, ...]:
    """The precisions that this GPU has in hardware."""
    is_ampere = torch.cuda.get_device_capability() >= AMPERE
    return ("f32", "tf32", "bf16", "f16") if is_ampere else ("f32", "f16")


class CudaEngine:
    """Runs a package's weights on a GPU, in the same torch network as training, with BatchNorm folded into convolutions.

    While the GPU computes one batch, the next is copied: each of the `streams` lanes has its own CUDA stream, buffers and
    graphs. A small network's hundreds of kernels take longer to launch than to run, so they are captured once for each batch
    size and launched as one CUDA graph. (torch.compile would need a C compiler where the service runs, and minutes.)

    Raises:
        ArtifactError: if the precision does not exist on a GPU.
        DeviceFailed: if the card fails, or is full.
    """

    device: Device = "cuda"
    streams = 2
    max_batch = BATCH_SIZES[-1]

    def __init__(self, artifact: Artifact, precision: Precision = "f32") -> None:
        if precision not in DTYPES:
            raise ArtifactError(f"{artifact.path}: {precision} is not supported on a GPU; use one of {', '.join(DTYPES)}.")
        self.precision = precision
        side = artifact.manifest.preprocessing.crop
        network = fold_batch_norm(networks.load(artifact).eval().requires_grad_(False), side)
        network.to_reduced_precision(DTYPES[precision])
        self._n_labels = len(artifact.manifest.labels)
        self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        with _failing_device():
            network.to(CUDA).to(memory_format=torch.channels_last)
            torch.cuda.synchronize()  # the weights are copied in another stream than those that read them
            for _ in range(self.streams):
                self._lanes.put(_Lane(network, side, precision))

    def __call__(self, batch: Pixels) -> Outputs:
        lane = self._lanes.get()
        try:
            with _failing_device():
                starts = range(0, len(batch), self.max_batch)
                rows = np.concatenate([lane.run(batch[start : start + self.max_batch]) for start in starts])
        finally:
            self._lanes.put(lane)
        return Outputs(rows[:, : self._n_labels], rows[:, self._n_labels :])


class _Lane:
    """Computes one batch at a time in its own CUDA stream.

    Args:
        network: on the card.
        side: of the square images, in pixels.
    """

    def __init__(self, network: Network, side: int, precision: Precision) -> None:
        self._network = network
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one for all graphs of the lane: they never run at the same time
        shape = (BATCH_SIZES[-1], side, side, 3)
        self._pinned_pixels = _empty_pinned(shape, torch.uint8)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=CUDA)
        self._outputs: dict[int, Tensor] = {}
        with product_precision(precision), _fastest_algorithms(), torch.inference_mode(), torch.cuda.stream(self._stream):
            # The largest first: the memory of its graph is large enough for those of the others, which take it from the pool.
            self._steps = {size: self._prepare(size, precision) for size in reversed(BATCH_SIZES)}
        self._pinned_outputs = _empty_pinned(tuple(self._outputs[BATCH_SIZES[-1]].shape), torch.float32)

    def run(self, batch: Pixels) -> np.ndarray:
        """The outputs of pixels uint8 (N, S, S, 3): logits and vectors, float32 (N, C + D)."""
        n_images = len(batch)
        size = next(size for size in BATCH_SIZES if size >= n_images)
        self._pinned_pixels.numpy()[:n_images] = batch
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._pixels[:size].copy_(self._pinned_pixels[:size], non_blocking=True)
            self._steps[size]()
            self._pinned_outputs[:size].copy_(self._outputs[size], non_blocking=True)
        self._stream.synchronize()
        rows: np.ndarray = self._pinned_outputs.numpy()[:n_images].copy()
        return rows

    def _prepare(self, size: int, precision: Precision) -> Step:
        """The step for batches of this size, as a graph if the network can be captured."""
        for _ in range(WARM_UP_CALLS):
            self._compute(size)
        self._stream.synchronize()
        self._outputs[size] = self._compute(size)

        def compute() -> None:
            self._outputs[size].copy_(self._compute(size))

        try:
            return _capture(compute, self._stream, self._pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning(f"the network cannot be captured as a CUDA graph, and is slower without: {first_line(error)}")

        def compute_eagerly() -> None:
            with product_precision(precision):
                compute()

        return compute_eagerly

    def _compute(self, size: int) -> Tensor:
        return torch.cat(self._network(self._pixels[:size]), dim=1)


@contextmanager
def product_precision(precision: Precision) -> Iterator[None]:
    """Sets the precision of products of f32 numbers in this process: IEEE unless it is tf32.

    By default, torch computes convolutions of f32 numbers in TF32, with 10 bits of fraction, on cards from Ampere on.
    """
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for backend, previous in zip(backends, before, strict=True):
            backend.fp32_precision = previous


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """Lets cuDNN choose its algorithms by their measured time. A graph keeps what was chosen when it was captured."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _failing_device() -> Iterator[None]:
    """Turns every error of torch into DeviceFailed: after most of them, no other call succeeds."""
    try:
        yield
    except RuntimeError as error:  # torch.AcceleratorError, OutOfMemoryError, and those of cuDNN and cuBLAS
        raise DeviceFailed.of(error) from error


def _capture(compute: Step, stream: torch.cuda.Stream, pool: Any) -> Step:
    """Captures what `compute` launches as a CUDA graph, and returns what launches it again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        compute()
    return graph.replay


def _empty_pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in memory of the host from which copies need not wait."""
    return torch.zeros(shape, dtype=dtype, pin_memory=True)
