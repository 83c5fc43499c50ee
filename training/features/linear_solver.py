"""Solver of linear heads: three losses, minimized with L-BFGS. Numpy and scipy, no torch.

scikit-learn is not used: its linear SVM takes three times as long (2,500 images, 1,792 features, ten labels) and penalizes
the bias, which distorts strong regularization. Its logistic regression has no multi-label loss, and it drops a label that is
missing from a fold. The tests compare these results with scikit-learn's.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["logistic", "svm"]
Floats = NDArray[np.float32]
Parameters = NDArray[np.float64]  # (C, D + 1): one row per label, its bias last
Loss = Callable[[Floats, Floats], tuple[Floats, Floats]]
LossAndGrad = tuple[float, Parameters]


def fit_lbfgs(
    loss: Loss,
    vectors: Floats,
    targets: Floats,
    weights: Floats,
    penalty: float,
    init: Parameters | None = None,
    tolerance: float = 1e-4,
) -> Parameters:
    """Fits parameters (C, D + 1) that minimize the mean loss plus `penalty / 2` times the squared weights, without the biases.

    Args:
        loss: one of this module's losses.
        vectors: float32 (n, D), standardized.
        targets: one-hot or multi-hot targets, float32 (n, C).
        weights: sample weights, float32 (n, 1) or (n, C).
        penalty: L2 penalty, above 0.
        init: initial parameters, such as the solution for a larger penalty; None for zeros.
        tolerance: the solver stops at this largest absolute gradient.
    """
    n_samples, width = vectors.shape
    initial = np.zeros((targets.shape[1], width + 1)) if init is None else init
    return fit_lbfgs_streamed(
        lambda parameters: loss_and_grad(loss, vectors, targets, weights, parameters), n_samples, initial, penalty, tolerance
    )


def loss_and_grad(loss: Loss, vectors: Floats, targets: Floats, weights: Floats, parameters: Parameters) -> LossAndGrad:
    """The weighted sum of the losses, and its gradient with respect to the parameters (C, D + 1)."""
    weight = parameters[:, :-1].astype(np.float32)  # memory bandwidth is the bottleneck, and float32 halves it
    losses, logit_gradients = loss(vectors @ weight.T + parameters[:, -1].astype(np.float32), targets)
    logit_gradients = weights * logit_gradients
    gradient = np.empty_like(parameters)
    gradient[:, :-1] = logit_gradients.T @ vectors
    gradient[:, -1] = logit_gradients.sum(axis=0, dtype=np.float64)
    return float((weights * losses).sum(dtype=np.float64)), gradient


def fit_lbfgs_streamed(
    sum_loss_and_grad: Callable[[Parameters], LossAndGrad], n_samples: int, init: Parameters, penalty: float, tolerance: float
) -> Parameters:
    """As `fit_lbfgs`, for a loss that the caller computes, for example in chunks.

    Args:
        sum_loss_and_grad: maps parameters (C, D + 1) to the sum of all losses and its gradient (C, D + 1).
        n_samples: number of samples in the sum.
        init: initial parameters.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.reshape(init.shape)
        total, gradient = sum_loss_and_grad(parameters)
        gradient /= n_samples
        gradient[:, :-1] += penalty * parameters[:, :-1]
        return total / n_samples + penalty / 2 * float((parameters[:, :-1] ** 2).sum()), gradient.ravel()

    options = {"maxiter": 1000, "maxfun": 2000, "gtol": tolerance, "ftol": 1e-12}
    result = minimize(objective, init.ravel(), jac=True, method="L-BFGS-B", options=options)
    solution: Parameters = result.x.reshape(init.shape)
    return solution


def cross_entropy(logits: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Softmax cross-entropy and its gradient with respect to the logits, (n, C) each."""
    # Not via `softmax`: the logarithm of a probability that underflows to 0 is -inf.
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(axis=1, keepdims=True)
    return targets * (np.log(sums) - shifted), exponentials / sums - targets


def binary_cross_entropy(logits: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Binary cross-entropy of each label and its gradient with respect to the logits, (n, C) each."""
    return np.logaddexp(np.float32(0), np.where(targets > 0, -logits, logits)), sigmoid(logits) - targets


def sigmoid(logits: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.float32(1) / (np.float32(1) + np.exp(-np.clip(logits, -80, 80)))


def softmax(logits: Floats) -> Floats:
    """Softmax over labels, (n, C)."""
    # Subtracting the row maximum does not change the result, but prevents overflow.
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def squared_hinge(logits: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """One-vs-rest squared hinge loss and its gradient with respect to the logits, (n, C) each."""
    signs = 2 * targets - 1
    violations = np.maximum(0, 1 - signs * logits)
    return violations * violations, -2 * signs * violations


def get_loss(kind: Kind, multilabel: bool) -> Loss:
    """The loss of a kind of head."""
    if kind == "svm":
        return squared_hinge
    return binary_cross_entropy if multilabel else cross_entropy


def one_hot(targets: NDArray[np.generic], n_labels: int | None = None) -> Floats:
    """One-hot float32 (N, C) of labels int (N,), or multi-hot of bool (N, C); `n_labels` None means the largest label + 1."""
    if targets.ndim == 2:
        return targets.astype(np.float32)
    return np.eye(n_labels or int(targets.max()) + 1, dtype=np.float32)[targets.astype(np.int64)]


def sample_weights(targets: Floats, multilabel: bool, balanced: bool) -> Floats:
    """Sample weights with mean 1: float32 (N, 1), or (N, C) for multi-label data.

    With `balanced`, labels are weighted by inverse frequency; for multi-label data, the positives of each label count as
    much as its negatives.
    """
    return sample_weights_from_counts(targets, targets.sum(axis=0), len(targets), multilabel, balanced)


def sample_weights_from_counts(targets: Floats, counts: Floats, n_images: int, multilabel: bool, balanced: bool) -> Floats:
    """As `sample_weights`, for a subset of `n_images` images with the label counts `counts` (C,)."""
    if not balanced:
        return np.ones((len(targets), 1), np.float32)
    if multilabel:
        positive, negative = n_images / 2 / np.maximum(counts, 1), n_images / 2 / np.maximum(n_images - counts, 1)
        weights: Floats = np.where(targets > 0, positive, negative).astype(np.float32)
        return weights
    class_weights: Floats = (n_images / np.count_nonzero(counts) / np.maximum(counts, 1)).astype(np.float32)
    return targets @ class_weights[:, None]
