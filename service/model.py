"""A package brought to life: bytes to pixels to outputs to a ranked answer. The service, `graft predict` and `graft
evaluate` all hold one of these, so they cannot answer differently. No HTTP.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service import engine
from service.artifact import MANIFEST, Artifact, ArtifactError, read
from service.classifier import Ranked, probabilities, rank
from service.engine import Engine, Outputs
from service.preprocess import Decoded, ImageLimits, decode


@dataclass(frozen=True)
class Golden:
    """Questions with their answers, asked by training and again at every start.

    Attributes:
        encoded: the images as files.
        logits: float32 (N, C), what training's own network answered.
    """

    encoded: tuple[bytes, ...]
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes the .npz; plain arrays only, so that it can be read without pickle."""
        content = np.frombuffer(b"".join(self.encoded), np.uint8)
        ends = np.cumsum([len(encoded) for encoded in self.encoded])
        np.savez(path, content=content, ends=ends, logits=self.logits)

    @classmethod
    def load(cls, path: Path) -> "Golden":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            pieces = np.split(arrays["content"], arrays["ends"][:-1])
            return cls(tuple(piece.tobytes() for piece in pieces), arrays["logits"])


class Model:
    """A verified package and the engine that runs it."""

    def __init__(self, artifact: Artifact, running: Engine, limits: ImageLimits = ImageLimits()) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.engine = running
        self.limits = limits

    def decode(self, encoded: bytes) -> Decoded:
        """The pixels the network sees of one file. Raises ImageError."""
        return decode(encoded, self.manifest.preprocessing, self.limits)

    def answer(self, outputs: Outputs, top_k: int) -> tuple[Ranked, ...]:
        """The ranked answer to one image from its outputs, logits (1, C)."""
        return rank(probabilities(outputs.logits, self.manifest.temperature)[0], self.manifest.labels, top_k)

    def classify(self, encoded: bytes, top_k: int) -> tuple[Ranked, ...]:
        """The whole road for one file, in this thread. Raises ImageError."""
        return self.answer(self.engine(self.decode(encoded).pixels[None]), top_k)

    @cached_property
    def drift(self) -> float:
        """How far the golden answers move on this machine: the largest change of a probability, in [0, 1].

        Raises:
            ArtifactError: if they are answers of a network with another number of labels.
        """
        golden = Golden.load(self.artifact.golden)
        n_labels, n_logits = len(self.manifest.labels), golden.logits.shape[1]
        if n_labels != n_logits:
            manifest, path = self.artifact.path / MANIFEST, self.artifact.golden
            raise ArtifactError(f"{manifest} lists {n_labels} labels, but {path} has {n_logits} logits.")
        found = self.engine(np.stack([self.decode(encoded).pixels for encoded in golden.encoded])).logits
        temperature = self.manifest.temperature
        moved = probabilities(found, temperature) - probabilities(golden.logits, temperature)
        return float(np.abs(moved).max())


def load(path: Path, device: str = "auto", limits: ImageLimits = ImageLimits()) -> Model:
    """The model of a package directory, fit to answer: every byte verified, the golden answers reproduced.

    Raises:
        ArtifactError: if the package is damaged, or this machine's answers are not those that were evaluated.
    """
    artifact = read(path)
    model = Model(artifact, engine.load(artifact, device), limits)
    moved = model.drift
    if not moved <= model.manifest.tolerance:  # so that NaN is refused too
        raise ArtifactError(
            f"{artifact.golden}: this machine's answers differ by {moved:.2g} from those that were evaluated;"
            f" {model.manifest.tolerance:.2g} is allowed. Compare the versions in {path / MANIFEST} with those here."
        )
    return model
