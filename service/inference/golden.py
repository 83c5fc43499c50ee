"""Golden samples: a package's own test images with the logits that the network must give in each precision."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fidelity import Precision
from ..package_arrays import ArraySpec, read_arrays, split_content
from ..package_contents import check_golden


@dataclass(frozen=True)
class GoldenSamples:
    """Test images with their expected logits, checked at every start.

    Attributes:
        encoded: the image files.
        logits: float32 (N, C) by precision; f32: from the network in training.
    """

    encoded: tuple[bytes, ...]
    logits: Mapping[Precision, NDArray[np.float32]]

    def save(self, path: Path) -> None:
        """Writes an .npz file. It contains only plain arrays, so that it can be read without pickle."""
        content = np.frombuffer(b"".join(self.encoded), np.uint8)
        ends = np.cumsum([len(encoded) for encoded in self.encoded])
        logits: dict[str, Any] = {_array_name(name): rows for name, rows in self.logits.items()}
        np.savez(path, content=content, ends=ends, **logits)

    @classmethod
    def load(cls, path: Path, precisions: Iterable[Precision]) -> "GoldenSamples":
        """Reads what `save` wrote, for exactly these precisions. Raises ContentError if it is anything else."""
        names = {name: _array_name(name) for name in precisions}
        specs = {"content": ArraySpec("|u1", 1), "ends": ArraySpec("<i8", 1)}
        arrays = read_arrays(path, specs | dict.fromkeys(names.values(), ArraySpec("<f4", 2)))
        encoded, logits = split_content(arrays["content"], arrays["ends"]), {name: arrays[key] for name, key in names.items()}
        for rows in logits.values():
            check_golden(len(encoded), rows)
        return cls(tuple(encoded), logits)


def _array_name(precision: Precision) -> str:
    return f"logits_{precision}"
