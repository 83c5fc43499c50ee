"""The rungs of the ladder: each a way to learn, all ending in the same `Trained`, so nothing after it asks how it learned."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.openvino import CpuEngine
from graft.training.config.finetune_config import Facts, Plan, describe
from graft.training.config.finetune_config import plan as planned
from graft.training.data.dataset import Sample
from graft.training.evaluation import calibration, metrics
from graft.training.evaluation.predictions import Answered
from graft.training.inference.bulk import answered
from graft.training.runtime.progress import say
from graft.training.strategies.context import Ground, on_gpu
from graft.training.strategies.trained_model import Trained, trained

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from graft.service.networks.network import Network
    from graft.training.finetuning.callbacks import Trial
from graft.training.strategies.probe import Probed

BATCH = 32  # images, for measuring how fast a network learns


def finetune(ground: Ground, probed: Probed, strategy: str, epochs: int) -> Trained:
    """The network itself, for at most `epochs`: from the probe on (LP-FT), all of it or its last layers, or from scratch.

    A folder below the run's, named after the strategy, gets what is needed to go on if this is cut short.
    """
    network = learned(ground, probed, strategy, epochs)
    exported, splits = ground.exported, ground.splits
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=ground.folder.path) as beside:
        from graft.training.backbones.onnx_export import export_network

        path = Path(beside) / "model.onnx"
        export_network(network, exported.preprocessing.crop, path)
        graph, engine = path.read_bytes(), CpuEngine(path)

    def asked(samples: tuple[Sample, ...], what: str) -> Answered:
        return answered(engine, exported.preprocessing, ground.dataset, samples, what)

    near = ground.near
    test = asked(splits.test, "scoring test")
    return trained(
        strategy=strategy,
        backbone=exported.backbone,
        preprocessing=exported.preprocessing,
        network=_in_memory(network),
        graph=graph,
        weights={key: value.contiguous().numpy() for key, value in network.state_dict().items()},
        validation=asked(splits.validation, "scoring validation"),
        test=test,
        neighbours=calibration.neighbours_of(near, asked(near, "looking at neighbours").vectors),
        choices=ground.choices,
        gain=metrics.paired_difference(test.logits, probed.test, test.targets),
    )


def learned(ground: Ground, probed: Probed, strategy: str, epochs: int) -> "Network":
    """The torch network after its best epoch, on the CPU."""
    from graft.training.finetuning.loggers import tracked

    say(f"{strategy}: {ground.exported.backbone.name} at {ground.exported.preprocessing.crop} pixels for up to {epochs} epochs")
    network, wanted = begun(ground, probed, strategy, epochs)
    plan = Plan.model_validate(ground.folder.decided(f"plan of {strategy}", lambda: measured(ground, network, wanted)))
    say(describe(plan))
    choices, run = ground.choices.model_copy(update={"strategy": strategy, "epochs": epochs}), ground.folder.path / strategy
    teach(ground, network, plan, run, tracked(choices, run))
    return network


def begun(ground: Ground, probed: Probed, strategy: str, epochs: int) -> tuple["Network", Plan]:
    """The network that fine-tuning starts from, and the plan for it by the rules."""
    from graft.training.features.lightning_extractor import load_headless
    from graft.training.finetuning import param_groups
    from graft.training.finetuning.lightning_module import set_head

    plan = by_rule(ground, strategy, epochs)
    network = load_headless(ground.exported, len(ground.dataset.labels))
    if plan.scratch:
        param_groups.start_fresh(network, ground.choices.seed, backbone=plan.fresh)
    else:
        set_head(network, probed.start)
    return network, plan


def by_rule(ground: Ground, strategy: str, epochs: int | None = None) -> Plan:
    """The plan that the rules make of these images; with as many epochs as they ask for, unless told how many."""
    dataset, train = ground.dataset, ground.splits.train
    choices = ground.choices.model_copy(update={"strategy": strategy, "epochs": epochs})
    pretrained = choices.weights != "none"
    return planned(choices, Facts(len(train), dataset.counts(train), dataset.multilabel, pretrained, on_gpu(choices)))


def measured(ground: Ground, network: "Network", wanted: Plan) -> dict[str, object]:
    """The plan as it fits into this machine's memory, with rates from a short trial if those were asked for."""
    from graft.training.finetuning import batch_size_finder
    from graft.training.finetuning.datamodule import Batches
    from graft.training.finetuning.lr_finder import found_rates

    exported, gpu = ground.exported, on_gpu(ground.choices)
    fits = batch_size_finder.fitting(network, wanted, exported.preprocessing.crop, batch_size_finder.free_memory(gpu))
    if fits.find_rates:
        trial = Batches(ground.dataset, ground.splits, exported.preprocessing, fits, gpu)
        fits = found_rates(network, trial.train_dataloader(), fits, gpu)
    return fits.model_dump(mode="json")


def teach(
    ground: Ground, network: "Network", plan: Plan, run: Path, tracked: Sequence["Logger"] = (), trial: "Trial | None" = None
) -> None:
    """Lets a network learn by a plan; it is left as it was after its best epoch."""
    from graft.training.finetuning.datamodule import Batches
    from graft.training.finetuning.trainer import learn

    gpu = on_gpu(ground.choices)
    batches = Batches(ground.dataset, ground.splits, ground.exported.preprocessing, plan, gpu)
    learn(network, batches, plan, plan.epochs, run, gpu, tracked, trial)


def _in_memory(network: "Network") -> Callable[[Pixels], Outputs]:
    import torch

    def asked(batch: Pixels) -> Outputs:
        with torch.inference_mode():
            logits, vectors = network(torch.from_numpy(batch))
        return Outputs(logits.numpy(), vectors.numpy())

    return asked


def images_per_second(ground: Ground) -> float:
    """How fast this machine learns with the whole network: the median of three steps on one batch of noise."""
    import torch
    from torch.nn.functional import cross_entropy

    from graft.training.features.lightning_extractor import load_headless

    device = "cuda" if on_gpu(ground.choices) else "cpu"
    network = load_headless(ground.exported, len(ground.dataset.labels)).to(device)
    network.to(memory_format=torch.channels_last).train()
    side = ground.exported.preprocessing.crop
    pixels = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    seconds = []
    for _ in range(4):
        begun = time.monotonic()
        torch.autograd.backward(cross_entropy(network(pixels)[0], labels))
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - begun)
    return BATCH / statistics.median(seconds[1:])  # the first also pays for what is made only once
