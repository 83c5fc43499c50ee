"""Compares a network's predictions in lower precision (bf16, f16, int8) with f32, before a package allows that precision."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.imaging.preprocess import decode
from graft.service.inference import devices, loader
from graft.service.inference.engine import LOGITS, Pixels
from graft.service.inference.openvino import OpenVinoModel
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import INT8_WEIGHTS, Fidelity, Precision
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.evaluation.metrics import predicted_labels
from graft.training.evaluation.predictions import Predictions
from graft.training.runtime.progress import step
from graft.training.strategies.trained_model import TrainedModel, score

MAX_IMAGES = 500  # images per split: takes a few seconds, and detects a change of 1 prediction in 200 almost certainly

Floats = NDArray[np.float32]
SplitLogits = list[Floats]  # logits (N, C): of validation, of test


@step("comparing precisions")
def check_precisions(
    graph: Path, int8: Path | None, trained: TrainedModel, dataset: Dataset, splits: Splits
) -> dict[Precision, Fidelity]:
    """Measures the fidelity of every precision that this machine's CPU supports natively.

    Args:
        graph: the f32 network.
        int8: the quantized network; None if there is none.
        trained: contains the f32 predictions of these splits.
        splits: validation images measure the shift from f32, test images the accuracy; at most 500 of each.

    Raises:
        ValueError: if the predictions do not belong to these splits.
    """
    files: dict[Precision, Path] = {name: graph for name in loader.supported_precisions("cpu") if name not in ("f32", "int8")}
    if int8:
        files["int8"] = int8
    if (len(trained.validation.logits), len(trained.test.logits)) != (len(splits.validation), len(splits.test)):
        raise ValueError("The predictions of the trained model are not for these validation and test images.")
    validation_rows, test_rows = _select_rows(splits.validation), _select_rows(splits.test)
    reference = [trained.validation.logits[validation_rows], trained.test.logits[test_rows]]
    test_samples = [splits.test[row] for row in test_rows]
    samples = [*(splits.validation[row] for row in validation_rows), *test_samples]
    pixels = list(
        ordered_map(
            lambda sample: decode(dataset.read(sample), trained.preprocessing).pixels, samples, devices.available_cpus()
        )
    )
    by_precision: dict[Precision, SplitLogits] = {"f32": reference}
    by_precision |= {name: np.split(_logits(file, name, pixels), [len(validation_rows)]) for name, file in files.items()}
    return {name: _fidelity(logits, reference, trained, dataset, test_samples) for name, logits in by_precision.items()}


def _select_rows(samples: Sequence[Sample]) -> list[int]:
    """The rows of a reproducible subset: the samples with the smallest digests."""
    return sorted(range(len(samples)), key=lambda row: samples[row].digest)[:MAX_IMAGES]


def _logits(path: Path, precision: Precision, pixels: Sequence[Pixels]) -> Floats:
    """The logits of every image, float32 (N, C)."""
    weights = path.with_name(INT8_WEIGHTS) if precision == "int8" else None
    network = OpenVinoModel(path, output_names=(LOGITS,), precision=precision, weights=weights)
    rows: Iterator[Floats] = ordered_map(lambda image: network(image[None])[LOGITS], pixels, network.streams)
    return np.concatenate(list(rows))


def _fidelity(
    logits: SplitLogits, reference: SplitLogits, trained: TrainedModel, dataset: Dataset, test_samples: Sequence[Sample]
) -> Fidelity:
    validation, test = logits
    reference_validation = reference[0]
    multilabel = dataset.multilabel
    labels, reference_labels = (
        predicted_labels(rows, trained.temperature, trained.calibration, multilabel)
        for rows in (validation, reference_validation)
    )
    return Fidelity(
        max_probability_shift=max_probability_shift(validation, reference_validation, trained.temperature, multilabel),
        n_changed=int((labels != reference_labels).any(axis=1).sum()),
        score=score(Predictions.of(test, test, dataset, test_samples), trained.temperature, trained.calibration),
    )


def max_probability_shift(logits: Floats, reference: Floats, temperature: float, multilabel: bool) -> float:
    """An upper bound of the probability shift: what the largest change of logits (N, C) would do to an undecided image.

    For an image between two labels the probability is 1 / (1 + exp(-d)), where d is the difference of their scaled logits. Its
    slope is at most 1/4, at d = 0. So a few images suffice, even if the network is confident on all of them.

    Args:
        reference: the f32 logits, (N, C).
        multilabel: whether an image may have several labels; then each logit counts separately.
    """
    change = (logits - reference).astype(np.float64) / temperature
    spread = np.abs(change) if multilabel else change.max(axis=1) - change.min(axis=1)
    return min(1.0, float(spread.max()) / 4)
