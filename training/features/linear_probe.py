"""Features -> a linear head whose regularisation cross-validation chose. No torch.

Targets are labels int (N,), or bool (N, C) where an image may have several labels. One number judges every head: its
log-loss on images it did not learn from, after the temperature that suits it best. It says more of few images than
accuracy does, it can compare an SVM's margins with logits, and a package calibrates its logits anyway.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import MAPS
from graft.service.inference.devices import cores
from graft.service.inference.engine import LOGITS, VECTORS
from graft.training.backbones.onnx_cache import STAGES
from graft.training.data.cross_validation import Groups, Part, Targets, among, deal, subset
from graft.training.features import streaming_solver
from graft.training.features.feature_arrays import PIECE, Rows, Vectors
from graft.training.features.linear_solver import (
    Floats,
    Kind,
    Loss,
    Parameters,
    loss_of,
    minimise,
    one_hot,
    sigmoid,
    softmax,
    weights_of,
)
from graft.training.features.streaming_solver import Standard
from graft.training.runtime.thread_map import each

if TYPE_CHECKING:
    import onnx


STRENGTHS = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-4.5, 1.01, 0.5))  # scikit-learn's C
ONE_THREAD = 1  # the products are small: more threads gain little, and on a busy machine wait for each other (50 times slower)
MOST_IN_MEMORY = 2**23  # numbers that a head is learned from, in one copy: 32 MB
MOST_FOR_CHOOSING = 5_000  # images; the best strength hardly moves beyond, and the search grows with every one
ROUGH, FINE = 1e-3, 1e-4  # slopes left: while searching, and of a head that is kept
WHOLE = (slice(None),)


@dataclass(frozen=True)
class Head:
    """`logits = vectors @ weight.T + bias`: every head of Graft is this.

    Attributes:
        weight: float32 (C, D), on raw vectors: the scaler is folded in.
        bias: float32 (C,).
        strength: the inverse regularisation, on standardised vectors: scikit-learn's C, with one row for each label.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    strength: float

    def __call__(self, vectors: Vectors) -> NDArray[np.float32]:
        """Logits float32 (N, C) of vectors (N, D)."""
        if isinstance(vectors, Rows):
            return np.concatenate([self(piece) for piece in vectors.pieces()])
        return vectors @ self.weight.T + self.bias


@dataclass(frozen=True)
class Trial:
    """How one strength did on images not learned from: calibrated log-loss, and the share of right answers."""

    loss: float
    accuracy: float


def choose_strength(
    vectors: Vectors,
    targets: Targets,
    n_folds: int,
    seed: int,
    kind: Kind = "logistic",
    balanced: bool = False,
    groups: Groups = None,
) -> dict[float, float]:
    """The calibrated log-loss of each strength under stratified cross-validation; `preferred` makes the choice.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are learned from, only the first is judged by.
        targets: int (N,) or bool (N, C).
        n_folds: how many parts.
        seed: of the shuffling.
        kind: what the head minimises.
        balanced: whether rare labels weigh as much as frequent ones.
        groups: of each image; a group is never torn apart, so that no copy of an image answers for it.
    """
    mean, scale = standard(vectors)
    kept = subset(targets, MOST_FOR_CHOOSING, seed)
    search = Search(scaled(vectors[:, kept], mean, scale), targets[kept], kind, balanced)
    trials = search.trials(deal(targets[kept], n_folds, seed, among(groups, kept)), STRENGTHS)
    return {strength: trial.loss for strength, trial in trials.items()}


def fit(
    vectors: Vectors,
    targets: Targets,
    strength: float,
    kind: Kind = "logistic",
    blocks: Sequence[slice] = WHOLE,
    balanced: bool = False,
) -> Head:
    """A head learned from V views of N images, vectors (V, N, D). Features on disk that are large stay there.

    Args:
        targets: int (N,) or bool (N, C).
        strength: the inverse regularisation.
        kind: "logistic" (a softmax, or with bool targets each label on its own) or "svm" (squared hinge).
        blocks: columns that are brought to one scale together.
        balanced: whether rare labels weigh as much as frequent ones.
    """
    mean, scale = standard(vectors, blocks)
    if isinstance(vectors, Rows) and vectors.size > MOST_IN_MEMORY:
        penalty = 1 / (strength * len(targets))
        with _one_thread():
            rows = streaming_solver.learn(vectors, targets, Standard(mean, scale), kind, balanced, penalty, FINE)
    else:
        search, everything = Search(scaled(vectors[:, :], mean, scale), targets, kind, balanced), np.arange(len(targets))
        _, [rows] = search.round([(everything, everything[:0])], strength, [None], FINE)
    folded = Standard(mean, scale).folded(rows).astype(np.float32)
    return Head(np.ascontiguousarray(folded[:, :-1]), folded[:, -1].copy(), strength)


def out_of_fold(
    vectors: Floats,
    targets: Targets,
    strength: float,
    n_folds: int,
    seed: int,
    kind: Kind = "logistic",
    groups: Groups = None,
) -> Floats:
    """Calibrated probabilities float32 (N, C) of every image, from a head that learned from the other parts only.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are learned from, the first is asked about.
        targets: int (N,) or bool (N, C).
        groups: as for `choose_strength`.
    """
    search = Search(scaled(vectors, *standard(vectors)), targets, kind, balanced=False)
    del vectors  # nobody else may hold them, and the parts to learn from take as much again
    logits, _ = search.round(deal(targets, n_folds, seed, groups), strength, [None] * n_folds, FINE)
    cooled = logits / np.float32(calibration(search.judge, logits, search.wanted)[0])
    return sigmoid(cooled) if targets.ndim == 2 else softmax(cooled)


class Search:
    """Standardised features with their targets, to learn many heads from parts of them.

    Args:
        scaled: float32 (V, N, D): V views of N images.
        targets: int (N,) or bool (N, C).
    """

    def __init__(self, scaled: Floats, targets: Targets, kind: Kind, balanced: bool) -> None:
        self.scaled, self.wanted, self._multilabel = scaled, one_hot(targets), targets.ndim == 2
        self._loss, self.judge = loss_of(kind, self._multilabel), loss_of("logistic", self._multilabel)
        self._weights = weights_of(self.wanted, self._multilabel, balanced)

    def learn(self, images: NDArray[np.intp], strength: float, start: Parameters | None, tolerance: float) -> Parameters:
        """Rows (C, D + 1) learned from some images, from where an earlier search ended."""
        n_views, n_images, width = self.scaled.shape
        some = self.scaled if len(images) == n_images else self.scaled[:, images]  # all of a million are not copied again
        flat = some.reshape(-1, width)
        wanted, weights = (np.tile(array[images], (n_views, 1)) for array in (self.wanted, self._weights))
        # Views of one image are not new evidence, so together they weigh as much as one.
        return minimise(self._loss, flat, wanted, weights, 1 / (strength * len(images)), start, tolerance)

    def round(
        self, parts: Sequence[Part], strength: float, starts: Sequence[Parameters | None], tolerance: float = ROUGH
    ) -> tuple[Floats, list[Parameters]]:
        """Logits float32 (N, C) of the images judged by, NaN for the others; and each part's rows."""
        jobs = [(learned, start) for (learned, _), start in zip(parts, starts, strict=True)]
        with _one_thread():  # out here, because the limit is the whole process's
            found = list(each(lambda job: self.learn(job[0], strength, job[1], tolerance), jobs, cores()))
        logits = np.full(self.wanted.shape, np.nan, np.float32)
        for (_, judged), rows in zip(parts, found, strict=True):
            logits[judged] = self.scaled[0, judged] @ rows[:, :-1].T.astype(np.float32) + rows[:, -1].astype(np.float32)
        return logits, found

    def trials(self, parts: Sequence[Part], strengths: Sequence[float]) -> dict[float, Trial]:
        """What came of each strength, from strong regularisation to weak, each starting from where the last one ended."""
        judged = np.sort(np.concatenate([part for _, part in parts]))
        starts: Sequence[Parameters | None] = [None] * len(parts)
        trials: dict[float, Trial] = {}
        for strength in strengths:
            logits, starts = self.round(parts, strength, starts)
            loss = calibration(self.judge, logits[judged], self.wanted[judged])[1]
            trials[strength] = Trial(loss, self._accuracy(logits[judged], self.wanted[judged]))
            if past_the_valley([trial.loss for trial in trials.values()]):
                break
        return trials

    def _accuracy(self, logits: Floats, wanted: Floats) -> float:
        right = (logits > 0) == (wanted > 0) if self._multilabel else logits.argmax(axis=1) == wanted.argmax(axis=1)
        return float(right.mean())


def preferred(losses: Mapping[float, float]) -> float:
    """The strength to take: of those whose losses differ from the lowest by less than 1 %, the strongest regularisation.

    Where images can be told apart perfectly the losses end in a plain, and its far end is chosen by luck; there the
    weights only grow, and the temperature takes it back.
    """
    lowest = min(losses.values())
    return min(strength for strength, loss in losses.items() if loss <= 1.01 * lowest)


def past_the_valley(losses: Sequence[float]) -> bool:
    """Whether still weaker regularisation would only overfit more, and converge more slowly.

    Two steps uphill say so; so do five that brought nothing, as where labels are noise. Fewer might be the plain before
    the valley, where regularisation is so strong that weights change in size only.
    """
    return min(losses[-2:]) > 1.001 * min(losses) or (len(losses) > 5 and min(losses[-5:]) > 0.999 * min(losses[:-5]))


def standard(vectors: Vectors, blocks: Sequence[slice] = WHOLE) -> tuple[Floats, Floats]:
    """Mean and scale float32 (D,) of the first view of (V, N, D); the columns of a block share one scale.

    Dividing each column by its own would blow up those that hardly ever fire.
    """
    n_images, scale = vectors.shape[1], np.ones(vectors.shape[-1], np.float32)
    pieces = [slice(start, start + PIECE) for start in range(0, n_images, PIECE)]
    mean: Floats = (sum(vectors[0, piece].sum(axis=0, dtype=np.float64) for piece in pieces) / n_images).astype(np.float32)
    apart = (vectors[0, piece] - mean for piece in pieces)
    spread = np.sqrt(sum((each * each).sum(axis=0, dtype=np.float64) for each in apart) / n_images)
    for block in blocks:
        scale[block] = float(spread[block].mean()) or 1.0
    return mean, scale


def scaled(vectors: Floats, mean: Floats, scale: Floats) -> Floats:
    """Standardised features, in new memory for one copy of them and no more."""
    found: Floats = vectors - mean
    found /= scale
    return found


def _one_thread() -> AbstractContextManager[object]:
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(ONE_THREAD)
    return limits


def calibration(loss: Loss, logits: Floats, wanted: Floats) -> tuple[float, float]:
    """The temperature that suits logits (N, C) best, and the mean log-loss that is left then."""
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    def cost(log_temperature: float) -> float:
        return float(loss(logits / np.float32(np.exp(log_temperature)), wanted)[0].sum(dtype=np.float64)) / len(logits)

    found = minimize_scalar(cost, bounds=(-9, 9), method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x)), float(found.fun)


def with_head(graph: Path, head: Head, sees: Literal["last", "all"] = "last") -> bytes:
    """A backbone's ONNX file with the head appended: `logits`, `vectors`, the maps behind what the head sees, no more.

    Args:
        graph: with the outputs `vectors`, perhaps `stages`, and perhaps the maps behind these.
        sees: whether the head takes the vectors, or the stages with the vectors after them.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph)
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    seen, names = VECTORS, [output.name for output in model.graph.output]
    if sees == "all" and STAGES in names:
        seen = "seen"
        model.graph.node.append(helper.make_node("Concat", [STAGES, VECTORS], [seen], axis=1))
    model.graph.node.append(helper.make_node("Gemm", [seen, *tensors], [LOGITS], transB=1))
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", len(head.bias)])
    explained = [name for name in names if name == MAPS or (sees == "all" and name.endswith(MAPS))]
    kept = [output for output in model.graph.output if output.name in (VECTORS, *explained)]
    del model.graph.output[:]
    model.graph.output.extend([logits, *kept])
    _prune(model.graph)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _prune(graph: "onnx.GraphProto") -> None:
    """Leaves out what no output needs, such as means of stages that the head does not see."""
    needed, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):  # every node stands behind those that it needs
        if needed & set(node.output):
            kept.append(node)
            needed |= _named(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)


def _named(node: "onnx.NodeProto") -> set[str]:
    """What a node takes, its branches' insides included."""
    inside = (_named(inner) for attribute in node.attribute for inner in attribute.g.node)
    return set(node.input).union(*inside)
