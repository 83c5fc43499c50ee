"""Golden samples: a package's own test images with the logits that the network must give."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..package_arrays import ArraySpec, read_arrays, split_content
from ..package_contents import check_golden


@dataclass(frozen=True)
class GoldenSamples:
    """Test images with their expected logits, checked at every start.

    Attributes:
        encoded: the image files.
        logits: float32 (N, C), from the network in training.
    """

    encoded: tuple[bytes, ...]
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes an .npz file. It contains only plain arrays, so that it can be read without pickle."""
        content = np.frombuffer(b"".join(self.encoded), np.uint8)
        ends = np.cumsum([len(encoded) for encoded in self.encoded])
        np.savez(path, content=content, ends=ends, logits=self.logits)

    @classmethod
    def load(cls, path: Path) -> "GoldenSamples":
        """Reads what `save` wrote. Raises ContentError if it is anything else."""
        specs = {"content": ArraySpec("|u1", 1), "ends": ArraySpec("<i8", 1), "logits": ArraySpec("<f4", 2)}
        arrays = read_arrays(path, specs)
        encoded, logits = split_content(arrays["content"], arrays["ends"]), arrays["logits"]
        check_golden(len(encoded), logits)
        return cls(tuple(encoded), logits)
