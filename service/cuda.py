"""The network on a GPU: torch, in the precision that was chosen. Only where a GPU answers is this imported."""

import numpy as np
import torch

from service import network
from service.artifact import Artifact, ArtifactError, Precision
from service.engine import Outputs, Pixels

_TYPES: dict[Precision, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def native() -> tuple[Precision, ...]:
    """What this GPU computes in by itself."""
    return ("f32", "f16", "bf16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("f32", "f16")


class CudaEngine:
    """A package's weights on a GPU, in the same torch network that training used."""

    device = "cuda"
    lanes = 1
    max_batch = 64

    def __init__(self, artifact: Artifact, precision: Precision = "f32") -> None:
        if precision not in _TYPES:
            raise ArtifactError(f"{artifact.path}: {precision} is not computed on a GPU; f32, f16 and bf16 are.")
        self.precision = precision
        self._type = _TYPES[precision]
        self._network = network.load(artifact).to("cuda").to(memory_format=torch.channels_last).eval()

    def __call__(self, batch: Pixels) -> Outputs:
        with torch.inference_mode(), torch.autocast("cuda", self._type, enabled=self.precision != "f32"):
            images = torch.from_numpy(np.ascontiguousarray(batch)).to("cuda", non_blocking=True)
            logits, vectors = self._network(images)
            return Outputs(logits.float().cpu().numpy(), vectors.float().cpu().numpy())
