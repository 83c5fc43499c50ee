"""Dataset -> Splits: what to learn from, what to choose by, what to report on. By content, never by name."""

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass

from training.dataset import Dataset, DatasetError, Sample

FEWEST = 2  # images of a label to learn from: cross-validation learns from one while it judges by the other


@dataclass(frozen=True)
class Splits:
    """Train to learn from, validation to choose by, test to report. No image, and no group, is in two of them."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def named(self) -> dict[str, tuple[Sample, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def split(dataset: Dataset, seed: int, share: float = 0.15) -> Splits:
    """Train, validation and test: stratified by label, 70/15/15 unless a test part was given.

    Args:
        seed: another seed, another cut.
        share: of all images for validation, and again for test.

    Raises:
        DatasetError: if a label has too few different images to be in every split.
    """
    given = tuple(sample for sample in dataset.samples if sample.part == "test")
    rest = [sample for sample in dataset.samples if sample.part != "test"]
    cuts = (share,) if given else (share, share)
    pieces: list[list[Sample]] = [[] for _ in range(len(cuts) + 1)]
    for label, name in enumerate(dataset.labels):
        own = [sample for sample in rest if sample.label == label]
        for piece, samples in zip(pieces, _cut(own, name, cuts, seed), strict=True):
            piece.extend(samples)
    test = given or tuple(_shuffled(pieces[2], seed))
    return Splits(tuple(_shuffled(pieces[0], seed)), tuple(_shuffled(pieces[1], seed)), test)


def _cut(samples: list[Sample], name: str, cuts: tuple[float, ...], seed: int) -> list[list[Sample]]:
    """One label's samples as [train, *cuts], whole groups each."""
    groups = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    if len(groups) < len(cuts) + FEWEST:
        raise DatasetError(f"The label {name!r} has {len(groups)} different images; at least {len(cuts) + FEWEST} are needed.")
    # By digest, not by name: the same images split the same way on every machine.
    order = sorted(groups, key=lambda group: hashlib.sha256(seed.to_bytes(4, "big") + group).digest())
    pieces, start = [], 0
    for share in cuts:
        size = max(1, round(share * len(order)))
        pieces.append([sample for group in order[start : start + size] for sample in groups[group]])
        start += size
    return [[sample for group in order[start:] for sample in groups[group]], *pieces]


def _shuffled(samples: list[Sample], seed: int) -> list[Sample]:
    ordered = sorted(samples, key=lambda sample: (sample.digest, sample.path))
    random.Random(seed).shuffle(ordered)
    return ordered
