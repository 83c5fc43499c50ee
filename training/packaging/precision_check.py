"""How faithful a network stays to itself where it computes in fewer bits: measured before a package promises anything."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Fidelity, Precision
from graft.service.imaging.preprocess import decode
from graft.service.inference import devices, loader
from graft.service.inference.engine import LOGITS, Pixels
from graft.service.inference.openvino import Graph
from graft.service.inference.postprocess import given, probabilities
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.evaluation.predictions import Answered
from graft.training.runtime.thread_map import each
from graft.training.strategies.trained_model import Trained, score

MOST = 500  # images: a few seconds, and one answer in 200 that changes is still all but certain to be met

Floats = NDArray[np.float32]
Said = list[Floats]  # logits (N, C): of validation, of test


def measure(graph: Path, int8: Path | None, trained: Trained, dataset: Dataset, splits: Splits) -> dict[Precision, Fidelity]:
    """What becomes of the answers in every precision that this machine's CPU computes in by itself.

    Args:
        graph: the network, f32.
        int8: the same with weights and activations of 8 bits; None if there is none.
        trained: with what the network says of these splits in f32.
        splits: validation tells how far answers move, test how many are right; at most 500 images of each.
    """
    files: dict[Precision, Path] = {name: graph for name in loader.native("cpu") if name not in ("f32", "int8")}
    if int8:
        files["int8"] = int8
    if (len(trained.validation.logits), len(trained.test.logits)) != (len(splits.validation), len(splits.test)):
        raise ValueError("The answers that come with the network are to other images.")
    seen, tested = _chosen(splits.validation), _chosen(splits.test)
    exact, truth = [trained.validation.logits[seen], trained.test.logits[tested]], dataset.targets(splits.test)[tested]
    samples = [*(splits.validation[row] for row in seen), *(splits.test[row] for row in tested)]
    pixels = list(each(lambda one: decode(dataset.read(one), trained.preprocessing).pixels, samples, devices.cores()))
    said: dict[Precision, Said] = {"f32": exact}
    said |= {name: np.split(_logits(file, name, pixels), [len(seen)]) for name, file in files.items()}
    return {name: _fidelity(found, exact, trained, truth) for name, found in said.items()}


def _chosen(samples: Sequence[Sample]) -> list[int]:
    """Which of them are asked about: the same ones each time."""
    return sorted(range(len(samples)), key=lambda row: samples[row].digest)[:MOST]


def _logits(path: Path, precision: Precision, pixels: Sequence[Pixels]) -> Floats:
    """Of every image, float32 (N, C)."""
    network = Graph(path, wanted=(LOGITS,), precision=precision)
    rows: Iterator[Floats] = each(lambda one: network(one[None])[LOGITS], pixels, network.lanes)
    return np.concatenate(list(rows))


def _fidelity(found: Said, exact: Said, trained: Trained, truth: Targets) -> Fidelity:
    (seen, tested), before = found, exact[0]
    return Fidelity(
        moved=moved(seen, before, trained.temperature, several=truth.ndim == 2),
        changed=int((_answers(seen, trained, truth) != _answers(before, trained, truth)).any(axis=1).sum()),
        score=score(Answered(tested, tested, truth), trained.temperature, trained.calibration),
    )


def moved(logits: Floats, before: Floats, temperature: float, several: bool) -> float:
    """How far the probability of an undecided image would move, by the worst that happened to the logits (N, C) of any.

    An image between two labels has the probability 1 / (1 + exp(-d)), where d is the difference of their scaled logits; its
    slope is 1/4 in the middle and nowhere more. So a few images tell it, even if the network happens to be sure of all.

    Args:
        several: whether an image may have several labels; then each logit stands for itself.
    """
    change = (logits - before).astype(np.float64) / temperature
    widest = np.abs(change) if several else change.max(axis=1) - change.min(axis=1)
    return min(1.0, float(widest.max()) / 4)


def _answers(logits: Floats, trained: Trained, truth: Targets) -> NDArray[np.generic]:
    """What each image is told to be, (N, 1), or (N, C) where it may be several things."""
    if truth.ndim == 1:
        best: NDArray[np.intp] = logits.argmax(axis=1)[:, None]
        return best
    chances = probabilities(logits, trained.temperature, multilabel=True)
    labels: NDArray[np.bool_] = given(chances, np.array(trained.calibration.thresholds, np.float64))
    return labels
