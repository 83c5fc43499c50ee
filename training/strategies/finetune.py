"""Strategies that train the network with gradient descent: the last layers, all layers, or from scratch.

Each returns a `TrainedModel`. The training loop itself is in `graft.training.finetuning`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.service.inference.openvino import OpenVinoEngine
from graft.training.config import finetune_config, hyperparameters
from graft.training.config.finetune_config import DataStats, FineTuneConfig, describe
from graft.training.evaluation import outliers
from graft.training.evaluation.calibration import CalibrationSet
from graft.training.evaluation.predictions import Predictions
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.inference.bulk import predict_dataset
from graft.training.runtime import gpu
from graft.training.runtime.malloc import kept_memory
from graft.training.runtime.progress import log, step
from graft.training.strategies import kernel
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.probe import ProbeResult, fine_tuning_is_balanced, starting_head
from graft.training.strategies.trained_model import TrainedModel, calibrate_and_score, compare

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from graft.service.networks.network import Network
    from graft.training.finetuning.callbacks import Trial


def finetune(context: TrainingContext, probe_result: ProbeResult, strategy: str, plan: EpochPlan) -> TrainedModel:
    """Trains the network as planned; then, if it lowers the expected loss, a kernel machine on the network's features.

    Fine-tuning starts from the probe's head (LP-FT, Kumar et al. 2022) and trains the last or all layers; `scratch` starts
    from a new head. Checkpoints go into a subfolder of the run, named after the strategy, so that training can resume.
    """
    network = train_network(context, probe_result, strategy, plan)
    model = _export_and_score(context, probe_result, strategy, network)
    with_machine = kernel.add_to_network(context, probe_result, strategy, network)
    if with_machine is None:
        return model
    comparison = compare(with_machine, model)
    log(comparison.to_text(f"{strategy} with a kernel machine", strategy))
    return with_machine if comparison.is_better else model


def _export_and_score(context: TrainingContext, probe_result: ProbeResult, strategy: str, network: "Network") -> TrainedModel:
    """The network with its own head, scored on the device that trained it."""
    from graft.training.inference.torch_engine import TorchEngine

    graph, cpu_engine = _export(context, network)
    references, validation, test = _score(context, network, cpu_engine)
    neighbors = outliers.build_neighbors(context.reference_samples, references.vectors)
    k = outliers.outlier_k(len(context.reference_samples))
    return calibrate_and_score(
        strategy=strategy,
        backbone=context.exported.backbone,
        preprocessing=context.exported.preprocessing,
        network=TorchEngine(network, "cpu"),
        graph=graph,
        weights={key: value.contiguous().numpy() for key, value in network.state_dict().items()},
        validation=validation,
        test=test,
        neighbors=neighbors,
        # Not the training images, although they are many more: the network has learned to tell them apart.
        held_out=CalibrationSet(validation, outliers.outlier_scores(neighbors, validation.vectors, k), k),
        context=context,
        balanced=fine_tuning_is_balanced(context),
        probe_test_logits=probe_result.test_logits,
    )


@step("exporting the network")
def _export(context: TrainingContext, network: "Network") -> tuple[bytes, OpenVinoEngine]:
    """The network as the bytes of an ONNX file, and as the engine that will serve it on a CPU."""
    from graft.training.backbones.onnx_export import export_network

    with context.folder.temporary() as folder:
        path = folder / "model.onnx"
        export_network(network, context.exported.preprocessing.crop, path)
        return path.read_bytes(), OpenVinoEngine(path)


def _score(context: TrainingContext, network: "Network", cpu_engine: OpenVinoEngine) -> tuple[Predictions, ...]:
    """The predictions of the references, validation and test, by the device that trained the network.

    Raises:
        ArtifactError: if a GPU predicts other than the exported network.
    """
    from graft.training.inference import torch_engine

    dataset, splits, preprocessing = context.dataset, context.splits, context.exported.preprocessing
    samples = (context.reference_samples, splits.validation, splits.test)
    titles = ("embedding references", "scoring validation", "scoring test")
    with torch_engine.scoring_engine(network, context.device, cpu_engine) as engine:
        predictions = [
            predict_dataset(engine, preprocessing, dataset, part, title) for part, title in zip(samples, titles, strict=True)
        ]
    if engine is not cpu_engine:
        torch_engine.check_scores(cpu_engine, predictions[1], splits.validation, dataset, preprocessing)
    return tuple(predictions)


def train_network(context: TrainingContext, probe_result: ProbeResult, strategy: str, plan: EpochPlan) -> "Network":
    """Trains the network; returns it with the weights of its best epoch, on the CPU."""
    with step("loading Lightning"):
        from graft.service.networks.fold_batch_norm import unfold_batch_norm
        from graft.training.features.lightning_extractor import load_with_random_head
        from graft.training.finetuning.loggers import make_loggers

    log(
        f"{strategy}: {context.exported.backbone.name} at {context.exported.preprocessing.crop} pixels"
        f" for up to {plan.epochs} epochs"
    )
    trained, default = build_network(context, probe_result, strategy, plan.epochs)
    config = FineTuneConfig.model_validate(
        context.folder.decide_once(f"config of {strategy}", lambda: fit_to_machine(context, trained, default))
    )
    log(describe(config))
    recipe = context.recipe.model_copy(update={"strategy": strategy, "epochs": plan.epochs})
    run = context.folder.path / strategy
    run_trainer(context, trained, config, run, make_loggers(recipe, run), plan=plan)
    if not config.freeze_bn:
        return trained
    network = load_with_random_head(context.exported, len(context.dataset.labels)).eval()
    unfold_batch_norm(trained, network, context.exported.preprocessing.crop)
    return network


@step("loading the network")
def build_network(
    context: TrainingContext, probe_result: ProbeResult, strategy: str, epochs: int
) -> tuple["Network", FineTuneConfig]:
    """The network that training starts from, and its default configuration.

    BatchNorm layers that stay frozen are folded: steps are faster.
    """
    from graft.training.features.lightning_extractor import load_with_random_head
    from graft.training.finetuning import param_groups
    from graft.training.finetuning.lightning_module import set_head

    config = default_config(context, strategy, epochs)
    network = load_with_random_head(context.exported, len(context.dataset.labels))
    if config.from_scratch:
        param_groups.init_weights(network, context.recipe.seed, backbone=config.random_init)
    else:
        set_head(network, starting_head(probe_result, context))
    network = _without_frozen_norms(context, network, config)
    if not config.from_scratch:
        _soften_head(context, network, config)
    return network, config


def default_config(context: TrainingContext, strategy: str, epochs: int | None = None) -> FineTuneConfig:
    """The default configuration for this dataset; `epochs` None takes the recommended number."""
    dataset, train = context.dataset, context.splits.train
    recipe = context.recipe.model_copy(update={"strategy": strategy, "epochs": epochs})
    card = gpu.card_of(context.device)
    stats = DataStats(
        n_images=len(train),
        counts=dataset.counts(train),
        multilabel=dataset.multilabel,
        pretrained=recipe.weights != "none",
        device=context.device,
        gpu_bytes=card.memory_bytes if card else 0,
        # Once per run, so that a run that is resumed on another card goes on as it began.
        training_precision=context.folder.decide_once(
            "training precision", lambda: hyperparameters.training_precision(card.capability if card else None)
        ),
    )
    return finetune_config.resolve_config(recipe, stats)


@step("fitting the batch size to the memory")
@kept_memory()
def fit_to_machine(context: TrainingContext, network: "Network", default: FineTuneConfig) -> dict[str, object]:
    """The configuration with a batch size that fits in memory and, if requested, learning rates from an LR range test."""
    from graft.training.finetuning.datamodule import DataModule
    from graft.training.finetuning.lr_finder import lr_find

    config = _fit_batch_size(context, network, default)
    if config.lr_find:
        datamodule = DataModule(context.dataset, context.splits, context.exported.preprocessing, config, context.device)
        config = lr_find(network, datamodule.train_dataloader(), config, context.device)
    return config.model_dump(mode="json")


def _fit_batch_size(context: TrainingContext, network: "Network", default: FineTuneConfig) -> FineTuneConfig:
    from graft.training.finetuning import batch_size_finder

    free_bytes = batch_size_finder.free_memory(context.device)
    return batch_size_finder.fit_batch_size(network, default, context.exported.preprocessing.crop, free_bytes)


@kept_memory()
def run_trainer(
    context: TrainingContext,
    network: "Network",
    config: FineTuneConfig,
    run: Path,
    loggers: Sequence["Logger"] = (),
    trial: "Trial | None" = None,
    plan: EpochPlan | None = None,
) -> None:
    """Trains the network in place; it ends with the weights of its best epoch."""
    with step("loading Lightning"):
        from graft.training.finetuning.datamodule import DataModule
        from graft.training.finetuning.trainer import train

    device = context.device
    datamodule = DataModule(context.dataset, context.splits, context.exported.preprocessing, config, device)
    train(network, datamodule, config, plan or EpochPlan(config.epochs), run, device, loggers, trial)


@step("measuring the training speed")
@kept_memory()
def images_per_second(context: TrainingContext, strategy: str) -> float:
    """Images per second of a strategy's training on this machine, with the batch size and precision that will be used."""
    from graft.training.features.lightning_extractor import load_with_random_head
    from graft.training.finetuning import speed

    config = default_config(context, strategy)
    network = _without_frozen_norms(context, load_with_random_head(context.exported, len(context.dataset.labels)), config)
    config = _fit_batch_size(context, network, config)
    return speed.images_per_second(network, config, context.exported.preprocessing.crop, context.device)


def _without_frozen_norms(context: TrainingContext, network: "Network", config: FineTuneConfig) -> "Network":
    from graft.service.networks.fold_batch_norm import fold_batch_norm

    return fold_batch_norm(network.eval(), context.exported.preprocessing.crop) if config.freeze_bn else network


def _soften_head(context: TrainingContext, network: "Network", config: FineTuneConfig) -> None:
    from graft.training.finetuning import worker_errors
    from graft.training.finetuning.datamodule import DataModule
    from graft.training.finetuning.head_temperature import soften_head

    datamodule = DataModule(context.dataset, context.splits, context.exported.preprocessing, config, context.device)
    batches = datamodule.train_dataloader()
    with worker_errors.explain_worker_failure(batches):
        temperature = soften_head(network, batches, config, context.device)
    if temperature > 1:
        log(f"the head was too sure on augmented training images: its logits are divided by {temperature:.2g}")
