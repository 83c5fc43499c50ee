"""Compares a network's predictions in other precisions with f32, and decides for the package which are equivalent.

Every machine measures the same precisions: those of GPUs are emulated. So it does not matter where a model was trained.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.fidelity import Fidelity, Precision
from graft.service.imaging.preprocess import decode
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import Pixels
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import Preprocessing
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.evaluation import metrics
from graft.training.evaluation.metrics import predicted_labels
from graft.training.packaging.emulation import EMULATED, EmulatedNetwork
from graft.training.runtime.progress import step
from graft.training.strategies.trained_model import TrainedModel

N_MEASURED = 32  # images on which the changes of the logits are measured
MAX_IMAGES = 2_000  # validation images to whose logits these changes are added

Floats = NDArray[np.float32]
Logits = Callable[[Pixels], Floats]  # uint8 (N, S, S, 3) -> float32 (N, C)


@step("loading other precisions")
def load_precisions(trained: TrainedModel, graph: Path) -> dict[Precision, Logits]:
    """The network in every precision that has the same weights: as trained (f32), and emulated (tf32, bf16, f16).

    Args:
        graph: the network, an ONNX file.
    """
    found: dict[Precision, Logits] = {"f32": lambda pixels: trained.network(pixels).logits}
    for name in EMULATED:
        emulated = EmulatedNetwork(graph, name)
        found[name] = in_threads(emulated, emulated.streams)
    return found


def in_threads(compute: Logits, n_threads: int) -> Logits:
    """Computes the images of a batch in parallel."""
    return lambda pixels: np.concatenate(list(ordered_map(lambda image: compute(image[None]), pixels, n_threads)))


@step("comparing precisions")
def check_precisions(
    precisions: Mapping[Precision, Logits], trained: TrainedModel, dataset: Dataset, splits: Splits
) -> dict[Precision, Fidelity]:
    """Measures how much each precision changes the predictions on the validation images.

    A precision whose range the network exceeds, so that its outputs are not finite, is left out: a package cannot use it.

    Args:
        precisions: from `load_precisions`.
        trained: contains the predictions of these splits.

    Raises:
        ValueError: if the predictions do not belong to these splits.
    """
    if len(trained.validation.logits) != len(splits.validation):
        raise ValueError("The predictions of the trained model are not for these validation images.")
    # A subset that is the same in every run: the samples with the smallest digests.
    rows = sorted(range(len(splits.validation)), key=lambda row: splits.validation[row].digest)[:MAX_IMAGES]
    pixels = read_pixels([splits.validation[row] for row in rows[:N_MEASURED]], dataset, trained.preprocessing)
    # Not the validation logits: those of a probe are by a head that has not learned from these images.
    exact = precisions["f32"](pixels)
    found: dict[Precision, Fidelity] = {}
    for name, compute in precisions.items():
        logits = exact if name == "f32" else compute(pixels)
        changes = logits - exact
        if np.isfinite(changes).all():
            found[name] = fidelity(changes, trained, rows)
    return found


def read_pixels(samples: Sequence[Sample], dataset: Dataset, preprocessing: Preprocessing) -> Pixels:
    """The pixels of images, uint8 (N, S, S, 3)."""
    pixels = ordered_map(lambda sample: decode(dataset.read(sample), preprocessing).pixels, samples, available_cpus())
    return np.stack(list(pixels))


def fidelity(changes: Floats, trained: TrainedModel, rows: list[int]) -> Fidelity:
    """What changes of the logits, measured on some images, do to the predictions on validation.

    A few images show how much rounding changes logits, and not how often that changes a label. So each change is added to the
    logits of every validation image, and the results are averaged.

    Args:
        changes: float32 (n, C), logits in another precision less those in f32.
        rows: of the validation images.
    """
    temperature, calibration, multilabel = trained.temperature, trained.calibration, trained.validation.multilabel
    reference, targets = trained.validation.logits[rows], trained.validation.targets[rows]
    expected = targets if multilabel else targets[:, None]
    before = predicted_labels(reference, temperature, calibration, multilabel)
    was_correct, loss_before = (before == expected).all(axis=1), metrics.log_loss(reference, targets, temperature)
    results = []
    for change in changes:
        logits = reference + change
        labels = predicted_labels(logits, temperature, calibration, multilabel)
        is_same, is_correct = (labels == before).all(axis=1), (labels == expected).all(axis=1)
        loss = metrics.log_loss(logits, targets, temperature)
        results.append((is_same.mean(), is_correct.mean() - was_correct.mean(), loss - loss_before))
    agreement, accuracy_change, log_loss_change = np.mean(results, axis=0)
    return Fidelity(
        n_images=len(rows),
        agreement=float(agreement),
        accuracy_change=float(accuracy_change),
        log_loss_change=float(log_loss_change),
        max_probability_shift=max_probability_shift(changes, temperature, multilabel),
    )


def max_probability_shift(changes: Floats, temperature: float, multilabel: bool) -> float:
    """An upper bound of the probability shift: what the largest change of logits (N, C) would do to an undecided image.

    For an image between two labels the probability is 1 / (1 + exp(-d)), where d is the difference of their scaled logits. Its
    slope is at most 1/4, at d = 0. So a few images suffice, even if the network is confident on all of them.

    Args:
        multilabel: whether an image may have several labels; then each logit counts separately.
    """
    scaled = changes.astype(np.float64) / temperature
    spread = np.abs(scaled) if multilabel else scaled.max(axis=1) - scaled.min(axis=1)
    return min(1.0, float(spread.max()) / 4)
