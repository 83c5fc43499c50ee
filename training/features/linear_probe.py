"""Linear probe: trains a linear head on features, with regularization selected by cross-validation. No torch.

Targets are labels int (N,), or bool (N, C) for multi-label data. Heads are compared by their held-out log-loss after
temperature scaling. It is less noisy than accuracy on small sets, it can compare an SVM's margins with logits, and a package
calibrates its logits anyway.

In shapes, C is the number of labels. As a parameter, `C` is the inverse regularization strength, as in scikit-learn.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import MAPS_OUTPUT
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.thread_map import ordered_map
from graft.training.backbones.onnx_cache import STAGES
from graft.training.data.cross_validation import Fold, Groups, Targets, stratified_group_kfold, stratified_subset, take_groups
from graft.training.features import streaming_solver
from graft.training.features.feature_arrays import CHUNK_SIZE, LazyFeatures, Vectors
from graft.training.features.linear_solver import (
    Floats,
    Kind,
    Loss,
    Parameters,
    fit_lbfgs,
    get_loss,
    one_hot,
    sample_weights,
    sigmoid,
    softmax,
)
from graft.training.features.streaming_solver import Standardizer

if TYPE_CHECKING:
    import onnx


C_GRID = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-4.5, 1.01, 0.5))  # scikit-learn's C
N_BLAS_THREADS = 1  # for BLAS: matrices are small, and on a busy machine more threads wait for each other (50 times slower)
MAX_IN_MEMORY = 2**23  # elements of one copy of the training features: 32 MB as float32
MAX_CV_IMAGES = 5_000  # images in cross-validation; the best C hardly changes with more, and the cost is linear in them
CV_TOLERANCE, FINAL_TOLERANCE = 1e-3, 1e-4  # gradient tolerance: in cross-validation, and for a final head
ALL_COLUMNS = (slice(None),)


@dataclass(frozen=True)
class Head:
    """A linear head: `logits = vectors @ weight.T + bias`.

    Attributes:
        weight: float32 (C, D), for raw vectors: the standardization is folded in.
        bias: float32 (C,).
        C: inverse regularization strength on standardized vectors, as scikit-learn's C.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    C: float

    def __call__(self, vectors: Vectors) -> NDArray[np.float32]:
        """Logits float32 (N, C) of vectors (N, D)."""
        if isinstance(vectors, LazyFeatures):
            return np.concatenate([self(chunk) for chunk in vectors.chunks()])
        return vectors @ self.weight.T + self.bias


@dataclass(frozen=True)
class CVScore:
    """Cross-validated scores of one C: calibrated log-loss and accuracy."""

    loss: float
    accuracy: float


def cross_validate(
    vectors: Vectors,
    targets: Targets,
    n_folds: int,
    seed: int,
    kind: Kind = "logistic",
    balanced: bool = False,
    groups: Groups = None,
) -> dict[float, float]:
    """The calibrated log-loss of each C by stratified grouped cross-validation; `one_percent_rule` selects from them.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are trained on, only the first is evaluated.
        targets: int (N,) or bool (N, C).
        n_folds: number of folds.
        seed: of the shuffle.
        kind: "logistic" or "svm".
        balanced: whether to weight labels by inverse frequency.
        groups: group of each image; a group is in one fold, so that duplicates do not leak.
    """
    mean, scale = mean_and_scale(vectors)
    sampled = stratified_subset(targets, MAX_CV_IMAGES, seed)
    trainer = HeadTrainer(standardize(vectors[:, sampled], mean, scale), targets[sampled], kind, balanced)
    path = trainer.regularization_path(
        stratified_group_kfold(targets[sampled], n_folds, seed, take_groups(groups, sampled)), C_GRID
    )
    return {C: score.loss for C, score in path.items()}


def fit(
    vectors: Vectors,
    targets: Targets,
    C: float,
    kind: Kind = "logistic",
    scale_groups: Sequence[slice] = ALL_COLUMNS,
    balanced: bool = False,
) -> Head:
    """Trains a head on V views of N images, vectors (V, N, D). Features too large for memory are read from disk.

    Args:
        targets: int (N,) or bool (N, C).
        C: inverse regularization strength.
        kind: "logistic" (softmax, or one sigmoid per label for bool targets) or "svm" (squared hinge).
        scale_groups: column ranges; the columns of a range share one scale.
        balanced: whether to weight labels by inverse frequency.
    """
    mean, scale = mean_and_scale(vectors, scale_groups)
    if isinstance(vectors, LazyFeatures) and vectors.size > MAX_IN_MEMORY:
        penalty = 1 / (C * len(targets))
        with _limit_blas_threads():
            parameters = streaming_solver.fit_streamed(
                vectors, targets, Standardizer(mean, scale), kind, balanced, penalty, FINAL_TOLERANCE
            )
    else:
        trainer, images = HeadTrainer(standardize(vectors[:, :], mean, scale), targets, kind, balanced), np.arange(len(targets))
        _, [parameters] = trainer.fit_folds([(images, images[:0])], C, [None], FINAL_TOLERANCE)
    folded = Standardizer(mean, scale).fold(parameters).astype(np.float32)
    return Head(np.ascontiguousarray(folded[:, :-1]), folded[:, -1].copy(), C)


def out_of_fold_probabilities(
    vectors: Floats,
    targets: Targets,
    C: float,
    n_folds: int,
    seed: int,
    kind: Kind = "logistic",
    groups: Groups = None,
) -> Floats:
    """Out-of-fold calibrated probabilities float32 (N, C): each image is predicted by a head trained on the other folds.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are trained on, the first is predicted.
        targets: int (N,) or bool (N, C).
        groups: as for `cross_validate`.
    """
    trainer = HeadTrainer(standardize(vectors, *mean_and_scale(vectors)), targets, kind, balanced=False)
    del vectors  # frees memory unless the caller keeps a reference; the folds need as much again
    logits, _ = trainer.fit_folds(stratified_group_kfold(targets, n_folds, seed, groups), C, [None] * n_folds, FINAL_TOLERANCE)
    scaled_logits = logits / np.float32(fit_temperature(trainer.eval_loss, logits, trainer.one_hot_targets)[0])
    return sigmoid(scaled_logits) if targets.ndim == 2 else softmax(scaled_logits)


class HeadTrainer:
    """Trains many heads on subsets of the same standardized features.

    Args:
        features: float32 (V, N, D): V views of N images.
        targets: int (N,) or bool (N, C).
    """

    def __init__(self, features: Floats, targets: Targets, kind: Kind, balanced: bool) -> None:
        self.features, self.one_hot_targets, self._multilabel = features, one_hot(targets), targets.ndim == 2
        self._loss, self.eval_loss = get_loss(kind, self._multilabel), get_loss("logistic", self._multilabel)
        self._weights = sample_weights(self.one_hot_targets, self._multilabel, balanced)

    def fit(self, images: NDArray[np.intp], C: float, init: Parameters | None, tolerance: float) -> Parameters:
        """Parameters (C, D + 1) of a head trained on some images; `init` is a warm start."""
        n_views, n_images, width = self.features.shape
        subset_features = self.features if len(images) == n_images else self.features[:, images]  # no copy of the full set
        flat = subset_features.reshape(-1, width)
        targets, weights = (np.tile(array[images], (n_views, 1)) for array in (self.one_hot_targets, self._weights))
        # Views of one image are not independent samples, so together they count as one in the penalty.
        return fit_lbfgs(self._loss, flat, targets, weights, 1 / (C * len(images)), init, tolerance)

    def fit_folds(
        self, folds: Sequence[Fold], C: float, inits: Sequence[Parameters | None], tolerance: float = CV_TOLERANCE
    ) -> tuple[Floats, list[Parameters]]:
        """Trains one head per fold; returns the held-out logits float32 (N, C), NaN elsewhere, and each fold's parameters."""
        jobs = [(train, start) for (train, _), start in zip(folds, inits, strict=True)]
        with _limit_blas_threads():  # outside the threads, because the limit applies to the whole process
            solutions = list(ordered_map(lambda job: self.fit(job[0], C, job[1], tolerance), jobs, available_cpus()))
        logits = np.full(self.one_hot_targets.shape, np.nan, np.float32)
        for (_, held_out), solution in zip(folds, solutions, strict=True):
            weight, bias = solution[:, :-1].astype(np.float32), solution[:, -1].astype(np.float32)
            logits[held_out] = self.features[0, held_out] @ weight.T + bias
        return logits, solutions

    def regularization_path(self, folds: Sequence[Fold], C_values: Sequence[float]) -> dict[float, CVScore]:
        """The regularization path: scores by C, from strong to weak regularization, each warm-started from the previous one."""
        held_out = np.sort(np.concatenate([indices for _, indices in folds]))
        starts: Sequence[Parameters | None] = [None] * len(folds)
        scores: dict[float, CVScore] = {}
        for C in C_values:
            logits, starts = self.fit_folds(folds, C, starts)
            loss = fit_temperature(self.eval_loss, logits[held_out], self.one_hot_targets[held_out])[1]
            scores[C] = CVScore(loss, self._accuracy(logits[held_out], self.one_hot_targets[held_out]))
            if is_overfitting([score.loss for score in scores.values()]):
                break
        return scores

    def _accuracy(self, logits: Floats, targets: Floats) -> float:
        correct = (logits > 0) == (targets > 0) if self._multilabel else logits.argmax(axis=1) == targets.argmax(axis=1)
        return float(correct.mean())


def one_percent_rule(losses: Mapping[float, float]) -> float:
    """Selects C: the strongest regularization with a loss at most 1 % above the lowest.

    For separable data the loss becomes flat towards weak regularization, so the exact minimum is arbitrary. There the
    weights only grow, and temperature scaling reverses that.
    """
    lowest = min(losses.values())
    return min(C for C, loss in losses.items() if loss <= 1.01 * lowest)


def is_overfitting(losses: Sequence[float]) -> bool:
    """Whether weaker regularization would only overfit more and converge more slowly.

    It would after two steps above the minimum, or after five steps without an improvement, as with random labels. Fewer
    steps could be the flat start of the path, where regularization is so strong that only the norm of the weights changes.
    """
    return min(losses[-2:]) > 1.001 * min(losses) or (len(losses) > 5 and min(losses[-5:]) > 0.999 * min(losses[:-5]))


def mean_and_scale(vectors: Vectors, scale_groups: Sequence[slice] = ALL_COLUMNS) -> tuple[Floats, Floats]:
    """Mean and scale float32 (D,) of the first view of (V, N, D); the columns of a range share one scale.

    A scale per column would amplify columns that are almost always zero.
    """
    n_images, scale = vectors.shape[1], np.ones(vectors.shape[-1], np.float32)
    chunks = [slice(start, start + CHUNK_SIZE) for start in range(0, n_images, CHUNK_SIZE)]
    mean: Floats = (sum(vectors[0, chunk].sum(axis=0, dtype=np.float64) for chunk in chunks) / n_images).astype(np.float32)
    deviations = (vectors[0, chunk] - mean for chunk in chunks)
    std = np.sqrt(sum((deviation * deviation).sum(axis=0, dtype=np.float64) for deviation in deviations) / n_images)
    for columns in scale_groups:
        scale[columns] = float(std[columns].mean()) or 1.0
    return mean, scale


def standardize(vectors: Floats, mean: Floats, scale: Floats) -> Floats:
    """Standardizes features; allocates exactly one copy."""
    standardized: Floats = vectors - mean
    standardized /= scale
    return standardized


def _limit_blas_threads() -> AbstractContextManager[object]:
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(N_BLAS_THREADS)
    return limits


def fit_temperature(loss: Loss, logits: Floats, targets: Floats) -> tuple[float, float]:
    """Fits the temperature of logits (N, C); returns it and the mean loss with it."""
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    def mean_loss(log_temperature: float) -> float:
        return float(loss(logits / np.float32(np.exp(log_temperature)), targets)[0].sum(dtype=np.float64)) / len(logits)

    result = minimize_scalar(mean_loss, bounds=(-9, 9), method="bounded", options={"xatol": 0.01})
    return float(np.exp(result.x)), float(result.fun)


def append_head(graph: Path, head: Head, head_input: Literal["last", "all"] = "last") -> bytes:
    """Appends the head to a backbone's ONNX file; keeps the outputs `logits`, `vectors` and the head's feature maps.

    Args:
        graph: ONNX file with the output `vectors`, optionally `stages` and feature maps.
        head_input: the head's input: "last" for the vectors, "all" for the stages followed by the vectors.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph)
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    features, names = VECTORS, [output.name for output in model.graph.output]
    if head_input == "all" and STAGES in names:
        features = "head_input"
        model.graph.node.append(helper.make_node("Concat", [STAGES, VECTORS], [features], axis=1))
    model.graph.node.append(helper.make_node("Gemm", [features, *tensors], [LOGITS], transB=1))
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", len(head.bias)])
    maps = [name for name in names if name == MAPS_OUTPUT or (head_input == "all" and name.endswith(MAPS_OUTPUT))]
    outputs = [output for output in model.graph.output if output.name in (VECTORS, *maps)]
    del model.graph.output[:]
    model.graph.output.extend([logits, *outputs])
    _remove_unused(model.graph)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _remove_unused(graph: "onnx.GraphProto") -> None:
    """Removes nodes and tensors that no output needs, such as the pooling of unused stages."""
    needed, nodes = {output.name for output in graph.output}, []
    for node in reversed(graph.node):  # nodes are in topological order
        if needed & set(node.output):
            nodes.append(node)
            needed |= _input_names(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(tensors)


def _input_names(node: "onnx.NodeProto") -> set[str]:
    """The names of a node's inputs, including those of its subgraphs."""
    subgraph_inputs = (_input_names(inner) for attribute in node.attribute for inner in attribute.g.node)
    return set(node.input).union(*subgraph_inputs)
