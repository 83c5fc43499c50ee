"""Features -> a linear head: logistic regression whose strength cross-validation chose. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.engine import LOGITS, VECTORS

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-4.5, 1.01, 0.5))  # sklearn's C
ONE_THREAD = 1  # the products are small: more threads gain little, and on a busy machine wait for each other (50 times slower)
MOST_FOR_CHOOSING = 5_000  # images; the best strength hardly moves beyond, and the search grows with every one


@dataclass(frozen=True)
class Head:
    """`logits = vectors @ weight.T + bias`: every head of Graft is this.

    Attributes:
        weight: float32 (C, D), on raw vectors: the scaler is folded in.
        bias: float32 (C,).
        strength: the inverse regularisation (sklearn's C, on standardised vectors).
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strength: float

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 (N, C) of vectors (N, D)."""
        return vectors @ self.weight.T + self.bias


def choose_strength(vectors: NDArray[np.float32], labels: NDArray[np.int64], n_folds: int, seed: int) -> dict[float, float]:
    """The mean log-loss of each strength under stratified cross-validation; the smallest is the choice.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are learned from, only the first is judged by.
        labels: int (N,); every class in [0, C) occurs at least `n_folds` times.
        n_folds: how many parts.
        seed: of the shuffling.
    """
    from threadpoolctl import threadpool_limits

    chosen = _subset(labels, MOST_FOR_CHOOSING, seed)
    standard = (vectors - vectors[0].mean(axis=0)) / _scale(vectors)
    with threadpool_limits(ONE_THREAD):
        return _trials(standard[:, chosen], labels[chosen], n_folds, seed)


def fit(vectors: NDArray[np.float32], labels: NDArray[np.int64], strength: float) -> Head:
    """Multinomial logistic regression on V views of N images, (V, N, D); labels int (N,)."""
    from threadpoolctl import threadpool_limits

    mean, scale = vectors[0].mean(axis=0), _scale(vectors)
    with threadpool_limits(ONE_THREAD):
        model = _regression(strength, vectors, max_iter=2000, tol=1e-4).fit(*_flat((vectors - mean) / scale, labels))
    weight, bias = _multinomial(model.coef_, model.intercept_)
    folded = weight / scale
    return Head(folded.astype(np.float32), (bias - folded @ mean).astype(np.float32), strength)


def _scale(vectors: NDArray[np.float32]) -> float:
    # One scale for all columns: dividing each by its own would blow up those that hardly ever fire.
    return float(vectors[0].std(axis=0).mean()) or 1.0


def _flat(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return vectors.reshape(-1, vectors.shape[-1]), np.tile(labels, len(vectors))


def _regression(strength: float, vectors: NDArray[np.float32], **settings: float | bool) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    # Views of one image are not new evidence, so together they weigh as much as one.
    return LogisticRegression(C=strength / len(vectors), **settings)


def _trials(vectors: NDArray[np.float32], labels: NDArray[np.int64], n_folds: int, seed: int) -> dict[float, float]:
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold

    folds = list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(vectors[0], labels))
    models = [_regression(STRENGTHS[0], vectors, max_iter=300, tol=1e-3, warm_start=True) for _ in folds]
    trials: dict[float, float] = {}
    # From strong regularisation to weak, each fold's model starting where its last one ended.
    for strength in STRENGTHS:
        losses = []
        for model, (learn, check) in zip(models, folds, strict=True):
            model.set_params(C=strength / len(vectors)).fit(*_flat(vectors[:, learn], labels[learn]))
            losses.append(log_loss(labels[check], model.predict_proba(vectors[0, check]), labels=model.classes_))
        trials[strength] = float(np.mean(losses))
        if trials[strength] > 1.05 * min(trials.values()):
            break  # past the valley: weaker regularisation only overfits more, and converges more slowly
    return trials


def _subset(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.intp]:
    """Indices of at most `most` images, stratified; all of them if there are no more."""
    if len(labels) <= most:
        return np.arange(len(labels))
    from sklearn.model_selection import train_test_split

    chosen: NDArray[np.intp] = train_test_split(np.arange(len(labels)), train_size=most, stratify=labels, random_state=seed)[0]
    return chosen


def _multinomial(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One row per class; sklearn gives a single row for two classes, the second's logit minus the first's."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def with_head(graph: Path, head: Head) -> bytes:
    """A backbone's ONNX file with the head appended as the output `logits`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph)
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    model.graph.node.append(helper.make_node("Gemm", [VECTORS, *tensors], [LOGITS], transB=1))
    model.graph.output.insert(0, helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", len(head.bias)]))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
