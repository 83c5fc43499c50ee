"""Solver of linear heads: three losses, minimized with L-BFGS. Numpy and scipy, no torch.

One evaluation of the loss costs 4 N C D floating-point operations, for N images, C labels and features of width D. The number
of evaluations hardly depends on N and C, because the solver stops when the loss hardly decreases: gradients get smaller with
more labels, so a limit on them would stop the solver too early.

scikit-learn is not used: its linear SVM takes three times as long (2,500 images, 1,792 features, ten labels) and penalizes
the bias, which distorts strong regularization. Its logistic regression has no multi-label loss, and it drops a label that is
missing from a fold. The tests compare these results with scikit-learn's.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]

from graft.service.inference.thread_map import ordered_map

ROW_BLOCK = 1024  # rows of one matrix product: its logits of 1,000 labels fit in the CPU cache
MIN_RELATIVE_LOSS = 0.01  # of the loss of zero parameters; below that the images are memorized, and only the weights grow
STALL_WINDOW = 5  # iterations over which the decrease of the loss is measured; a single one may be a short step

Block = TypeVar("Block", slice, NDArray[np.intp])  # rows
Kind = Literal["logistic", "svm"]
Floats = NDArray[np.float32]
Parameters = NDArray[np.float64]  # (C, D + 1): one row per label, its bias last
Loss = Callable[[Floats, Floats], tuple[Floats, Floats]]
LossAndGrad = tuple[float, Floats]


def fit_lbfgs(
    loss: Loss,
    vectors: Floats,
    targets: Floats,
    weights: Floats,
    penalty: float,
    init: Parameters | None = None,
    tolerance: float = 1e-4,
    n_threads: int = 1,
    on_iteration: Callable[[], object] | None = None,
) -> Parameters:
    """Fits parameters (C, D + 1) that minimize the mean loss plus `penalty / 2` times the squared weights, without the biases.

    Args:
        loss: one of this module's losses.
        vectors: float32 (n, D), standardized.
        targets: one-hot or multi-hot targets, float32 (n, C).
        weights: sample weights, float32 (n, 1) or (n, C).
        penalty: L2 penalty, above 0.
        init: initial parameters, such as the solution for a larger penalty; None for zeros.
        tolerance: the solver stops when STALL_WINDOW iterations decrease the loss by less than this fraction, both of the loss
            and of its total decrease from zero parameters; with strong regularization, only the second is small.
        n_threads: how many blocks of rows are evaluated at the same time.
        on_iteration: called after every iteration.
    """
    n_samples, width = vectors.shape
    blocks = [slice(start, start + ROW_BLOCK) for start in range(0, n_samples, ROW_BLOCK)]

    def evaluate(parameters: Floats) -> LossAndGrad:
        return sum_blocks(
            lambda rows: loss_and_grad(loss, vectors[rows], targets[rows], weights[rows], parameters), blocks, n_threads
        )

    initial = np.zeros((targets.shape[1], width + 1)) if init is None else init
    return fit_lbfgs_streamed(evaluate, n_samples, initial, penalty, tolerance, on_iteration)


def sum_blocks(evaluate: Callable[[Block], LossAndGrad], blocks: Sequence[Block], n_threads: int) -> LossAndGrad:
    """The sum of the losses and gradients of all blocks of rows; every thread sums its own, so that few are in memory."""

    def sum_share(share: Sequence[Block]) -> LossAndGrad:
        total, gradient = evaluate(share[0])
        for block in share[1:]:
            block_loss, block_gradient = evaluate(block)
            total += block_loss
            gradient += block_gradient
        return total, gradient

    n_threads = min(n_threads, len(blocks))
    if n_threads == 1:
        return sum_share(blocks)
    shares = list(ordered_map(sum_share, [blocks[thread::n_threads] for thread in range(n_threads)], n_threads))
    return sum(loss for loss, _ in shares), np.add.reduce([gradient for _, gradient in shares])


def loss_and_grad(loss: Loss, vectors: Floats, targets: Floats, weights: Floats, parameters: Floats) -> LossAndGrad:
    """The weighted sum of the losses, and its gradient with respect to the parameters, both float32 (C, D + 1)."""
    weight = parameters[:, :-1]
    losses, logit_gradients = loss(vectors @ weight.T + parameters[:, -1], targets)
    logit_gradients *= weights
    gradient = np.empty_like(parameters)
    np.matmul(logit_gradients.T, vectors, out=gradient[:, :-1])
    gradient[:, -1] = logit_gradients.sum(axis=0)
    return float((weights * losses).sum(dtype=np.float64)), gradient


def fit_lbfgs_streamed(
    sum_loss_and_grad: Callable[[Floats], LossAndGrad],
    n_samples: int,
    init: Parameters,
    penalty: float,
    tolerance: float,
    on_iteration: Callable[[], object] | None = None,
) -> Parameters:
    """As `fit_lbfgs`, for a loss that the caller computes, for example in chunks.

    Args:
        sum_loss_and_grad: maps parameters float32 (C, D + 1) to the sum of all losses and its gradient float32 (C, D + 1).
        n_samples: number of samples in the sum.
        init: initial parameters.
        tolerance, on_iteration: as for `fit_lbfgs`.
    """

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = flat.reshape(init.shape)
        # Memory bandwidth is the bottleneck, and float32 halves it; the solver itself needs float64.
        total, single = sum_loss_and_grad(parameters.astype(np.float32))
        gradient = single.astype(np.float64)
        gradient /= n_samples
        gradient[:, :-1] += penalty * parameters[:, :-1]
        return total / n_samples + penalty / 2 * float((parameters[:, :-1] ** 2).sum()), gradient.ravel()

    loss_of_zeros = objective(np.zeros(init.size))[0]
    losses: deque[float] = deque(maxlen=STALL_WINDOW + 1)

    def stop_if_stalled(intermediate_result: OptimizeResult) -> None:
        if on_iteration is not None:
            on_iteration()
        losses.append(float(intermediate_result.fun))
        scale = min(max(losses[-1], MIN_RELATIVE_LOSS * loss_of_zeros), loss_of_zeros - losses[-1])
        if len(losses) > STALL_WINDOW and losses[0] - losses[-1] <= tolerance * scale:
            raise StopIteration  # ends the minimization with the current solution

    options = {"maxiter": 1000, "maxfun": 2000, "gtol": 1e-9, "ftol": 1e-12}
    result = minimize(objective, init.ravel(), jac=True, method="L-BFGS-B", options=options, callback=stop_if_stalled)
    solution: Parameters = result.x.reshape(init.shape)
    return solution


def cross_entropy(logits: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Softmax cross-entropy (n, 1), and its gradient with respect to the logits (n, C)."""
    # Not via `softmax`: the logarithm of a probability that underflows to 0 is -inf.
    shifted = logits - logits.max(axis=1, keepdims=True)
    of_target = np.einsum("nc,nc->n", targets, shifted)
    gradient = np.exp(shifted, out=shifted)
    sums = gradient.sum(axis=1, keepdims=True)
    gradient /= sums
    gradient -= targets
    return np.log(sums) - of_target[:, None], gradient


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
