"""Strategies that train the network with gradient descent: the last layers, all layers, or from scratch.

Each returns a `TrainedModel`. The training loop itself is in `graft.training.finetuning`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.openvino import OpenVinoEngine
from graft.training.config import finetune_config
from graft.training.config.finetune_config import DataStats, FineTuneConfig, describe
from graft.training.data.dataset import Sample
from graft.training.evaluation import outliers
from graft.training.evaluation.calibration import CalibrationSet
from graft.training.evaluation.paired import paired_difference
from graft.training.evaluation.predictions import Predictions
from graft.training.inference.bulk import predict_dataset
from graft.training.runtime.progress import log, step
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.probe import ProbeResult
from graft.training.strategies.trained_model import TrainedModel, calibrate_and_score

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from graft.service.networks.network import Network
    from graft.training.finetuning.callbacks import Trial

BENCHMARK_BATCH_SIZE = 32  # images per step in the training-speed benchmark


def finetune(context: TrainingContext, probe_result: ProbeResult, strategy: str, epochs: int) -> TrainedModel:
    """Trains the network for at most `epochs` and exports it.

    Fine-tuning starts from the probe's head (LP-FT, Kumar et al. 2022) and trains the last or all layers; `scratch` starts
    from a new head. Checkpoints go into a subfolder of the run, named after the strategy, so that training can resume.
    """
    network = train_network(context, probe_result, strategy, epochs)
    exported, splits = context.exported, context.splits
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=context.folder.path) as folder, step("exporting the network"):
        from graft.training.backbones.onnx_export import export_network

        path = Path(folder) / "model.onnx"
        export_network(network, exported.preprocessing.crop, path)
        graph, engine = path.read_bytes(), OpenVinoEngine(path)

    def predict_samples(samples: tuple[Sample, ...], title: str) -> Predictions:
        return predict_dataset(engine, exported.preprocessing, context.dataset, samples, title)

    references = context.reference_samples
    neighbors = outliers.build_neighbors(references, predict_samples(references, "embedding references").vectors)
    validation, test = predict_samples(splits.validation, "scoring validation"), predict_samples(splits.test, "scoring test")
    k = outliers.outlier_k(len(references))
    return calibrate_and_score(
        strategy=strategy,
        backbone=exported.backbone,
        preprocessing=exported.preprocessing,
        network=_to_callable(network),
        graph=graph,
        weights={key: value.contiguous().numpy() for key, value in network.state_dict().items()},
        validation=validation,
        test=test,
        neighbors=neighbors,
        # Not the training images, although they are many more: the network has learned to tell them apart.
        held_out=CalibrationSet(validation, outliers.outlier_scores(neighbors, validation.vectors, k), k),
        recipe=context.recipe,
        gain_over_probe=paired_difference(test.logits, probe_result.test_logits, test.targets, clusters=test.clusters),
    )


def train_network(context: TrainingContext, probe_result: ProbeResult, strategy: str, epochs: int) -> "Network":
    """Trains the network; returns it with the weights of its best epoch, on the CPU."""
    with step("loading Lightning"):
        from graft.training.finetuning.loggers import make_loggers

    log(
        f"{strategy}: {context.exported.backbone.name} at {context.exported.preprocessing.crop} pixels"
        f" for up to {epochs} epochs"
    )
    network, default = build_network(context, probe_result, strategy, epochs)
    config = FineTuneConfig.model_validate(
        context.folder.decide_once(f"config of {strategy}", lambda: fit_to_machine(context, network, default))
    )
    log(describe(config))
    recipe, run = context.recipe.model_copy(update={"strategy": strategy, "epochs": epochs}), context.folder.path / strategy
    run_trainer(context, network, config, run, make_loggers(recipe, run))
    return network


@step("loading the network")
def build_network(
    context: TrainingContext, probe_result: ProbeResult, strategy: str, epochs: int
) -> tuple["Network", FineTuneConfig]:
    """The initialized network and its default configuration."""
    from graft.training.features.lightning_extractor import load_with_random_head
    from graft.training.finetuning import param_groups
    from graft.training.finetuning.lightning_module import set_head

    config = default_config(context, strategy, epochs)
    network = load_with_random_head(context.exported, len(context.dataset.labels))
    if config.from_scratch:
        param_groups.init_weights(network, context.recipe.seed, backbone=config.random_init)
    else:
        set_head(network, probe_result.train_head)
    return network, config


def default_config(context: TrainingContext, strategy: str, epochs: int | None = None) -> FineTuneConfig:
    """The default configuration for this dataset; `epochs` None takes the recommended number."""
    dataset, train = context.dataset, context.splits.train
    recipe = context.recipe.model_copy(update={"strategy": strategy, "epochs": epochs})
    pretrained = recipe.weights != "none"
    stats = DataStats(len(train), dataset.counts(train), dataset.multilabel, pretrained, context.device)
    return finetune_config.resolve_config(recipe, stats)


@step("fitting the batch size to the memory")
def fit_to_machine(context: TrainingContext, network: "Network", default: FineTuneConfig) -> dict[str, object]:
    """The configuration with a batch size that fits in memory and, if requested, learning rates from an LR range test."""
    from graft.training.finetuning import batch_size_finder
    from graft.training.finetuning.datamodule import DataModule
    from graft.training.finetuning.lr_finder import lr_find

    exported, device = context.exported, context.device
    free_bytes = batch_size_finder.free_memory(device)
    config = batch_size_finder.fit_batch_size(network, default, exported.preprocessing.crop, free_bytes)
    if config.lr_find:
        datamodule = DataModule(context.dataset, context.splits, exported.preprocessing, config, device)
        config = lr_find(network, datamodule.train_dataloader(), config, device)
    return config.model_dump(mode="json")


def run_trainer(
    context: TrainingContext,
    network: "Network",
    config: FineTuneConfig,
    run: Path,
    loggers: Sequence["Logger"] = (),
    trial: "Trial | None" = None,
) -> None:
    """Trains the network in place; it ends with the weights of its best epoch."""
    with step("loading Lightning"):
        from graft.training.finetuning.datamodule import DataModule
        from graft.training.finetuning.trainer import train

    device = context.device
    datamodule = DataModule(context.dataset, context.splits, context.exported.preprocessing, config, device)
    train(network, datamodule, config, config.epochs, run, device, loggers, trial)


def _to_callable(network: "Network") -> Callable[[Pixels], Outputs]:
    """The torch network as a function of numpy arrays."""
    import torch

    def forward(batch: Pixels) -> Outputs:
        with torch.inference_mode():
            logits, vectors = network(torch.from_numpy(batch))
        return Outputs(logits.numpy(), vectors.numpy())

    return forward


@step("measuring the training speed")
def images_per_second(context: TrainingContext) -> float:
    """Training speed of the full network on this machine: the median of three steps on one batch of noise."""
    import torch
    from torch.nn.functional import cross_entropy

    from graft.training.features.lightning_extractor import load_with_random_head

    device = context.device
    network = load_with_random_head(context.exported, len(context.dataset.labels)).to(device)
    network.to(memory_format=torch.channels_last).train()
    side = context.exported.preprocessing.crop
    images = torch.randint(0, 256, (BENCHMARK_BATCH_SIZE, side, side, 3), dtype=torch.uint8, device=device)
    labels = torch.zeros(BENCHMARK_BATCH_SIZE, dtype=torch.int64, device=device)
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        torch.autograd.backward(cross_entropy(network(images)[0], labels))
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    return BENCHMARK_BATCH_SIZE / statistics.median(seconds[1:])  # the first step also pays for one-time allocations
