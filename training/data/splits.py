"""Dataset -> Splits: what to learn from, what to choose by, what to report on. By content, never by name."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.data.near_duplicates import clusters

FEWEST = 2  # images of a label to learn from: cross-validation learns from one while it judges by the other


@dataclass(frozen=True)
class Splits:
    """Train to learn from, validation to choose by, test to report. No image, and no group, is in two of them."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def named(self) -> dict[str, tuple[Sample, ...]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


def grouped(dataset: Dataset, pairs: Iterable[tuple[bytes, bytes]]) -> Dataset:
    """The same samples, where all that must stay together has one group: equal bytes, pairs, and the groups given.

    Args:
        pairs: digests of images that show the same, as in `Looks.alike`.

    A group is named by its smallest digest, so the same images split the same way whatever the groups were called.
    """
    links = {(b"d" + sample.digest, b"g" + sample.group) for sample in dataset.samples if sample.group != sample.digest}
    links |= {(b"d" + one, b"d" + other) for one, other in pairs}
    name: dict[bytes, bytes] = {}
    for cluster in clusters(sorted(links)):
        digests = [item[1:] for item in cluster if item[:1] == b"d"]
        name |= dict.fromkeys(digests, min(digests))
    return replace(dataset, samples=tuple(_named(sample, name.get(sample.digest, sample.digest)) for sample in dataset.samples))


def _named(sample: Sample, group: bytes) -> Sample:
    return sample if sample.group == group else replace(sample, group=group)


def split(dataset: Dataset, seed: int, share: float = 0.15) -> Splits:
    """Train, validation and test: stratified by label, 70/15/15; a part that was given stays as it is.

    Args:
        seed: another seed, another cut.
        share: of all images for validation, and again for test, where those are cut.

    Raises:
        DatasetError: if labels have too few different images to be in every split; the text has the numbers.
    """
    if short := shortages(dataset):
        raise DatasetError("\n".join(short))
    given: dict[str, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        given[sample.part or "train"].append(sample)
    cuts = _cuts(dataset)
    pieces = _cut(given["train"], len(dataset.labels), len(cuts), share, seed)
    parts = {name: tuple(_shuffled(piece, seed)) for name, piece in zip(("train", *cuts), pieces, strict=True)}
    _check_covered(dataset, parts)
    return Splits(**{name: parts.get(name) or tuple(given[name]) for name in ("train", "validation", "test")})


def shortages(dataset: Dataset) -> list[str]:
    """A line for each label that has too few different images to be in every split that is cut; none if all is well."""
    fewest = FEWEST + len(_cuts(dataset))
    groups: list[set[bytes]] = [set() for _ in dataset.labels]
    for sample in dataset.samples:
        if sample.part in ("", "train"):
            for label in sample.labels:
                if len(groups[label]) < fewest:
                    groups[label].add(sample.group)
    n_images = Counter(label for sample in dataset.samples for label in sample.labels if sample.part in ("", "train"))
    return [
        f"The label {name!r} has {_counted(len(groups[label]), n_images[label])}; at least {fewest} are needed."
        for label, name in enumerate(dataset.labels)
        if len(groups[label]) < fewest
    ]


def _counted(n_groups: int, n_images: int) -> str:
    among = f" among {n_images:,} (what is copied or grouped counts once)" if n_images > n_groups else ""
    return f"{n_groups} different image{'' if n_groups == 1 else 's'}{among}"


def _cuts(dataset: Dataset) -> tuple[str, ...]:
    """The parts that did not come with the data, and are cut from what is to be learned from."""
    parts = {sample.part for sample in dataset.samples}
    return tuple(name for name in ("validation", "test") if name not in parts)


def _cut(samples: Sequence[Sample], n_labels: int, n_cuts: int, share: float, seed: int) -> list[list[Sample]]:
    """The samples as [train, *cuts], whole groups each: label by label, the rarest first.

    A group that has several labels goes where its rarest is needed, and counts there for the others too.
    """
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    # By digest, not by name: the same images split the same way on every machine.
    order = sorted(groups, key=lambda group: hashlib.sha256(seed.to_bytes(4, "big") + group).digest())
    counts = {group: Counter(label for sample in groups[group] for label in sample.labels or (n_labels,)) for group in order}
    holders: dict[int, list[bytes]] = defaultdict(list)
    for group in order:
        for label in counts[group]:
            holders[label].append(group)
    piece_of: dict[bytes, int] = {}
    for label in sorted(holders, key=lambda label: (len(holders[label]), label)):
        _deal({group: counts[group][label] for group in holders[label]}, piece_of, n_cuts, share)
    return [[sample for group in order if piece_of[group] == piece for sample in groups[group]] for piece in range(n_cuts + 1)]


def _check_covered(dataset: Dataset, parts: dict[str, tuple[Sample, ...]]) -> None:
    """Raises DatasetError if a label is missing from a part, which only groups with several labels can bring about."""
    for part, samples in parts.items():
        present = {label for sample in samples for label in sample.labels}
        if missing := [name for label, name in enumerate(dataset.labels) if label not in present]:
            raise DatasetError(
                f"No cut was found that keeps groups whole and leaves images of {', '.join(missing[:10])} for {part}:"
                " try another --seed, smaller groups, or give the parts yourself."
            )


def _deal(sizes: dict[bytes, int], piece_of: dict[bytes, int], n_cuts: int, share: float) -> None:
    """Puts one label's groups that have no piece yet into pieces: 1 to `n_cuts` as far as they need them, the rest in 0.

    Args:
        sizes: the images with this label in each of its groups, in the order in which they are dealt.
        piece_of: of every group dealt so far; the new ones are added.
    """
    target = max(1, round(share * sum(sizes.values())))
    free = [group for group in sizes if group not in piece_of]
    for piece in range(1, n_cuts + 1):
        have = sum(size for group, size in sizes.items() if piece_of.get(group) == piece)
        others = {other: 1 if other else FEWEST for other in range(n_cuts + 1) if other != piece}
        for group in sizes:
            if (other := piece_of.get(group)) in others:
                others[other] -= 1
        spare = len(free) - sum(max(0, needed) for needed in others.values())
        chosen = _filling([(group, sizes[group]) for group in free], target - have, spare, at_least=have == 0)
        piece_of |= dict.fromkeys(chosen, piece)
        free = [group for group in free if group not in piece_of]
    piece_of |= dict.fromkeys(free, 0)


def _filling(groups: list[tuple[bytes, int]], room: int, most: int, at_least: bool) -> list[bytes]:
    """The first groups, `most` of them, that fit into `room` images; the smallest if none fits and one must be there."""
    chosen: list[bytes] = []
    for group, size in groups:
        if size <= room and len(chosen) < most:
            chosen.append(group)
            room -= size
    if not chosen and at_least and most > 0:
        return [min(groups, key=lambda group: group[1])[0]]
    return chosen


def _shuffled(samples: list[Sample], seed: int) -> list[Sample]:
    ordered = sorted(samples, key=lambda sample: (sample.digest, sample.path))
    random.Random(seed).shuffle(ordered)
    return ordered
