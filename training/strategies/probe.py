"""Strategies that train a linear head on frozen features: `probe`, `svm` and `stages`. No torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import VECTORS, Outputs, Pixels
from graft.service.inference.openvino import Graph
from graft.training.backbones.onnx_cache import STAGES
from graft.training.config import hyperparameters
from graft.training.data.cross_validation import Targets
from graft.training.evaluation import calibration
from graft.training.evaluation.predictions import Answered
from graft.training.features import linear_probe, stage_selection
from graft.training.features.feature_arrays import Vectors, columns_of
from graft.training.features.linear_probe import Head
from graft.training.features.linear_solver import Kind
from graft.training.features.stage_selection import Candidate, Chosen
from graft.training.strategies.context import Ground
from graft.training.strategies.trained_model import Trained, trained

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Probed:
    """Result of a linear probe. Fine-tuning starts from it and is compared with it.

    Attributes:
        train_head: the head trained on the train split alone.
        final_head: the head trained on train and validation, with the hyperparameters selected on train.
        validation_logits: logits of the first head on validation, float32 (N, C).
        test_logits: logits of the final head on test, float32 (N, C).
        selection: the feature set and kind of head selected by cross-validation on train.
        strategy: `probe`, `svm` or `stages`.
    """

    start: Head
    final: Head
    validation: Floats
    test: Floats
    chosen: Chosen
    strategy: str = "probe"


def probe(ground: Ground, strategy: str = "probe") -> Probed:
    """Trains a linear head on the last features (`probe`, `svm`) or on cross-validated features (`stages`)."""
    splits, slices = ground.splits, ground.features.columns
    features, targets = ground.seen(splits.train), ground.targets(splits.train)
    balanced = ground.choices.balance in ("weights", "sampling")
    selection = _chosen(ground, strategy, features, targets, balanced)
    best = selection.best
    train_head = stage_selection.learn(best, features, slices, targets, balanced)
    samples = (*splits.train, *splits.validation)
    final_head = stage_selection.learn(best, ground.seen(samples), slices, ground.targets(samples), balanced)
    validation = ground.features.rows_of(splits.validation, block=best.sees)
    test = ground.features.rows_of(splits.test, block=best.sees)
    return Probed(train_head, final_head, train_head(validation), final_head(test), selection, strategy)


def _chosen(ground: Ground, strategy: str, seen: Vectors, targets: Targets, balanced: bool) -> Chosen:
    """Selects the feature set, the kind of head and its regularization by grouped cross-validation."""
    smallest_class = min(ground.dataset.counts(ground.splits.train))
    n_folds, seed = hyperparameters.folds(smallest_class, len(targets)), ground.choices.seed
    groups = [sample.group or sample.digest for sample in ground.splits.train]
    slices = ground.features.columns
    if strategy == "stages":
        return stage_selection.best_of(seen, slices, targets, n_folds, seed, balanced, groups)
    kind: Kind = "svm" if strategy == "svm" else "logistic"
    losses = linear_probe.choose_strength(columns_of(seen, slices["last"]), targets, n_folds, seed, kind, balanced, groups)
    best_C = linear_probe.preferred(losses)
    best = Candidate("last", kind, best_C, losses[best_C], float("nan"), len(targets))
    return Chosen(best, (best,))


def finish_probe(probed: Probed, ground: Ground) -> Trained:
    """The probe as a model: the backbone's ONNX graph with the head appended."""
    from safetensors.numpy import load_file

    exported, splits, features = ground.exported, ground.splits, ground.features
    backbone = Graph(exported.graph, wanted=(STAGES, VECTORS))
    head, head_input = probed.final, probed.chosen.best.sees

    def network(batch: Pixels) -> Outputs:
        outputs = backbone(batch)
        names = [name for name in (STAGES, VECTORS) if name in outputs] if head_input == "all" else [VECTORS]
        return Outputs(head(np.concatenate([outputs[name] for name in names], axis=1)), outputs[VECTORS])

    references = ground.near
    return trained(
        strategy=probed.strategy,
        backbone=exported.backbone.model_copy(update={"sees": head_input}),
        preprocessing=exported.preprocessing,
        network=network,
        graph=linear_probe.with_head(exported.graph, head, head_input),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
        validation=Answered(probed.validation, features.rows_of(splits.validation), ground.targets(splits.validation)),
        test=Answered(probed.test, features.rows_of(splits.test), ground.targets(splits.test)),
        neighbours=calibration.neighbours_of(references, features.rows_of(references)),
        choices=ground.choices,
    )
