"""Strategies that train a linear head on frozen features: `probe`, `svm` and `stages`. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import VECTORS, Outputs, Pixels
from graft.service.inference.head import Head
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import KernelShape
from graft.training.backbones.onnx_cache import STAGES
from graft.training.config import hyperparameters
from graft.training.data.cross_validation import Fold, Targets, stratified_group_kfold
from graft.training.data.dataset import Sample
from graft.training.evaluation import outliers
from graft.training.evaluation.calibration import CalibrationSet
from graft.training.evaluation.label_frequencies import equal_frequencies, log_ratio
from graft.training.evaluation.outliers import SharedClusters
from graft.training.evaluation.predictions import Predictions
from graft.training.features import regularization, stage_selection
from graft.training.features.feature_arrays import Vectors, map_rows, select_columns
from graft.training.features.linear_solver import Kind
from graft.training.features.onnx_head import append_head
from graft.training.features.stage_selection import Candidate, Selection
from graft.training.runtime.progress import log, step
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.label_prior import shift_head
from graft.training.strategies.trained_model import TrainedModel, calibrate_and_score

# With more images, their validation images are enough to calibrate on; with more logits, heads for them take minutes.
MAX_OUT_OF_FOLD_IMAGES, MAX_OUT_OF_FOLD_LOGITS = 5_000, 500_000

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ProbeResult:
    """Result of training a head. Fine-tuning starts from that of `probe` and is compared with it.

    Attributes:
        train_head: the head trained on the train split alone.
        final_head: the head trained on train and validation, with the hyperparameters selected on train.
        validation_logits: logits of the first head on validation, float32 (N, C).
        held_out: the samples that calibration uses.
        held_out_logits: their logits by heads that were not trained on them, float32 (M, C).
        test_logits: logits of the final head on test, float32 (N, C); of the head as served, once it is exported.
        selection: the feature set and kind of head selected by cross-validation on train.
        strategy: `probe`, `svm`, `stages` or `kernel`.
        balanced: whether the heads learned as if all labels were equally frequent.
    """

    train_head: Head
    final_head: Head
    validation_logits: Floats
    held_out: tuple[Sample, ...]
    held_out_logits: Floats
    test_logits: Floats
    selection: Selection
    strategy: str = "probe"
    balanced: bool = False


def fit_probe(context: TrainingContext, strategy: str = "probe") -> ProbeResult:
    """Trains a linear head on the last features (`probe`, `svm`) or on cross-validated features (`stages`)."""
    splits, slices = context.splits, context.features.slices
    features, targets = context.view_features(splits.train), context.targets(splits.train)
    balanced = is_balanced(context)
    selection = _select_features(context, strategy, features, targets, balanced)
    best = selection.best
    train_head = stage_selection.fit_candidate(best, features, slices, targets, balanced)
    samples = (*splits.train, *splits.validation)
    final_head = stage_selection.fit_candidate(
        best, context.view_features(samples), slices, context.targets(samples), balanced, init=train_head
    )
    validation = context.features.select(splits.validation, feature_set=best.head_input)
    test = context.features.select(splits.test, feature_set=best.head_input)
    validation_logits, test_logits = map_rows(train_head, validation), map_rows(final_head, test)
    held_out, held_out_logits = splits.validation, validation_logits
    if len(samples) <= MAX_OUT_OF_FOLD_IMAGES and len(samples) * len(context.dataset.labels) <= MAX_OUT_OF_FOLD_LOGITS:
        held_out, held_out_logits = samples, _out_of_fold_logits(context, best, samples, balanced)
    return ProbeResult(
        train_head, final_head, validation_logits, held_out, held_out_logits, test_logits, selection, strategy, balanced
    )


def previous_probe(context: TrainingContext) -> ProbeResult | None:
    """The head of the model that training starts from, unchanged.

    None without such a model, if its labels are others, or if it has learned from validation or test images, or may have.
    """
    start, splits = context.start, context.splits
    head = start.head_for(context.dataset.labels) if start else None
    if start is None or head is None:
        return None
    held_out = (*splits.validation, *splits.test)
    if not start.split_of or start.count(held_out, "train", "validation"):
        log("the model of --from is not a candidate itself: it has learned from validation or test images, or may have")
        return None
    feature_set = start.artifact.manifest.backbone.head_input
    vectors = [context.features.select(samples, feature_set=feature_set) for samples in (splits.validation, splits.test)]
    unknown = float("nan")
    candidate = Candidate(feature_set, "kernel" if head.kernel else "logistic", unknown, unknown, unknown, 0)
    validation_logits, test_logits = (map_rows(head, part) for part in vectors)
    selection = Selection(candidate, (candidate,))
    return ProbeResult(head, head, validation_logits, splits.validation, validation_logits, test_logits, selection, "previous")


@step("predicting out of fold")
def _out_of_fold_logits(context: TrainingContext, candidate: Candidate, samples: tuple[Sample, ...], balanced: bool) -> Floats:
    """Logits of each sample by a head that was trained on the other folds."""
    targets, folds = context.targets(samples), folds_to_predict(context, samples)
    return stage_selection.out_of_fold_logits(
        candidate, context.view_features(samples), context.features.slices, targets, folds, balanced
    )


def folds_to_predict(context: TrainingContext, samples: Sequence[Sample]) -> list[Fold]:
    """The folds to predict these samples out of."""
    n_folds = context.recipe.folds or hyperparameters.n_calibration_folds(min(context.dataset.counts(samples)))
    return stratified_group_kfold(context.targets(samples), n_folds, context.recipe.seed, groups_of(samples))


def is_balanced(context: TrainingContext) -> bool:
    """Whether heads on frozen features weight labels by inverse frequency."""
    return context.recipe.balance in ("weights", "sampling")


def groups_of(samples: Sequence[Sample]) -> list[bytes]:
    """The group of each sample; one without a group is its own."""
    return [sample.group or sample.digest for sample in samples]


def _select_features(context: TrainingContext, strategy: str, features: Vectors, targets: Targets, balanced: bool) -> Selection:
    """Selects the feature set, the kind of head and its regularization by grouped cross-validation."""
    smallest_class = min(context.dataset.counts(context.splits.train))
    n_folds = context.recipe.folds or hyperparameters.n_folds(smallest_class, len(targets))
    seed, groups = context.recipe.seed, groups_of(context.splits.train)
    slices = context.features.slices
    if strategy == "stages":
        return stage_selection.select_features(features, slices, targets, n_folds, seed, balanced, groups)
    kind: Kind = "svm" if strategy == "svm" else "logistic"
    losses = regularization.cross_validate(
        select_columns(features, slices["last"]), targets, n_folds, seed, kind, balanced, groups
    )
    best_C = regularization.one_percent_rule(losses)
    best = Candidate("last", kind, best_C, losses[best_C], float("nan"), len(targets))
    return Selection(best, (best,))


def starting_head(probe_result: ProbeResult, context: TrainingContext) -> Head:
    """The head trained on train, moved to the label frequencies with which fine-tuning learns, as its starting point."""
    head, balanced = probe_result.train_head, fine_tuning_is_balanced(context)
    if context.dataset.multilabel or balanced == probe_result.balanced:
        return head
    training = context.training_frequencies()
    to_equal = log_ratio(equal_frequencies(len(training)), training)
    return shift_head(head, to_equal if balanced else -to_equal)


def fine_tuning_is_balanced(context: TrainingContext) -> bool:
    """Whether fine-tuning learns as if all labels were equally frequent."""
    return context.recipe.balance not in (None, "none")


def export_probe(probe_result: ProbeResult, context: TrainingContext, baseline: ProbeResult | None = None) -> TrainedModel:
    """The probe as a model: the backbone's ONNX graph with the head appended.

    Args:
        baseline: a simpler head, with which the model's test score is compared.
    """
    from safetensors.numpy import load_file

    exported, splits, features = context.exported, context.splits, context.features
    backbone = OpenVinoModel(exported.graph, output_names=(STAGES, VECTORS))
    head, head_input = probe_result.final_head, probe_result.selection.best.head_input

    def network(batch: Pixels) -> Outputs:
        outputs = backbone(batch)
        names = [name for name in (STAGES, VECTORS) if name in outputs] if head_input == "all" else [VECTORS]
        return Outputs(head(np.concatenate([outputs[name] for name in names], axis=1)), outputs[VECTORS])

    references, held_out = context.reference_samples, probe_result.held_out
    neighbors = outliers.build_neighbors(references, features.select(references))
    k, held_out_vectors = outliers.outlier_k(len(references)), features.select(held_out)
    return calibrate_and_score(
        strategy=probe_result.strategy,
        backbone=exported.backbone.model_copy(update={"head_input": head_input, "kernel": _kernel_shape(head)}),
        preprocessing=exported.preprocessing,
        network=network,
        graph=append_head(exported.graph, head, head_input),
        weights=load_file(exported.weights) | head.to_tensors(),
        validation=Predictions.of(
            probe_result.validation_logits, features.select(splits.validation), context.dataset, splits.validation
        ),
        test=Predictions.of(probe_result.test_logits, features.select(splits.test), context.dataset, splits.test),
        neighbors=neighbors,
        held_out=CalibrationSet(
            Predictions.of(probe_result.held_out_logits, held_out_vectors, context.dataset, held_out),
            outliers.outlier_scores(neighbors, held_out_vectors, k, SharedClusters.of(held_out, references)),
            k,
        ),
        context=context,
        balanced=probe_result.balanced,
        probe_test_logits=None if baseline is None else baseline.test_logits,
    )


def _kernel_shape(head: Head) -> KernelShape | None:
    if head.kernel is None:
        return None
    n_centers, n_axes = head.kernel.centers.shape
    return KernelShape(axes=n_axes, centers=n_centers)
