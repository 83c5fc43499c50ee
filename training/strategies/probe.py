"""Strategies that train a linear head on frozen features."""

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
    """The probe's results, which fine-tuning starts from and is measured against.

    Attributes:
        start: the head learned from the train split alone.
        final: the head learned from train and validation at the strength that train's cross-validation chose.
        validation: `start`'s logits on validation.
        test: `final`'s logits on test.
        chosen: the features and the kind of head that cross-validation on train preferred.
        strategy: the rung that this is.
    """

    start: Head
    final: Head
    validation: Floats
    test: Floats
    chosen: Chosen
    strategy: str = "probe"


def probe(ground: Ground, strategy: str = "probe") -> Probed:
    """A linear head: on the backbone's last vectors (`probe`, `svm`), or on what cross-validation likes best (`stages`)."""
    splits, columns = ground.splits, ground.features.columns
    seen, targets = ground.seen(splits.train), ground.targets(splits.train)
    balanced = ground.choices.balance in ("weights", "sampling")
    chosen = _chosen(ground, strategy, seen, targets, balanced)
    start = stage_selection.learn(chosen.best, seen, columns, targets, balanced)
    everything = (*splits.train, *splits.validation)
    final = stage_selection.learn(chosen.best, ground.seen(everything), columns, ground.targets(everything), balanced)
    validation, test = (ground.features.rows_of(some, block=chosen.best.sees) for some in (splits.validation, splits.test))
    return Probed(start, final, start(validation), final(test), chosen, strategy)


def _chosen(ground: Ground, strategy: str, seen: Vectors, targets: Targets, balanced: bool) -> Chosen:
    """The features and the head's kind and strength, by cross-validation that never tears a group apart."""
    fewest = min(ground.dataset.counts(ground.splits.train))
    n_folds, seed = hyperparameters.folds(fewest, len(targets)), ground.choices.seed
    groups = [sample.group or sample.digest for sample in ground.splits.train]
    columns = ground.features.columns
    if strategy == "stages":
        return stage_selection.best_of(seen, columns, targets, n_folds, seed, balanced, groups)
    kind: Kind = "svm" if strategy == "svm" else "logistic"
    losses = linear_probe.choose_strength(columns_of(seen, columns["last"]), targets, n_folds, seed, kind, balanced, groups)
    strength = linear_probe.preferred(losses)
    best = Candidate("last", kind, strength, losses[strength], float("nan"), len(targets))
    return Chosen(best, (best,))


def finish_probe(probed: Probed, ground: Ground) -> Trained:
    """The probe as a network: the backbone's graph with the head appended."""
    from safetensors.numpy import load_file

    exported, splits, features = ground.exported, ground.splits, ground.features
    backbone = Graph(exported.graph, wanted=(STAGES, VECTORS))
    head, sees = probed.final, probed.chosen.best.sees

    def network(batch: Pixels) -> Outputs:
        said = backbone(batch)
        seen = [said[name] for name in (STAGES, VECTORS) if name in said] if sees == "all" else [said[VECTORS]]
        return Outputs(head(np.concatenate(seen, axis=1)), said[VECTORS])

    near = ground.near
    return trained(
        strategy=probed.strategy,
        backbone=exported.backbone.model_copy(update={"sees": sees}),
        preprocessing=exported.preprocessing,
        network=network,
        graph=linear_probe.with_head(exported.graph, head, sees),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
        validation=Answered(probed.validation, features.rows_of(splits.validation), ground.targets(splits.validation)),
        test=Answered(probed.test, features.rows_of(splits.test), ground.targets(splits.test)),
        neighbours=calibration.neighbours_of(near, features.rows_of(near)),
        choices=ground.choices,
    )
