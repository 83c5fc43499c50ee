"""The CUDA engine: runs the torch network on a GPU. Imported only if a GPU is used."""

import threading

import numpy as np
import torch
from torch import Tensor

from ..artifact import Artifact, ArtifactError
from ..manifest import Precision
from ..networks import network
from .devices import Device
from .engine import LOGITS, VECTORS, Outputs, Pixels

_DTYPES: dict[Precision, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def supported_precisions() -> tuple[Precision, ...]:
    """The precisions that this GPU supports natively."""
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("f32", "f16", "bf16") if has_bf16 else ("f32", "f16")


class CudaEngine:
    """Runs a package's weights on a GPU, in the same torch network as training.

    Two streams: while the GPU runs one batch, the next one is stacked and copied. Each calling thread has its own CUDA stream
    and pinned buffer, so that copies do not block each other.
    """

    device: Device = "cuda"
    streams = 2
    max_batch = 64

    def __init__(self, artifact: Artifact, precision: Precision = "f32") -> None:
        if precision not in _DTYPES:
            raise ArtifactError(f"{artifact.path}: {precision} is not supported on a GPU; use one of {', '.join(_DTYPES)}.")
        self.precision = precision
        model = network.load(artifact).eval().requires_grad_(False)
        self._network = model.to_reduced_precision(_DTYPES[precision]).to("cuda").to(memory_format=torch.channels_last)
        side = artifact.manifest.preprocessing.crop
        self._shape = (self.max_batch, side, side, 3)
        self._thread_local = threading.local()
        self(np.zeros(self._shape, np.uint8))  # warm-up: cuDNN selects its kernels now, not during the first request

    def __call__(self, batch: Pixels) -> Outputs:
        chunks = [self._run_chunk(batch[start : start + self.max_batch]) for start in range(0, len(batch), self.max_batch)]
        return Outputs(*(np.concatenate(arrays) for arrays in zip(*chunks, strict=True)))

    def _run_chunk(self, batch: Pixels) -> tuple[np.ndarray, np.ndarray]:
        stream, buffer = self._stream_and_buffer()
        pinned = buffer[: len(batch)]
        pinned.numpy()[:] = batch
        with torch.inference_mode(), torch.cuda.stream(stream):
            logits, vectors = self._network(pinned.to("cuda", non_blocking=True))
            outputs = {LOGITS: logits.to("cpu", non_blocking=True), VECTORS: vectors.to("cpu", non_blocking=True)}
        stream.synchronize()
        return outputs[LOGITS].numpy(), outputs[VECTORS].numpy()

    def _stream_and_buffer(self) -> tuple[torch.cuda.Stream, Tensor]:
        """This thread's CUDA stream and pinned buffer."""
        if not hasattr(self._thread_local, "stream_and_buffer"):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._thread_local.stream_and_buffer = stream, torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)
        stream_and_buffer: tuple[torch.cuda.Stream, Tensor] = self._thread_local.stream_and_buffer
        return stream_and_buffer
