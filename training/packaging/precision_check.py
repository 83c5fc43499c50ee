"""Compares a network's predictions in lower precision (bf16, f16, int8) with f32, before a package allows that precision."""

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

MOST = 500  # images per split: takes a few seconds, and detects a change of 1 prediction in 200 almost certainly

Floats = NDArray[np.float32]
Said = list[Floats]  # logits (N, C): of validation, of test


def measure(graph: Path, int8: Path | None, trained: Trained, dataset: Dataset, splits: Splits) -> dict[Precision, Fidelity]:
    """Measures the fidelity of every precision that this machine's CPU supports natively.

    Args:
        graph: the f32 network.
        int8: the quantized network; None if there is none.
        trained: contains the f32 predictions of these splits.
        splits: validation images measure the shift from f32, test images the accuracy; at most 500 of each.

    Raises:
        ValueError: if the predictions do not belong to these splits.
    """
    files: dict[Precision, Path] = {name: graph for name in loader.native("cpu") if name not in ("f32", "int8")}
    if int8:
        files["int8"] = int8
    if (len(trained.validation.logits), len(trained.test.logits)) != (len(splits.validation), len(splits.test)):
        raise ValueError("The predictions of the trained model are not for these validation and test images.")
    validation_rows, test_rows = _chosen(splits.validation), _chosen(splits.test)
    reference = [trained.validation.logits[validation_rows], trained.test.logits[test_rows]]
    targets = dataset.targets(splits.test)[test_rows]
    samples = [*(splits.validation[row] for row in validation_rows), *(splits.test[row] for row in test_rows)]
    pixels = list(each(lambda sample: decode(dataset.read(sample), trained.preprocessing).pixels, samples, devices.cores()))
    by_precision: dict[Precision, Said] = {"f32": reference}
    by_precision |= {name: np.split(_logits(file, name, pixels), [len(validation_rows)]) for name, file in files.items()}
    return {name: _fidelity(logits, reference, trained, targets) for name, logits in by_precision.items()}


def _chosen(samples: Sequence[Sample]) -> list[int]:
    """The rows of a reproducible subset: the samples with the smallest digests."""
    return sorted(range(len(samples)), key=lambda row: samples[row].digest)[:MOST]


def _logits(path: Path, precision: Precision, pixels: Sequence[Pixels]) -> Floats:
    """The logits of every image, float32 (N, C)."""
    network = Graph(path, wanted=(LOGITS,), precision=precision)
    rows: Iterator[Floats] = each(lambda image: network(image[None])[LOGITS], pixels, network.lanes)
    return np.concatenate(list(rows))


def _fidelity(found: Said, exact: Said, trained: Trained, truth: Targets) -> Fidelity:
    validation, test = found
    reference_validation = exact[0]
    changed = _answers(validation, trained, truth) != _answers(reference_validation, trained, truth)
    return Fidelity(
        moved=moved(validation, reference_validation, trained.temperature, several=truth.ndim == 2),
        changed=int(changed.any(axis=1).sum()),
        score=score(Answered(test, test, truth), trained.temperature, trained.calibration),
    )


def moved(logits: Floats, before: Floats, temperature: float, several: bool) -> float:
    """An upper bound of the probability shift: what the largest change of logits (N, C) would do to an undecided image.

    For an image between two labels the probability is 1 / (1 + exp(-d)), where d is the difference of their scaled logits. Its
    slope is at most 1/4, at d = 0. So a few images suffice, even if the network is confident on all of them.

    Args:
        reference: the f32 logits, (N, C).
        multilabel: whether an image may have several labels; then each logit counts separately.
    """
    change = (logits - before).astype(np.float64) / temperature
    spread = np.abs(change) if several else change.max(axis=1) - change.min(axis=1)
    return min(1.0, float(spread.max()) / 4)


def _answers(logits: Floats, trained: Trained, truth: Targets) -> NDArray[np.generic]:
    """The predicted label, (N, 1); for several labels per image, which are predicted, (N, C)."""
    if truth.ndim == 1:
        top: NDArray[np.intp] = logits.argmax(axis=1)[:, None]
        return top
    label_probabilities = probabilities(logits, trained.temperature, multilabel=True)
    labels: NDArray[np.bool_] = given(label_probabilities, np.array(trained.calibration.thresholds, np.float64))
    return labels
