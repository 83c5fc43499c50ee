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
from graft.service.inference.devices import cores
from graft.service.inference.engine import Pixels
from graft.service.inference.model import Model
from graft.service.inference.postprocess import given
from graft.training.config.corruptions import ADVERSARIAL, DISTURBANCES, NATURAL, SAMPLE
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.confidence_intervals import share
from graft.training.inference.bulk import through
from graft.training.results import Estimate
from graft.training.robustness.corruption_ops import CHANGES
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each

if TYPE_CHECKING:
    from graft.service.networks.network import Network


ATTACKED = {"fgsm": 48, "pgd": 24}  # maximum number of images by attack
SEED = 0

Said = NDArray[np.float32]
Key = tuple[str, float]  # a corruption and its severity; ("", 0.0) for clean images


@dataclass(frozen=True)
class Withstood:
    """Accuracy and flip rate at one severity.

    Attributes:
        accuracy: fraction of n images predicted correctly; for several labels per image, with exactly these labels.
        flip_rate: fraction of the images with another prediction than the clean image.
    """

    severity: float
    n: int
    right: Estimate
    changed: Estimate


@dataclass(frozen=True)
class Example:
    """One corrupted image, uint8 (S, S, 3), and its prediction as text."""

    severity: float
    path: str
    pixels: Pixels
    answer: str


@dataclass(frozen=True)
class Robustness:
    """The results of a robustness measurement.

    Attributes:
        n: number of images measured, drawn with `seed` from `n_available`.
        clean_accuracy: accuracy on the clean images.
        curves: results by corruption, in order of severity, including the clean images.
        examples: one image for each corruption, at every severity.
    """

    n: int
    of: int
    seed: int
    unchanged: Estimate
    curves: Mapping[str, tuple[Withstood, ...]]
    examples: Mapping[str, tuple[Example, ...]]


@dataclass(frozen=True)
class _Trial:
    """The images and the model's logits in every condition; attacks cover only the first images."""

    model: Model
    samples: tuple[Sample, ...]
    images: list[Pixels]
    truth: NDArray[np.generic]
    said: dict[Key, Said]
    attacked: dict[Key, Pixels]

    def shown(self, key: Key, row: int) -> Pixels:
        """An image in one condition, as the network gets it."""
        return self.attacked[key][row] if key in self.attacked else disturbed(self.images[row], key, row)


def measure(model: Model, dataset: Dataset, samples: Sequence[Sample], most: int = SAMPLE, seed: int = SEED) -> Robustness:
    """Measures the robustness of a package on labeled images.

    Args:
        max_images: size of the random subset.

    Raises:
        ImageError: if a file is unreadable.
    """
    evaluation = _tried(model, dataset, drawn(samples, most, seed), seed)
    correct = _right(model, evaluation.said["", 0.0], evaluation.truth)
    return Robustness(
        n=len(evaluation.samples),
        of=len(samples),
        seed=seed,
        unchanged=_share(correct),
        curves={name: tuple(_curve(evaluation, name)) for name in DISTURBANCES},
        examples={name: tuple(_examples(evaluation, name)) for name in DISTURBANCES},
    )


def drawn(samples: Sequence[Sample], most: int, seed: int) -> tuple[Sample, ...]:
    """A random subset in random order, so that every prefix of it is a random subset, too."""
    order = np.random.default_rng(seed).permutation(len(samples))[:most]
    return tuple(samples[row] for row in order.tolist())


def disturbed(pixels: Pixels, key: Key, row: int) -> Pixels:
    """Corrupts one image. The random choices depend on image and corruption, and are the same at every severity."""
    name, severity = key
    if not name or severity == DISTURBANCES[name].unchanged:
        return pixels
    return CHANGES[name](pixels, severity, np.random.default_rng([zlib.crc32(name.encode()), row]))


def _tried(model: Model, dataset: Dataset, samples: tuple[Sample, ...], seed: int) -> _Trial:
    with Progress("decoding", len(samples), "images") as progress:
        decoded = each(lambda sample: model.decode(dataset.read(sample)).pixels, samples, cores())
        images = list(progress.each(decoded))
    targets = dataset.targets(samples)
    conditions: list[Key] = [("", 0.0), *((kind.name, severity) for kind in NATURAL for severity in kind.severities)]
    items = [(condition, row) for condition in conditions for row in range(len(images))]
    loaders = [partial(disturbed, images[row], condition, row) for condition, row in items]
    flat_logits = np.concatenate(list(_said(model, loaders, "corrupting")))
    natural = dict(zip(conditions, flat_logits.reshape(len(conditions), len(images), -1), strict=True))
    attacked = _attacked(model, images, targets, seed)
    attacked_loaders = [partial(np.asarray, image) for batch in attacked.values() for image in batch]
    ends = np.cumsum([len(batch) for batch in attacked.values()])[:-1]
    attacked_logits = np.split(np.concatenate(list(_said(model, attacked_loaders, "predicting attacked images"))), ends)
    return _Trial(model, samples, images, targets, natural | dict(zip(attacked, attacked_logits, strict=True)), attacked)


def _said(model: Model, looks: "Sequence[partial[Pixels]]", what: str) -> Iterator[Said]:
    """Yields the engine's logits, (1, C) for each image."""
    for result in through(model.engine, looks, lambda load: load(), what):
        if isinstance(result, ImageError):
            raise result
        yield result.logits


def _attacked(model: Model, images: list[Pixels], truth: NDArray[np.generic], seed: int) -> dict[Key, Pixels]:
    """Attacks the first M images with each radius: uint8 (M, S, S, 3) by condition."""
    from graft.service.networks import network
    from graft.training.robustness.adversarial import AT_ONCE, attacker

    target = attacker(network.load(model.artifact))
    attacked: dict[Key, Pixels] = {}
    n_images = {name: min(len(images), limit) for name, limit in ATTACKED.items()}
    with Progress("attacking", sum(n_images.values()), "images") as progress:
        for attack in ADVERSARIAL:
            batches: dict[float, list[Pixels]] = {radius: [] for radius in attack.severities}
            for start in range(0, n_images[attack.name], AT_ONCE):
                rows = slice(start, min(start + AT_ONCE, n_images[attack.name]))
                batch = np.stack(images[rows])
                for radius, result in _attack(target, attack.name, batch, truth[rows], attack.severities, seed + start):
                    batches[radius].append(result)
                progress.advance(len(batch))
            attacked |= {(attack.name, radius): np.concatenate(results) for radius, results in batches.items()}
    return attacked


def _attack(
    target: "Network", name: str, batch: Pixels, truth: NDArray[np.generic], radii: Sequence[float], seed: int
) -> Iterator[tuple[float, Pixels]]:
    """Yields each radius and the attacked batch."""
    from graft.training.robustness.adversarial import fgsm, pgd

    if name == "fgsm":
        yield from zip(radii, fgsm(target, batch, truth, radii), strict=True)
    else:
        yield from ((radius, pgd(target, batch, truth, radius, seed)) for radius in radii)


def answers(model: Model, logits: Said) -> NDArray[np.generic]:
    """The predicted label, int (N, 1); for several labels per image, which are predicted, bool (N, C)."""
    probabilities = model.probabilities(logits)
    if model.manifest.multilabel:
        return given(probabilities, np.array(model.manifest.calibration.thresholds, np.float64))
    top: NDArray[np.int64] = probabilities.argmax(axis=1)[:, None]
    return top


def _right(model: Model, logits: Said, truth: NDArray[np.generic]) -> NDArray[np.bool_]:
    correct: NDArray[np.bool_] = (answers(model, logits) == truth.reshape(len(truth), -1)).all(axis=1)
    return correct


def _curve(trial: _Trial, name: str) -> Iterator[Withstood]:
    corruption = DISTURBANCES[name]
    n_images = min(len(trial.samples), ATTACKED.get(name, len(trial.samples)))
    clean = trial.said["", 0.0][:n_images]
    for severity in corruption.curve:
        logits = clean if severity == corruption.unchanged else trial.said[name, severity]
        flipped = (answers(trial.model, logits) != answers(trial.model, clean)).any(axis=1)
        yield Withstood(severity, n_images, _share(_right(trial.model, logits, trial.truth[:n_images])), _share(flipped))


def _examples(trial: _Trial, name: str) -> Iterator[Example]:
    """The most confident image that is correct when clean and wrong at an extreme severity; without one, the most confident."""
    corruption = DISTURBANCES[name]
    n_images = len(trial.said[name, corruption.severities[0]])
    clean = trial.said["", 0.0][:n_images]
    targets = trial.truth[:n_images]
    wrong = [~_right(trial.model, trial.said[name, corruption.severities[end]], targets) for end in (0, -1)]
    becomes_wrong = _right(trial.model, clean, targets) & (wrong[0] | wrong[1])
    row = int((becomes_wrong + trial.model.probabilities(clean).max(axis=1)).argmax())
    for severity in corruption.curve:
        condition = ("", 0.0) if severity == corruption.unchanged else (name, severity)
        logits = trial.said[condition][row : row + 1]
        yield Example(severity, trial.samples[row].path, trial.shown(condition, row), _told(trial.model, logits))


def _told(model: Model, logits: Said) -> str:
    """The most probable label and its probability: `cat 93%`."""
    probabilities = model.probabilities(logits)[0]
    top = int(probabilities.argmax())
    return f"{model.manifest.labels[top]} {probabilities[top]:.0%}"


def _share(flags: NDArray[np.bool_]) -> Estimate:
    estimate = share(float(flags.sum()), len(flags))
    if estimate is None:
        raise ValueError("There are no images to corrupt.")
    return estimate
