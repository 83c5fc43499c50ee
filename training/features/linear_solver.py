"""Linear heads by convex optimisation: three losses and one minimiser. Numpy and scipy, no torch.

Not scikit-learn's: its linear SVM takes three times as long (2,500 images, 1,792 features, ten labels) and holds its bias
back like a weight, which spoils strong regularisation; its logistic regression knows one label an image, and drops a
label that a part of the images happens to lack. The tests hold these results against scikit-learn's.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["logistic", "svm"]
Floats = NDArray[np.float32]
Parameters = NDArray[np.float64]  # (C, D + 1): a row a label, its bias last
Loss = Callable[[Floats, Floats], tuple[Floats, Floats]]
Summed = tuple[float, Parameters]


def minimise(
    loss: Loss,
    vectors: Floats,
    wanted: Floats,
    weights: Floats,
    penalty: float,
    start: Parameters | None = None,
    tolerance: float = 1e-4,
) -> Parameters:
    """The rows (C, D + 1) that minimise the mean loss plus half of `penalty` times the squared weights; biases are free.

    Args:
        loss: one of this module's.
        vectors: float32 (n, D), standardised.
        wanted: float32 (n, C), 1 where the label is right and else 0.
        weights: float32 (n, 1) or (n, C), how much each loss counts.
        penalty: above 0.
        start: where to start from, such as the solution for a larger penalty.
        tolerance: the largest slope that may be left.
    """
    n_rows, width = vectors.shape
    begin = np.zeros((wanted.shape[1], width + 1)) if start is None else start
    return descend(lambda rows: summed(loss, vectors, wanted, weights, rows), n_rows, begin, penalty, tolerance)


def summed(loss: Loss, vectors: Floats, wanted: Floats, weights: Floats, rows: Parameters) -> Summed:
    """The weighted losses of some images, added up, and by how much each parameter moves their sum."""
    weight = rows[:, :-1].astype(np.float32)  # half the memory to move, and that is what takes the time
    losses, slopes = loss(vectors @ weight.T + rows[:, -1].astype(np.float32), wanted)
    slopes = weights * slopes
    gradient = np.empty_like(rows)
    gradient[:, :-1] = slopes.T @ vectors
    gradient[:, -1] = slopes.sum(axis=0, dtype=np.float64)
    return float((weights * losses).sum(dtype=np.float64)), gradient


def descend(
    sums: Callable[[Parameters], Summed], n_rows: int, start: Parameters, penalty: float, tolerance: float
) -> Parameters:
    """As `minimise` does, where the losses are added up by somebody else.

    Args:
        sums: all losses' sum at some rows (C, D + 1), and its slopes (C, D + 1).
        n_rows: of how many losses that is the sum.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        rows = flat.reshape(start.shape)
        total, gradient = sums(rows)
        gradient /= n_rows
        gradient[:, :-1] += penalty * rows[:, :-1]
        return total / n_rows + penalty / 2 * float((rows[:, :-1] ** 2).sum()), gradient.ravel()

    options = {"maxiter": 1000, "maxfun": 2000, "gtol": tolerance, "ftol": 1e-12}
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    solution: Parameters = found.x.reshape(start.shape)
    return solution


def cross_entropy(logits: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Losses and slopes (n, C) where exactly one label is right: the softmax's negative log-probability of it."""
    # Not by `softmax`: the logarithm of a probability that was rounded to 0 is no number.
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    return wanted * (np.log(sums) - shifted), powers / sums - wanted


def binary_cross_entropy(logits: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Losses and slopes (n, C) where each label is a yes or no of its own."""
    return np.logaddexp(np.float32(0), np.where(wanted > 0, -logits, logits)), sigmoid(logits) - wanted


def sigmoid(logits: Floats) -> Floats:
    """The probability of each yes."""
    return np.float32(1) / (np.float32(1) + np.exp(-np.clip(logits, -80, 80)))


def softmax(logits: Floats) -> Floats:
    """The probability of each label where exactly one is right."""
    # Subtracting the row's maximum changes nothing but keeps exp() from overflowing.
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = powers / powers.sum(axis=1, keepdims=True)
    return found


def squared_hinge(logits: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """Losses and slopes (n, C) of the linear SVM, each label against the rest."""
    signs = 2 * wanted - 1
    short = np.maximum(0, 1 - signs * logits)
    return short * short, -2 * signs * short


def loss_of(kind: Kind, multilabel: bool) -> Loss:
    """What a kind of head minimises."""
    if kind == "svm":
        return squared_hinge
    return binary_cross_entropy if multilabel else cross_entropy


def one_hot(targets: NDArray[np.generic], n_labels: int | None = None) -> Floats:
    """Float32 (N, C) of labels int (N,) or bool (N, C); C is one more than the greatest unless told."""
    if targets.ndim == 2:
        return targets.astype(np.float32)
    return np.eye(n_labels or int(targets.max()) + 1, dtype=np.float32)[targets.astype(np.int64)]


def weights_of(wanted: Floats, multilabel: bool, balanced: bool) -> Floats:
    """How much each loss counts, with mean 1: float32 (N, 1), or (N, C) for several labels an image.

    Balanced, every label weighs the same however few images it has; of several labels an image, each label's yes weighs
    as much as its no.
    """
    return weights_among(wanted, wanted.sum(axis=0), len(wanted), multilabel, balanced)


def weights_among(wanted: Floats, counts: Floats, n_images: int, multilabel: bool, balanced: bool) -> Floats:
    """The same for some of `n_images`, of which `counts` (C,) have each label."""
    if not balanced:
        return np.ones((len(wanted), 1), np.float32)
    if multilabel:
        yes, no = n_images / 2 / np.maximum(counts, 1), n_images / 2 / np.maximum(n_images - counts, 1)
        chosen: Floats = np.where(wanted > 0, yes, no).astype(np.float32)
        return chosen
    shares: Floats = (n_images / np.count_nonzero(counts) / np.maximum(counts, 1)).astype(np.float32)
    return wanted @ shares[:, None]
