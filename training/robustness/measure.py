"""What a package's answers withstand: the same labelled images, disturbed more and more.

Every disturbance is made to the pixels that the network sees, and every disturbed image is answered by the engine that
answers callers, so severity 0 is the evaluation itself. Attacks need gradients, and so torch and the package's weights;
what they make is then judged by the same engine. A sample of the images is enough to see what matters; of the attacks,
which cost a pass back through the network for each step, a smaller one.
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


ATTACKED = {"fgsm": 48, "pgd": 24}  # of them at most
SEED = 0

Said = NDArray[np.float32]
Key = tuple[str, float]  # a disturbance and its severity


@dataclass(frozen=True)
class Withstood:
    """What became of the answers at one severity.

    Attributes:
        right: share of n images that are answered rightly; where images have several labels, with exactly these.
        changed: share of them that are answered otherwise than the unchanged image.
    """

    severity: float
    n: int
    right: Estimate
    changed: Estimate


@dataclass(frozen=True)
class Example:
    """One image as the network saw it, uint8 (S, S, 3), and what it answered."""

    severity: float
    path: str
    pixels: Pixels
    answer: str


@dataclass(frozen=True)
class Robustness:
    """All that was measured.

    Attributes:
        n: images of the sample, out of `of`, drawn with `seed`.
        unchanged: share of them that are answered rightly as they are.
        curves: by the disturbances' names, the unchanged severity among the others.
        examples: one image for each disturbance, at every severity.
    """

    n: int
    of: int
    seed: int
    unchanged: Estimate
    curves: Mapping[str, tuple[Withstood, ...]]
    examples: Mapping[str, tuple[Example, ...]]


@dataclass(frozen=True)
class _Trial:
    """The sample, and what is said of it under every disturbance; of attacks, only the first images of the sample."""

    model: Model
    samples: tuple[Sample, ...]
    images: list[Pixels]
    truth: NDArray[np.generic]
    said: dict[Key, Said]
    attacked: dict[Key, Pixels]

    def shown(self, key: Key, row: int) -> Pixels:
        """An image as the network saw it."""
        return self.attacked[key][row] if key in self.attacked else disturbed(self.images[row], key, row)


def measure(model: Model, dataset: Dataset, samples: Sequence[Sample], most: int = SAMPLE, seed: int = SEED) -> Robustness:
    """What a package's answers to labelled images withstand.

    Args:
        most: images that are drawn.

    Raises:
        ImageError: if a file is unreadable.
    """
    trial = _tried(model, dataset, drawn(samples, most, seed), seed)
    unchanged = trial.said["", 0.0]
    right = _right(model, unchanged, trial.truth)
    return Robustness(
        n=len(trial.samples),
        of=len(samples),
        seed=seed,
        unchanged=_share(right),
        curves={name: tuple(_curve(trial, name)) for name in DISTURBANCES},
        examples={name: tuple(_examples(trial, name)) for name in DISTURBANCES},
    )


def drawn(samples: Sequence[Sample], most: int, seed: int) -> tuple[Sample, ...]:
    """At most so many samples, in random order, so that the first of them are a sample too."""
    order = np.random.default_rng(seed).permutation(len(samples))[:most]
    return tuple(samples[row] for row in order.tolist())


def disturbed(pixels: Pixels, key: Key, row: int) -> Pixels:
    """One image, disturbed; which way, is drawn for each image and disturbance, and the same at every severity."""
    name, severity = key
    if not name or severity == DISTURBANCES[name].unchanged:
        return pixels
    return CHANGES[name](pixels, severity, np.random.default_rng([zlib.crc32(name.encode()), row]))


def _tried(model: Model, dataset: Dataset, samples: tuple[Sample, ...], seed: int) -> _Trial:
    with Progress("decoding", len(samples), "images") as progress:
        decoded = each(lambda sample: model.decode(dataset.read(sample)).pixels, samples, cores())
        images = list(progress.each(decoded))
    truth = dataset.targets(samples)
    keys: list[Key] = [("", 0.0), *((one.name, severity) for one in NATURAL for severity in one.severities)]
    items = [(key, row) for key in keys for row in range(len(images))]
    said = np.concatenate(list(_said(model, [partial(disturbed, images[row], key, row) for key, row in items], "disturbing")))
    natural = dict(zip(keys, said.reshape(len(keys), len(images), -1), strict=True))
    attacked = _attacked(model, images, truth, seed)
    flat = [partial(np.asarray, image) for batch in attacked.values() for image in batch]
    ends = np.cumsum([len(batch) for batch in attacked.values()])[:-1]
    answers = np.split(np.concatenate(list(_said(model, flat, "asking about attacks"))), ends)
    return _Trial(model, samples, images, truth, natural | dict(zip(attacked, answers, strict=True)), attacked)


def _said(model: Model, looks: "Sequence[partial[Pixels]]", what: str) -> Iterator[Said]:
    """The engine's logits, (1, C) for each."""
    for found in through(model.engine, looks, lambda look: look(), what):
        if isinstance(found, ImageError):
            raise found
        yield found.logits


def _attacked(model: Model, images: list[Pixels], truth: NDArray[np.generic], seed: int) -> dict[Key, Pixels]:
    """The attacked images of each radius, uint8 (M, S, S, 3), the first M of the sample."""
    from graft.service.networks import network
    from graft.training.robustness.adversarial import AT_ONCE, attacker

    target = attacker(network.load(model.artifact))
    found: dict[Key, Pixels] = {}
    n_images = {name: min(len(images), most) for name, most in ATTACKED.items()}
    with Progress("attacking", sum(n_images.values()), "images") as progress:
        for one in ADVERSARIAL:
            parts: dict[float, list[Pixels]] = {radius: [] for radius in one.severities}
            for start in range(0, n_images[one.name], AT_ONCE):
                rows = slice(start, min(start + AT_ONCE, n_images[one.name]))
                batch = np.stack(images[rows])
                for radius, made in _attack(target, one.name, batch, truth[rows], one.severities, seed + start):
                    parts[radius].append(made)
                progress.advance(len(batch))
            found |= {(one.name, radius): np.concatenate(made) for radius, made in parts.items()}
    return found


def _attack(
    target: "Network", name: str, batch: Pixels, truth: NDArray[np.generic], radii: Sequence[float], seed: int
) -> Iterator[tuple[float, Pixels]]:
    from graft.training.robustness.adversarial import fgsm, pgd

    if name == "fgsm":
        yield from zip(radii, fgsm(target, batch, truth, radii), strict=True)
    else:
        yield from ((radius, pgd(target, batch, truth, radius, seed)) for radius in radii)


def answers(model: Model, logits: Said) -> NDArray[np.generic]:
    """What is answered: the label, int (N, 1); where an image may have several, which are given, bool (N, C)."""
    chances = model.probabilities(logits)
    if model.manifest.multilabel:
        return given(chances, np.array(model.manifest.calibration.thresholds, np.float64))
    best: NDArray[np.int64] = chances.argmax(axis=1)[:, None]
    return best


def _right(model: Model, logits: Said, truth: NDArray[np.generic]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (answers(model, logits) == truth.reshape(len(truth), -1)).all(axis=1)
    return found


def _curve(trial: _Trial, name: str) -> Iterator[Withstood]:
    disturbance = DISTURBANCES[name]
    n_images = min(len(trial.samples), ATTACKED.get(name, len(trial.samples)))
    before = trial.said["", 0.0][:n_images]
    for severity in disturbance.curve:
        now = before if severity == disturbance.unchanged else trial.said[name, severity]
        changed = (answers(trial.model, now) != answers(trial.model, before)).any(axis=1)
        yield Withstood(severity, n_images, _share(_right(trial.model, now, trial.truth[:n_images])), _share(changed))


def _examples(trial: _Trial, name: str) -> Iterator[Example]:
    """The image that is most surely right as it is and wrong in the end; the surest of all if none goes wrong."""
    disturbance = DISTURBANCES[name]
    n_images = len(trial.said[name, disturbance.severities[0]])
    before = trial.said["", 0.0][:n_images]
    truth = trial.truth[:n_images]
    lost = [~_right(trial.model, trial.said[name, disturbance.severities[end]], truth) for end in (0, -1)]
    telling = _right(trial.model, before, truth) & (lost[0] | lost[1])
    row = int((telling + trial.model.probabilities(before).max(axis=1)).argmax())
    for severity in disturbance.curve:
        key = ("", 0.0) if severity == disturbance.unchanged else (name, severity)
        said = trial.said[key][row : row + 1]
        yield Example(severity, trial.samples[row].path, trial.shown(key, row), _told(trial.model, said))


def _told(model: Model, logits: Said) -> str:
    chances = model.probabilities(logits)[0]
    best = int(chances.argmax())
    return f"{model.manifest.labels[best]} {chances[best]:.0%}"


def _share(flags: NDArray[np.bool_]) -> Estimate:
    found = share(float(flags.sum()), len(flags))
    if found is None:
        raise ValueError("There are no images to disturb.")
    return found
