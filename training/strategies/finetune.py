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
from graft.service.inference.openvino import CpuEngine
from graft.training.config import finetune_config
from graft.training.config.finetune_config import Facts, Plan, describe
from graft.training.data.dataset import Sample
from graft.training.evaluation import calibration, metrics
from graft.training.evaluation.predictions import Answered
from graft.training.inference.bulk import answered
from graft.training.runtime.progress import say
from graft.training.strategies.context import Ground, on_gpu
from graft.training.strategies.probe import Probed
from graft.training.strategies.trained_model import Trained, trained

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from graft.service.networks.network import Network
    from graft.training.finetuning.callbacks import Trial

BATCH = 32  # images per step in the training-speed benchmark


def finetune(ground: Ground, probed: Probed, strategy: str, epochs: int) -> Trained:
    """Trains the network for at most `epochs` and exports it.

    Fine-tuning starts from the probe's head (LP-FT, Kumar et al. 2022) and trains the last or all layers; `scratch` starts
    from a new head. Checkpoints go into a subfolder of the run, named after the strategy, so that training can resume.
    """
    network = learned(ground, probed, strategy, epochs)
    exported, splits = ground.exported, ground.splits
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=ground.folder.path) as folder:
        from graft.training.backbones.onnx_export import export_network

        path = Path(folder) / "model.onnx"
        export_network(network, exported.preprocessing.crop, path)
        graph, engine = path.read_bytes(), CpuEngine(path)

    def predict_samples(samples: tuple[Sample, ...], title: str) -> Answered:
        return answered(engine, exported.preprocessing, ground.dataset, samples, title)

    references = ground.near
    test = predict_samples(splits.test, "scoring test")
    return trained(
        strategy=strategy,
        backbone=exported.backbone,
        preprocessing=exported.preprocessing,
        network=_in_memory(network),
        graph=graph,
        weights={key: value.contiguous().numpy() for key, value in network.state_dict().items()},
        validation=predict_samples(splits.validation, "scoring validation"),
        test=test,
        neighbours=calibration.neighbours_of(references, predict_samples(references, "embedding references").vectors),
        choices=ground.choices,
        gain=metrics.paired_difference(test.logits, probed.test, test.targets),
    )


def learned(ground: Ground, probed: Probed, strategy: str, epochs: int) -> "Network":
    """Trains the network; returns it with the weights of its best epoch, on the CPU."""
    from graft.training.finetuning.loggers import tracked

    say(f"{strategy}: {ground.exported.backbone.name} at {ground.exported.preprocessing.crop} pixels for up to {epochs} epochs")
    network, default = begun(ground, probed, strategy, epochs)
    config = Plan.model_validate(ground.folder.decided(f"plan of {strategy}", lambda: measured(ground, network, default)))
    say(describe(config))
    recipe, run = ground.choices.model_copy(update={"strategy": strategy, "epochs": epochs}), ground.folder.path / strategy
    teach(ground, network, config, run, tracked(recipe, run))
    return network


def begun(ground: Ground, probed: Probed, strategy: str, epochs: int) -> tuple["Network", Plan]:
    """The initialized network and its default configuration."""
    from graft.training.features.lightning_extractor import load_headless
    from graft.training.finetuning import param_groups
    from graft.training.finetuning.lightning_module import set_head

    config = by_rule(ground, strategy, epochs)
    network = load_headless(ground.exported, len(ground.dataset.labels))
    if config.scratch:
        param_groups.start_fresh(network, ground.choices.seed, backbone=config.fresh)
    else:
        set_head(network, probed.start)
    return network, config


def by_rule(ground: Ground, strategy: str, epochs: int | None = None) -> Plan:
    """The default configuration for this dataset; `epochs` None takes the recommended number."""
    dataset, train = ground.dataset, ground.splits.train
    recipe = ground.choices.model_copy(update={"strategy": strategy, "epochs": epochs})
    pretrained = recipe.weights != "none"
    stats = Facts(len(train), dataset.counts(train), dataset.multilabel, pretrained, on_gpu(recipe))
    return finetune_config.plan(recipe, stats)


def measured(ground: Ground, network: "Network", wanted: Plan) -> dict[str, object]:
    """The configuration with a batch size that fits in memory and, if requested, learning rates from an LR range test."""
    from graft.training.finetuning import batch_size_finder
    from graft.training.finetuning.datamodule import Batches
    from graft.training.finetuning.lr_finder import found_rates

    exported, gpu = ground.exported, on_gpu(ground.choices)
    config = batch_size_finder.fitting(network, wanted, exported.preprocessing.crop, batch_size_finder.free_memory(gpu))
    if config.find_rates:
        datamodule = Batches(ground.dataset, ground.splits, exported.preprocessing, config, gpu)
        config = found_rates(network, datamodule.train_dataloader(), config, gpu)
    return config.model_dump(mode="json")


def teach(
    ground: Ground, network: "Network", plan: Plan, run: Path, tracked: Sequence["Logger"] = (), trial: "Trial | None" = None
) -> None:
    """Trains the network in place; it ends with the weights of its best epoch."""
    from graft.training.finetuning.datamodule import Batches
    from graft.training.finetuning.trainer import learn

    gpu = on_gpu(ground.choices)
    datamodule = Batches(ground.dataset, ground.splits, ground.exported.preprocessing, plan, gpu)
    learn(network, datamodule, plan, plan.epochs, run, gpu, tracked, trial)


def _in_memory(network: "Network") -> Callable[[Pixels], Outputs]:
    """The torch network as a function of numpy arrays."""
    import torch

    def forward(batch: Pixels) -> Outputs:
        with torch.inference_mode():
            logits, vectors = network(torch.from_numpy(batch))
        return Outputs(logits.numpy(), vectors.numpy())

    return forward


def images_per_second(ground: Ground) -> float:
    """Training speed of the full network on this machine: the median of three steps on one batch of noise."""
    import torch
    from torch.nn.functional import cross_entropy

    from graft.training.features.lightning_extractor import load_headless

    device = "cuda" if on_gpu(ground.choices) else "cpu"
    network = load_headless(ground.exported, len(ground.dataset.labels)).to(device)
    network.to(memory_format=torch.channels_last).train()
    side = ground.exported.preprocessing.crop
    images = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        torch.autograd.backward(cross_entropy(network(images)[0], labels))
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    return BATCH / statistics.median(seconds[1:])  # the first step also pays for one-time allocations
