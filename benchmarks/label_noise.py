"""Planted label errors: how many `graft check` estimates, and how many of its first images are wrong.

    python benchmarks/label_noise.py DATA...

For each data set, shares of the labels are changed, to any other label or to the most similar one. A row has the estimated
share of wrong labels, that of the confident joint (Northcutt et al. 2021) for comparison, and for the default list and lists of
the first 20, 60 and 180 images: the promised and the true precision, and the recall.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.training.audit import label_errors
from graft.training.audit.data_audit import apply_exclusions, read_and_audit
from graft.training.audit.image_scan import median_side
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.features.extraction import View, extract
from graft.training.features.linear_probe import out_of_fold_probabilities

RATES, SIZES, MAX_IMAGES = (0, 0.02, 0.05, 0.1), (20, 60, 180), 2_000

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def read(data: Path) -> tuple[Floats, Labels, int]:
    """Feature vectors (N, D), labels (N,) and the number of labels, of at most MAX_IMAGES images."""
    recipe = Recipe()
    dataset, scanned, findings = read_and_audit(data, recipe)
    dataset, _ = apply_exclusions(dataset, findings, True, True)
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset.samples))[:MAX_IMAGES])
    samples = [dataset.samples[row] for row in rows.tolist()]
    backbone = registry.resolve(recipe.backbone, recipe.weights)
    exported = onnx_cache.load_or_export(backbone, recipe.input_size, median_side(scanned), recipe.fit, dataset.sample_bits)
    features = extract(dataset, map(View, samples), exported)
    return np.asarray(features.select(samples)[:], np.float32), dataset.targets(samples), len(dataset.labels)


def plant(vectors: Floats, labels: Labels, n_labels: int, rate: float, to_similar: bool) -> Labels:
    """The labels with a share of them changed."""
    random, given = np.random.default_rng(1), labels.copy()
    rows = random.permutation(len(labels))[: round(rate * len(labels))]
    centers = np.stack([vectors[labels == label].mean(axis=0) for label in range(n_labels)])
    distances = ((centers[:, None] - centers[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    at_random = (labels[rows] + random.integers(1, n_labels, len(rows))) % n_labels
    given[rows] = distances.argmin(axis=1)[labels[rows]] if to_similar else at_random
    return given


def confident_joint(vectors: Floats, given: Labels, n_labels: int) -> float:
    """The share of wrong labels by the confident joint, calibrated to the label counts."""
    probabilities = out_of_fold_probabilities(vectors[None], given, label_errors.REGULARIZATION_C, label_errors.N_FOLDS, 0)
    own = probabilities[np.arange(len(given)), given]
    counts = np.bincount(given, minlength=n_labels)
    thresholds = np.bincount(given, own, minlength=n_labels) / counts
    confident = np.where(probabilities >= thresholds, probabilities, 0)
    rows = np.flatnonzero(confident.max(axis=1) > 0)
    joint = np.zeros((n_labels, n_labels))
    np.add.at(joint, (given[rows], confident[rows].argmax(axis=1)), 1)
    joint *= (counts / np.maximum(joint.sum(axis=1), 1))[:, None]
    return float((joint.sum() - np.trace(joint)) / len(given))


def measure(name: str, vectors: Floats, labels: Labels, n_labels: int, rate: float, to_similar: bool) -> str:
    """One row of the table."""
    given = plant(vectors, labels, n_labels, rate, to_similar)
    paths = [str(row) for row in range(len(given))]
    ranked = label_errors.rank_labels(vectors, given, paths, [str(label) for label in range(n_labels)])
    wrong = np.array([labels[int(issue.path)] != given[int(issue.path)] for issue in ranked.issues])
    cells = []
    for cut in ranked.cuts([ranked.n_default, *SIZES]):
        found = wrong[: cut.n]
        recall = found.sum() / wrong.sum() if wrong.any() else 0
        cells.append(f"{cut.n} {cut.precision:.0%} {found.mean():.0%} {recall:.0%}")
    kind = "similar" if to_similar else "random"
    joint = confident_joint(vectors, given, n_labels)
    return f"{name} {kind} {rate:.0%}: {ranked.n_expected / len(given):.1%} (joint {joint:.1%}) | {' | '.join(cells)}"


def main(paths: Sequence[str]) -> None:
    """Prints the table."""
    for path in paths:
        vectors, labels, n_labels = read(Path(path))
        for to_similar in (False, True):
            for rate in RATES[to_similar:]:
                print(measure(Path(path).stem, vectors, labels, n_labels, rate, to_similar), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", nargs="*", metavar="DATA", help="data sets")
    main(parser.parse_args().data)
