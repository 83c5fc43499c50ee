"""The network on a GPU: torch, in the precision that was chosen. Only where a GPU answers is this imported."""

import threading

import numpy as np
import torch
from torch import Tensor

from ..artifact import Artifact, ArtifactError, Precision
from ..networks import network
from .engine import LOGITS, VECTORS, Outputs, Pixels

_TYPES: dict[Precision, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def native() -> tuple[Precision, ...]:
    """What this GPU computes in by itself."""
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("f32", "f16", "bf16") if able else ("f32", "f16")


class CudaEngine:
    """A package's weights on a GPU, in the same torch network that training used.

    Two lanes: while the GPU computes one batch, the next one is stacked and copied. Each calling thread has a stream and
    pinned memory of its own, so that copying waits for nobody.
    """

    device = "cuda"
    lanes = 2
    max_batch = 64

    def __init__(self, artifact: Artifact, precision: Precision = "f32") -> None:
        if precision not in _TYPES:
            raise ArtifactError(f"{artifact.path}: {precision} is not computed on a GPU; {', '.join(_TYPES)} are.")
        self.precision = precision
        loaded = network.load(artifact).eval().requires_grad_(False)
        self._network = loaded.lower(_TYPES[precision]).to("cuda").to(memory_format=torch.channels_last)
        side = artifact.manifest.preprocessing.crop
        self._shape = (self.max_batch, side, side, 3)
        self._mine = threading.local()
        self(np.zeros(self._shape, np.uint8))  # cuDNN looks for its kernels now, and not while somebody waits

    def __call__(self, batch: Pixels) -> Outputs:
        parts = [self._part(batch[start : start + self.max_batch]) for start in range(0, len(batch), self.max_batch)]
        return Outputs(*(np.concatenate(found) for found in zip(*parts, strict=True)))

    def _part(self, batch: Pixels) -> tuple[np.ndarray, np.ndarray]:
        stream, pinned = self._lane()
        waiting = pinned[: len(batch)]
        waiting.numpy()[:] = batch
        with torch.inference_mode(), torch.cuda.stream(stream):
            logits, vectors = self._network(waiting.to("cuda", non_blocking=True))
            said = {LOGITS: logits.to("cpu", non_blocking=True), VECTORS: vectors.to("cpu", non_blocking=True)}
        stream.synchronize()
        return said[LOGITS].numpy(), said[VECTORS].numpy()

    def _lane(self) -> tuple[torch.cuda.Stream, Tensor]:
        """This thread's stream, and memory that the GPU reads without the processor's help."""
        if not hasattr(self._mine, "lane"):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._mine.lane = stream, torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)
        lane: tuple[torch.cuda.Stream, Tensor] = self._mine.lane
        return lane
