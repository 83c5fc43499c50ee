"""The rungs of the ladder: each a way to learn, all ending in the same `Trained`, so nothing after it asks how it learned."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.engine import VECTORS, CpuEngine, Graph, Outputs, Pixels
from training import blocks, calibrate, evaluate, probes, recipe
from training.blocks import Candidate, Chosen
from training.calibrate import Answered
from training.dataset import Sample
from training.folds import Targets
from training.graphs import STAGES
from training.ground import Ground, on_gpu
from training.linear import Kind
from training.plan import Facts, Plan, describe
from training.plan import plan as planned
from training.predict import answered
from training.probes import Head
from training.progress import say
from training.rows import Vectors, columns_of
from training.trained import Trained, trained

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from service.network import Network
    from training.keeping import Trial

Floats = NDArray[np.float32]
BATCH = 32  # images, for measuring how fast a network learns


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
    start = blocks.learn(chosen.best, seen, columns, targets, balanced)
    everything = (*splits.train, *splits.validation)
    final = blocks.learn(chosen.best, ground.seen(everything), columns, ground.targets(everything), balanced)
    validation, test = (ground.features.rows_of(some, block=chosen.best.sees) for some in (splits.validation, splits.test))
    return Probed(start, final, start(validation), final(test), chosen, strategy)


def _chosen(ground: Ground, strategy: str, seen: Vectors, targets: Targets, balanced: bool) -> Chosen:
    """The features and the head's kind and strength, by cross-validation that never tears a group apart."""
    fewest = min(ground.dataset.counts(ground.splits.train))
    n_folds, seed = recipe.folds(fewest, len(targets)), ground.choices.seed
    groups = [sample.group or sample.digest for sample in ground.splits.train]
    columns = ground.features.columns
    if strategy == "stages":
        return blocks.best_of(seen, columns, targets, n_folds, seed, balanced, groups)
    kind: Kind = "svm" if strategy == "svm" else "logistic"
    losses = probes.choose_strength(columns_of(seen, columns["last"]), targets, n_folds, seed, kind, balanced, groups)
    strength = probes.preferred(losses)
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
        graph=probes.with_head(exported.graph, head, sees),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
        validation=Answered(probed.validation, features.rows_of(splits.validation), ground.targets(splits.validation)),
        test=Answered(probed.test, features.rows_of(splits.test), ground.targets(splits.test)),
        neighbours=calibrate.neighbours_of(near, features.rows_of(near)),
        choices=ground.choices,
    )


def finetune(ground: Ground, probed: Probed, strategy: str, epochs: int) -> Trained:
    """The network itself, for at most `epochs`: from the probe on (LP-FT), all of it or its last layers, or from scratch.

    A folder below the run's, named after the strategy, gets what is needed to go on if this is cut short.
    """
    network = learned(ground, probed, strategy, epochs)
    exported, splits = ground.exported, ground.splits
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=ground.folder.path) as beside:
        from training.export import export_network

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
        neighbours=calibrate.neighbours_of(near, asked(near, "looking at neighbours").vectors),
        choices=ground.choices,
        gain=evaluate.paired_difference(test.logits, probed.test, test.targets),
    )


def learned(ground: Ground, probed: Probed, strategy: str, epochs: int) -> "Network":
    """The torch network after its best epoch, on the CPU."""
    from training.trackers import tracked

    say(f"{strategy}: {ground.exported.backbone.name} at {ground.exported.preprocessing.crop} pixels for up to {epochs} epochs")
    network, wanted = begun(ground, probed, strategy, epochs)
    plan = Plan.model_validate(ground.folder.decided(f"plan of {strategy}", lambda: measured(ground, network, wanted)))
    say(describe(plan))
    choices, run = ground.choices.model_copy(update={"strategy": strategy, "epochs": epochs}), ground.folder.path / strategy
    teach(ground, network, plan, run, tracked(choices, run))
    return network


def begun(ground: Ground, probed: Probed, strategy: str, epochs: int) -> tuple["Network", Plan]:
    """The network that fine-tuning starts from, and the plan for it by the rules."""
    from training import layers
    from training.extractor import load_headless
    from training.finetune import set_head

    plan = by_rule(ground, strategy, epochs)
    network = load_headless(ground.exported, len(ground.dataset.labels))
    if plan.scratch:
        layers.start_fresh(network, ground.choices.seed, backbone=plan.fresh)
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
    from training import memory
    from training.batches import Batches
    from training.rates import found_rates

    exported, gpu = ground.exported, on_gpu(ground.choices)
    fits = memory.fitting(network, wanted, exported.preprocessing.crop, memory.free_memory(gpu))
    if fits.find_rates:
        trial = Batches(ground.dataset, ground.splits, exported.preprocessing, fits, gpu)
        fits = found_rates(network, trial.train_dataloader(), fits, gpu)
    return fits.model_dump(mode="json")


def teach(
    ground: Ground, network: "Network", plan: Plan, run: Path, tracked: Sequence["Logger"] = (), trial: "Trial | None" = None
) -> None:
    """Lets a network learn by a plan; it is left as it was after its best epoch."""
    from training.batches import Batches
    from training.learning import learn

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

    from training.extractor import load_headless

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
