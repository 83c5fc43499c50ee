"""Strategies with a kernel machine beside a linear head: on frozen features, or on those of a fine-tuned network. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from graft.service.inference.head import Head
from graft.service.manifest import MAX_CENTERS
from graft.training.config import hyperparameters
from graft.training.data.cross_validation import Fold, Targets, stratified_group_kfold, take_groups
from graft.training.data.dataset import Sample
from graft.training.features import blending, kernel_ridge, regularization, stage_selection
from graft.training.features.extraction import View
from graft.training.features.feature_arrays import map_rows
from graft.training.features.kernel_ridge import KernelTrainer, Machine, Setting
from graft.training.features.stage_selection import Candidate, Selection
from graft.training.runtime.progress import log, step
from graft.training.strategies.context import TrainingContext, extract_readable, whole_views
from graft.training.strategies.probe import (
    MAX_OUT_OF_FOLD_IMAGES,
    MAX_OUT_OF_FOLD_LOGITS,
    ProbeResult,
    export_probe,
    fine_tuning_is_balanced,
    folds_to_predict,
    groups_of,
    is_balanced,
)
from graft.training.strategies.trained_model import TrainedModel

if TYPE_CHECKING:
    from graft.service.networks.network import Network

MAX_SEARCH_IMAGES = 2_000  # with which the hyperparameters are selected
N_CROPS = 2  # of each image, on a fine-tuned network; it was no better with four more


def kernel_problem(context: TrainingContext, balanced: bool) -> str:
    """Why a kernel machine cannot be trained on this dataset; "" if it can.

    Args:
        balanced: whether to weight labels by inverse frequency.
    """
    n_images, n_labels = len(context.splits.train) + len(context.splits.validation), len(context.dataset.labels)
    if n_images > min(MAX_CENTERS, MAX_OUT_OF_FOLD_IMAGES):
        return f"a kernel machine has a center for every training image, at most {MAX_CENTERS:,}; there are {n_images:,}"
    if n_images * n_labels > MAX_OUT_OF_FOLD_LOGITS:
        return f"a kernel machine for {n_labels:,} labels would be too large"
    if context.dataset.multilabel and balanced:
        return "a kernel machine for multi-label data cannot be balanced"
    return ""


@step("training a kernel machine")
def fit_kernel(context: TrainingContext, linear: ProbeResult) -> ProbeResult:
    """Trains a kernel machine on all features, and adds it to the linear head of `probe`.

    The weights of both in the sum are fitted on held-out images.

    Args:
        linear: of the strategy `probe`, with held-out predictions of train and validation.

    Raises:
        ValueError: with the reason, if the dataset does not allow it; see `kernel_problem`.
    """
    balanced = is_balanced(context)
    if problem := kernel_problem(context, balanced):
        raise ValueError(f"--strategy kernel: {problem}. Use another strategy.")
    splits, samples = context.splits, linear.held_out
    setting, loss = _select_kernel(context, balanced)
    trainer = _trainer(context, samples, balanced)
    held_out_logits = trainer.fit_folds(folds_to_predict(context, samples), setting)
    weights = blending.blend_weights([linear.held_out_logits, held_out_logits], context.targets(samples))
    if weights[1] == 0:
        log("the kernel machine brings nothing beside the linear head")
        return replace(linear, strategy="kernel")
    slices, machine_of_train = context.features.slices, _trainer(context, splits.train, balanced).fit(setting)
    train_head = _add_machine(linear.train_head, machine_of_train, weights, slices)
    final_head = _add_machine(linear.final_head, trainer.fit(setting), weights, slices)
    candidate = Candidate("all", "kernel", 1 / setting.ridge, loss, float("nan"), len(splits.train))
    return ProbeResult(
        train_head,
        final_head,
        map_rows(train_head, context.features.select(splits.validation, feature_set="all")),
        samples,
        blending.blend([linear.held_out_logits, held_out_logits], weights),
        map_rows(final_head, context.features.select(splits.test, feature_set="all")),
        Selection(candidate, (candidate,)),
        "kernel",
        balanced,
    )


def add_to_network(
    context: TrainingContext, probe_result: ProbeResult, strategy: str, network: "Network"
) -> TrainedModel | None:
    """A fine-tuned network with a kernel machine beside its head; None if that is not possible or brings nothing.

    Args:
        probe_result: whose test score the model's is compared with.
        strategy: that trained the network.

    Raises:
        DatasetError: if an image has become unreadable.
    """
    from graft.training.backbones.onnx_export import export_trained

    balanced = fine_tuning_is_balanced(context)
    if kernel_problem(context, balanced):
        return None
    with context.folder.temporary() as folder:
        with step("exporting the network"):
            exported = export_trained(network, context.exported.preprocessing, folder)
        features = extract_readable(context, views_for_network(context), exported, cache=folder / "features")
        weights = network.state_dict()
        head = Head(weights["head.weight"].numpy(), weights["head.bias"].numpy())
        tuned = replace(context, exported=exported, features=features)
        result = fit_on_network(tuned, head, strategy, balanced)
        return replace(export_probe(result, tuned, probe_result), network_head=head) if result else None


def views_for_network(context: TrainingContext) -> list[View]:
    """The views that a kernel machine on a fine-tuned network learns from, and the test images."""
    splits = context.splits
    samples = (*splits.train, *splits.validation)
    crops = hyperparameters.crop_views(context.recipe.flips, len(samples))[:N_CROPS]
    return [*whole_views(splits, context.recipe), *(View(sample, *crop) for crop in crops for sample in samples)]


def epochs_after(context: TrainingContext) -> float:
    """The time that the features for the kernel machine take, in epochs: a training step takes about three times as long."""
    if kernel_problem(context, fine_tuning_is_balanced(context)):
        return 0.0
    train, validation = len(context.splits.train), len(context.splits.validation)
    return len(views_for_network(context)) / (3 * train + validation)


@step("training a kernel machine")
def fit_on_network(context: TrainingContext, head: Head, strategy: str, balanced: bool) -> ProbeResult | None:
    """Trains a kernel machine on the features of a fine-tuned network, and adds it to the network's own head.

    The network has learned the training images by heart, and its features tell them apart too well. So all that is selected is
    selected on the validation images: the hyperparameters, and the weights of head and machine in the sum, for a machine of
    the training images, and its predictions are out of fold. The final machine has the validation images as centers too.

    Args:
        context: with the fine-tuned network as backbone, and its features.
        head: of the network, on the last vector.
        balanced: whether the network has learned as if all labels were equally frequent.

    Returns:
        None if the machine brings nothing.
    """
    splits, slices = context.splits, context.features.slices
    validation = context.features.select(splits.validation, feature_set="all")
    setting, loss = _select_on_validation(context, balanced)
    machine = _trainer(context, splits.train, balanced).fit(setting)
    alone = _add_machine(head, machine, [0.0, 1.0], slices)
    outputs = [map_rows(head, context.features.select(splits.validation)), map_rows(alone, validation)]
    targets = context.targets(splits.validation)
    weights = blending.blend_weights(outputs, targets)
    if weights[1] == 0:
        return None
    final_machine = _trainer(context, (*splits.train, *splits.validation), balanced).fit(setting)
    train_head, final_head = (_add_machine(head, one, weights, slices) for one in (machine, final_machine))
    # The images are few: on those that it is fitted to, even the best of two weights is too good.
    validation_logits = blending.blend_out_of_fold(outputs, targets, folds_to_predict(context, splits.validation))
    test_logits = map_rows(final_head, context.features.select(splits.test, feature_set="all"))
    candidate = Candidate("all", "kernel", 1 / setting.ridge, loss, float("nan"), len(splits.validation))
    return ProbeResult(
        train_head,
        final_head,
        validation_logits,
        splits.validation,
        validation_logits,
        test_logits,
        Selection(candidate, (candidate,)),
        strategy,
        balanced,
    )


def _trainer(context: TrainingContext, samples: Sequence[Sample], balanced: bool) -> KernelTrainer:
    blocks = kernel_ridge.stage_blocks(context.features.slices)
    return KernelTrainer(context.crop_features(samples)[:, :], blocks, context.targets(samples), balanced)


def _select_kernel(context: TrainingContext, balanced: bool) -> tuple[Setting, float]:
    """The hyperparameters with the lowest cross-validated log-loss on train, and that."""
    train, seed = context.splits.train, context.recipe.seed
    images, targets = regularization.search_subset(context.targets(train), MAX_SEARCH_IMAGES, seed)
    n_folds = context.recipe.folds or hyperparameters.n_folds(min(context.dataset.counts(train)), len(targets))
    folds = stratified_group_kfold(targets, n_folds, seed, take_groups(groups_of(train), images))
    return _select_setting(context, [train[image] for image in images], targets, folds, balanced)


def _select_on_validation(context: TrainingContext, balanced: bool) -> tuple[Setting, float]:
    """The hyperparameters with which train predicts validation with the lowest log-loss, and that."""
    train, validation = context.splits.train, context.splits.validation
    seed = context.recipe.seed  # the same for both parts, so that they have the same labels
    to_train, train_targets = regularization.search_subset(context.targets(train), MAX_SEARCH_IMAGES, seed)
    to_predict, targets = regularization.search_subset(context.targets(validation), MAX_SEARCH_IMAGES, seed)
    samples = [*(train[image] for image in to_train), *(validation[image] for image in to_predict)]
    fold = np.split(np.arange(len(samples)), [len(to_train)])
    return _select_setting(context, samples, np.concatenate([train_targets, targets]), [(fold[0], fold[1])], balanced)


def _select_setting(
    context: TrainingContext, samples: Sequence[Sample], targets: Targets, folds: Sequence[Fold], balanced: bool
) -> tuple[Setting, float]:
    features, blocks = context.crop_features(samples)[:, :], kernel_ridge.stage_blocks(context.features.slices)
    losses = kernel_ridge.cross_validate(KernelTrainer(features, blocks, targets, balanced, MAX_SEARCH_IMAGES), folds)
    best = min(losses, key=lambda setting: losses[setting])
    return best, losses[best]


def _add_machine(head: Head, machine: Machine, weights: list[float], slices: dict[str, slice]) -> Head:
    """The weighted sum of a linear head on the last vector and a kernel machine on all features."""
    of_head, of_machine = map(np.float32, weights)
    wide = stage_selection.widen(head, slices["last"], slices["all"].stop)
    weighted = replace(machine.kernel, coefficients=of_machine * machine.kernel.coefficients)
    return Head(of_head * wide.weight, of_head * wide.bias + of_machine * machine.bias, weighted)
