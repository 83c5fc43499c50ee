"""Measures a package's robustness: accuracy and flip rate on corrupted copies of labeled images, by severity.

Corruptions apply to the preprocessed pixels, and the engine of the HTTP service predicts them. So the clean images
reproduce the evaluation. Adversarial attacks need gradients, hence torch and the package's weights; the same engine then
predicts the attacked images. A random subset of the images is enough to show the effects. Attacks run on a smaller subset,
because each step costs a backward pass.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graft.service.errors import ImageError
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import Pixels
from graft.service.inference.model import Model
from graft.service.inference.thread_map import ordered_map
from graft.training.config.corruptions import ADVERSARIAL_ATTACKS, COMMON_CORRUPTIONS, CORRUPTIONS, DEFAULT_SAMPLE_SIZE
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.clusters import cluster_ids, n_clusters
from graft.training.evaluation.confidence_intervals import share
from graft.training.evaluation.metrics import predicted_labels
from graft.training.inference.bulk import infer
from graft.training.results import Estimate
from graft.training.robustness.corruption_ops import CORRUPTION_OPS
from graft.training.runtime.progress import Progress, step

if TYPE_CHECKING:
    from graft.service.networks.network import Network


MAX_ATTACKED = {"fgsm": 48, "pgd": 24}  # maximum number of images by attack
SEED = 0

Logits = NDArray[np.float32]
Condition = tuple[str, float]  # a corruption and its severity; ("", 0.0) for clean images


@dataclass(frozen=True)
class SeverityResult:
    """Accuracy and flip rate at one severity.

    Attributes:
        accuracy: fraction of n images predicted correctly; for several labels per image, with exactly these labels.
        flip_rate: fraction of the images with another prediction than the clean image.
    """

    severity: float
    n: int
    accuracy: Estimate
    flip_rate: Estimate


@dataclass(frozen=True)
class CorruptedExample:
    """One corrupted image, uint8 (S, S, 3), and its prediction as text."""

    severity: float
    path: str
    pixels: Pixels
    prediction: str


@dataclass(frozen=True)
class Robustness:
    """The results of a robustness measurement.

    Attributes:
        n: number of images measured, drawn with `seed` from `n_available`.
        clean_accuracy: accuracy on the clean images.
        curves: results by corruption, in order of severity, including the clean images.
        examples: one image for each corruption, at every severity.
        n_groups: groups among the n images, which count once in an interval; None if they are unknown.
    """

    n: int
    n_available: int
    seed: int
    clean_accuracy: Estimate
    curves: Mapping[str, tuple[SeverityResult, ...]]
    examples: Mapping[str, tuple[CorruptedExample, ...]]
    n_groups: int | None = None


@dataclass(frozen=True)
class _Evaluation:
    """The images and the model's logits in every condition; attacks cover only the first images."""

    model: Model
    samples: tuple[Sample, ...]
    images: list[Pixels]
    targets: NDArray[np.generic]
    logits: dict[Condition, Logits]
    attacked_images: dict[Condition, Pixels]

    def corrupted_image(self, condition: Condition, row: int) -> Pixels:
        """An image in one condition, as the network gets it."""
        return (
            self.attacked_images[condition][row]
            if condition in self.attacked_images
            else corrupt(self.images[row], condition, row)
        )


def measure(
    model: Model, dataset: Dataset, samples: Sequence[Sample], max_images: int = DEFAULT_SAMPLE_SIZE, seed: int = SEED
) -> Robustness:
    """Measures the robustness of a package on labeled images.

    Args:
        max_images: size of the random subset.

    Raises:
        ImageError: if a file is unreadable.
    """
    evaluation = _evaluate(model, dataset, random_subset(samples, max_images, seed), seed)
    correct = _is_correct(model, evaluation.logits["", 0.0], evaluation.targets)
    clusters = cluster_ids(evaluation.samples)
    return Robustness(
        n=len(evaluation.samples),
        n_available=len(samples),
        seed=seed,
        clean_accuracy=share(correct, clusters),
        curves={name: tuple(_curve(evaluation, name)) for name in CORRUPTIONS},
        examples={name: tuple(_examples(evaluation, name)) for name in CORRUPTIONS},
        n_groups=n_clusters(clusters),
    )


def random_subset(samples: Sequence[Sample], max_images: int, seed: int) -> tuple[Sample, ...]:
    """A random subset in random order, so that every prefix of it is a random subset, too."""
    order = np.random.default_rng(seed).permutation(len(samples))[:max_images]
    return tuple(samples[row] for row in order.tolist())


def corrupt(pixels: Pixels, condition: Condition, row: int) -> Pixels:
    """Corrupts one image. The random choices depend on image and corruption, and are the same at every severity."""
    name, severity = condition
    if not name or severity == CORRUPTIONS[name].identity:
        return pixels
    return CORRUPTION_OPS[name](pixels, severity, np.random.default_rng([zlib.crc32(name.encode()), row]))


def _evaluate(model: Model, dataset: Dataset, samples: tuple[Sample, ...], seed: int) -> _Evaluation:
    with Progress("decoding", len(samples), "images") as progress:
        decoded = ordered_map(lambda sample: model.decode(dataset.read(sample)).pixels, samples, available_cpus())
        images = list(progress.track(decoded))
    targets = dataset.targets(samples)
    conditions: list[Condition] = [
        ("", 0.0),
        *((kind.name, severity) for kind in COMMON_CORRUPTIONS for severity in kind.severities),
    ]
    items = [(condition, row) for condition in conditions for row in range(len(images))]
    loaders = [partial(corrupt, images[row], condition, row) for condition, row in items]
    flat_logits = np.concatenate(list(_infer_logits(model, loaders, "corrupting")))
    natural = dict(zip(conditions, flat_logits.reshape(len(conditions), len(images), -1), strict=True))
    attacked = _attack_images(model, images, targets, seed)
    attacked_loaders = [partial(np.asarray, image) for batch in attacked.values() for image in batch]
    ends = np.cumsum([len(batch) for batch in attacked.values()])[:-1]
    attacked_logits = np.split(np.concatenate(list(_infer_logits(model, attacked_loaders, "predicting attacked images"))), ends)
    return _Evaluation(model, samples, images, targets, natural | dict(zip(attacked, attacked_logits, strict=True)), attacked)


def _infer_logits(model: Model, loaders: "Sequence[partial[Pixels]]", description: str) -> Iterator[Logits]:
    """Yields the engine's logits, (1, C) for each image."""
    for result in infer(model.engine, loaders, lambda load: load(), description):
        if isinstance(result, ImageError):
            raise result
        yield result.logits


def _attack_images(model: Model, images: list[Pixels], targets: NDArray[np.generic], seed: int) -> dict[Condition, Pixels]:
    """Attacks the first M images with each radius: uint8 (M, S, S, 3) by condition."""
    with step("loading the network"):
        from graft.service.networks import network
        from graft.training.robustness.adversarial import BATCH_SIZE, attack_model

        target = attack_model(network.load(model.artifact))
    attacked: dict[Condition, Pixels] = {}
    n_images = {name: min(len(images), limit) for name, limit in MAX_ATTACKED.items()}
    with Progress("attacking", sum(n_images.values()), "images") as progress:
        for attack in ADVERSARIAL_ATTACKS:
            batches: dict[float, list[Pixels]] = {radius: [] for radius in attack.severities}
            for start in range(0, n_images[attack.name], BATCH_SIZE):
                rows = slice(start, min(start + BATCH_SIZE, n_images[attack.name]))
                batch = np.stack(images[rows])
                for radius, result in _attack_batch(target, attack.name, batch, targets[rows], attack.severities, seed + start):
                    batches[radius].append(result)
                progress.advance(len(batch))
            attacked |= {(attack.name, radius): np.concatenate(results) for radius, results in batches.items()}
    return attacked


def _attack_batch(
    network: "Network", name: str, batch: Pixels, targets: NDArray[np.generic], radii: Sequence[float], seed: int
) -> Iterator[tuple[float, Pixels]]:
    """Yields each radius and the attacked batch."""
    from graft.training.robustness.adversarial import fgsm, pgd

    if name == "fgsm":
        yield from zip(radii, fgsm(network, batch, targets, radii), strict=True)
    else:
        yield from ((radius, pgd(network, batch, targets, radius, seed)) for radius in radii)


def _predicted_labels(model: Model, logits: Logits) -> NDArray[np.generic]:
    manifest = model.manifest
    return predicted_labels(logits, manifest.temperature, manifest.calibration, manifest.multilabel)


def _is_correct(model: Model, logits: Logits, targets: NDArray[np.generic]) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = (_predicted_labels(model, logits) == targets.reshape(len(targets), -1)).all(axis=1)
    return correct


def _curve(evaluation: _Evaluation, name: str) -> Iterator[SeverityResult]:
    corruption = CORRUPTIONS[name]
    n_images = min(len(evaluation.samples), MAX_ATTACKED.get(name, len(evaluation.samples)))
    clean, clusters = evaluation.logits["", 0.0][:n_images], cluster_ids(evaluation.samples[:n_images])
    for severity in corruption.all_severities:
        logits = clean if severity == corruption.identity else evaluation.logits[name, severity]
        flipped = (_predicted_labels(evaluation.model, logits) != _predicted_labels(evaluation.model, clean)).any(axis=1)
        yield SeverityResult(
            severity,
            n_images,
            share(_is_correct(evaluation.model, logits, evaluation.targets[:n_images]), clusters),
            share(flipped, clusters),
        )


def _examples(evaluation: _Evaluation, name: str) -> Iterator[CorruptedExample]:
    """The most confident image that is correct when clean and wrong at an extreme severity; without one, the most confident."""
    corruption = CORRUPTIONS[name]
    n_images = len(evaluation.logits[name, corruption.severities[0]])
    clean = evaluation.logits["", 0.0][:n_images]
    targets = evaluation.targets[:n_images]
    wrong = [~_is_correct(evaluation.model, evaluation.logits[name, corruption.severities[end]], targets) for end in (0, -1)]
    becomes_wrong = _is_correct(evaluation.model, clean, targets) & (wrong[0] | wrong[1])
    row = int((becomes_wrong + evaluation.model.probabilities(clean).max(axis=1)).argmax())
    for severity in corruption.all_severities:
        condition = ("", 0.0) if severity == corruption.identity else (name, severity)
        logits = evaluation.logits[condition][row : row + 1]
        yield CorruptedExample(
            severity,
            evaluation.samples[row].path,
            evaluation.corrupted_image(condition, row),
            _describe_prediction(evaluation.model, logits),
        )


def _describe_prediction(model: Model, logits: Logits) -> str:
    """The most probable label and its probability: `cat 93%`."""
    probabilities = model.probabilities(logits)[0]
    top = int(probabilities.argmax())
    return f"{model.manifest.labels[top]} {probabilities[top]:.0%}"
