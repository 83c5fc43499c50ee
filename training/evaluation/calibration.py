"""What validation teaches about trusting an answer: temperature, thresholds, prediction sets, outliers. Numpy only.

Validation also chose among networks, so what is promised here is a little rosy; `graft.training.evaluation.metrics` measures on test what
came of each promise. Test images never enter this room.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Calibration
from graft.service.inference.devices import cores
from graft.service.inference.neighbours import Neighbours, unit
from graft.service.inference.postprocess import probabilities
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Sample
from graft.training.evaluation.predictions import Answered
from graft.training.features.feature_arrays import Vectors
from graft.training.runtime.thread_map import each

PRECISION = 0.95  # wanted, unless told otherwise
COVERAGE = 0.9  # promised for prediction sets, unless told otherwise
ORDINARY = 0.95  # of images like validation's that must not count as outliers
FEWEST_SURE = 5  # cases that a precision must be seen on; one right answer is a precision of 100 %
FARTHEST = 2.0  # the largest cosine distance there is
BLOCK = 512  # images that are compared with all neighbours at once
MOST_NEIGHBOURS = 5_000
MOST_NUMBERS = 4_000_000  # in all neighbours' vectors: 8 MB of a package, half a millisecond of every answer

Floats = NDArray[np.float64]


def calibrate(
    validation: Answered,
    temperature: float,
    neighbours: Neighbours,
    wanted_precision: float = PRECISION,
    coverage: float = COVERAGE,
) -> Calibration:
    """Everything that validation teaches but the temperature, which it must have taught before."""
    chances = probabilities(validation.logits, temperature, validation.multilabel)
    k = outlier_k(len(neighbours.paths))
    distances = outlier_scores(neighbours, validation.vectors, k)
    farthest = exceeded_rarely(distances, ORDINARY)
    several = validation.multilabel
    return Calibration(
        wanted_precision=wanted_precision,
        thresholds=best_f1(chances, validation.targets) if several else sure(chances, validation.targets, wanted_precision),
        coverage=None if several else coverage,
        set_threshold=None if several else set_threshold(chances, validation.targets, coverage),
        outlier_k=k,
        outlier_threshold=FARTHEST if farthest is None else farthest,
    )


def temperature(logits: NDArray[np.float32], targets: Targets) -> float:
    """What to divide the logits by so that probabilities mean what they say, in [1/4, 4].

    Minimises the log-loss on held-out images (Guo et al. 2017) under a weak belief that 1 is about right, worth five
    images: a small validation set that happens to be all right would otherwise ask for certainty.
    """

    def cost(log_temperature: float) -> float:
        return float(losses(logits, targets, math.exp(log_temperature)).sum()) + 2.5 * log_temperature**2

    return math.exp(_lowest(cost, math.log(0.25), math.log(4)))


def _lowest(cost: Callable[[float], float], low: float, high: float, steps: int = 18) -> float:
    """Where a function with one valley is lowest, by golden sections; each of the steps asks it once."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = cost(right)
    return (low + high) / 2


def losses(logits: NDArray[np.floating], targets: Targets, temperature: float = 1.0) -> Floats:
    """The negative log-probability of the truth about each image, (N,), in nats; for several labels the mean over them."""
    scaled = logits.astype(np.float64) / temperature
    if targets.ndim == 2:
        each: Floats = (np.logaddexp(0, scaled) - scaled * targets).mean(axis=1)
        return each
    scaled -= scaled.max(axis=1, keepdims=True)
    right: Floats = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(targets)), targets]
    return right


def exceeded_rarely(scores: Floats, share: float) -> float | None:
    """What the score of one more image stays at or below with probability `share`, if it is drawn like the others.

    The ceil((n + 1) share)-th smallest of n (Vovk et al. 2005; Papadopoulos et al. 2002). None where n is too small for
    any of them to be high enough.
    """
    position = math.ceil((len(scores) + 1) * share - 1e-9)
    return float(np.sort(scores)[position - 1]) if position <= len(scores) else None


def set_threshold(chances: Floats, labels: NDArray[np.int64], coverage: float) -> float:
    """How probable a label must be to be in the prediction set, so that the right one is with probability `coverage`.

    Split conformal prediction with the right label's improbability as the score (Sadinle, Lei & Wasserman 2019). Returns
    0, so that every label is in the set, where there are too few images for the promise.
    """
    improbable = exceeded_rarely(1 - chances[np.arange(len(labels)), labels], coverage)
    return 0.0 if improbable is None else max(0.0, 1 - improbable)


def sure(chances: Floats, labels: NDArray[np.int64], precision: float) -> tuple[float | None, ...]:
    """For each label the lowest probability at which those given it were right with the wanted precision; None if never."""
    said, n_labels = chances.argmax(axis=1), chances.shape[1]
    top = chances.max(axis=1)
    groups = ((top[said == label], labels[said == label] == label) for label in range(n_labels))
    return tuple(_lowest_sure(claims, right, precision) for claims, right in groups)


def _lowest_sure(claims: Floats, right: NDArray[np.bool_], precision: float) -> float | None:
    order = np.argsort(-claims, kind="stable")
    ranked = claims[order]
    n_above = np.arange(1, len(ranked) + 1)
    reached = right[order].cumsum() >= precision * n_above - 1e-9
    # Equal probabilities are above a threshold together or not at all.
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    enough = np.flatnonzero(reached & last & (n_above >= FEWEST_SURE))
    return float(ranked[enough[-1]]) if len(enough) else None


def best_f1(chances: Floats, targets: NDArray[np.bool_]) -> tuple[float, ...]:
    """For each label the probability from which on giving it makes its F1 the highest; 1/2 if no image has it."""
    return tuple(_best_f1(chances[:, label], targets[:, label]) for label in range(targets.shape[1]))


def _best_f1(claims: Floats, has: NDArray[np.bool_]) -> float:
    if not has.any():
        return 0.5
    order = np.argsort(-claims, kind="stable")
    ranked, found = claims[order], has[order].cumsum()
    score = 2 * found / (np.arange(1, len(ranked) + 1) + has.sum())
    score[:-1][ranked[1:] == ranked[:-1]] = -1  # equal probabilities are above a threshold together or not at all
    best = int(score.argmax())
    # Half-way down to the next image: the very probability of one validation image means nothing.
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def outlier_scores(neighbours: Neighbours, vectors: Vectors, k: int) -> Floats:
    """The cosine distance of each of many vectors (N, D) to its k-th nearest neighbour, float64 (N,), in [0, 2].

    What `Neighbours.outlier_score` says of each, but for the rounding of float32; many at once are a matrix product,
    thirty times as fast.
    """
    from threadpoolctl import threadpool_limits

    def one(start: int) -> NDArray[np.float32]:
        likeness = unit(vectors[start : start + BLOCK]) @ neighbours.vectors.T
        likeness.partition(likeness.shape[1] - k, axis=1)
        return 1 - likeness[:, -k]

    with threadpool_limits(1):  # out here, because the limit is the whole process's
        blocks = list(each(one, range(0, len(vectors), BLOCK), cores()))
    distances: Floats = np.concatenate([np.zeros(0), *blocks])
    return distances.clip(0, 2)


def outlier_k(n_neighbours: int) -> int:
    """Which nearest neighbour counts: the 10th, so that one odd training image excuses nothing; sooner among few."""
    return max(1, min(10, n_neighbours // 20))


def chosen_neighbours(samples: Sequence[Sample], width: int) -> list[Sample]:
    """The training images that new ones are compared with, at most 5,000 and as many as vectors of a width allow.

    Every label in turn, so that small ones are all there; within a label by digest, so that the choice does not depend on
    names or order.
    """
    turn: dict[tuple[int, ...], int] = {}
    queued = []
    for sample in sorted(samples, key=lambda sample: (sample.digest, sample.path)):
        turn[sample.labels] = turn.get(sample.labels, 0) + 1
        queued.append((turn[sample.labels], sample.digest, sample.path, sample))
    most = max(1, min(MOST_NEIGHBOURS, MOST_NUMBERS // width))
    return [sample for *_, sample in sorted(queued, key=lambda entry: entry[:3])[:most]]


def neighbours_of(samples: Sequence[Sample], vectors: Vectors) -> Neighbours:
    """Chosen samples with their vectors (M, D), as the package keeps them."""
    # Rounded as they are stored, so that the threshold is chosen by the very numbers that it will be compared with.
    stored = unit(vectors[:]).astype(np.float16).astype(np.float32)
    return Neighbours(stored, tuple(sample.labels for sample in samples), tuple(sample.path for sample in samples))
