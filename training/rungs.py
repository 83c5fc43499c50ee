"""The rungs of the ladder: each a way to learn, all ending in the same `Trained`, so nothing after it asks how it learned."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artifact import Backbone, Preprocessing, Score
from service.engine import LOGITS, VECTORS, CpuEngine, Engine, Graph, Outputs, Pixels, cuda_devices
from service.preprocess import ImageError
from training import blocks, evaluate, probes, recipe
from training.blocks import Candidate, Chosen
from training.dataset import Dataset, DatasetError, Sample
from training.features import Features, Passes, View, extract, on_cpu
from training.folder import Folder
from training.graphs import STAGES, Exported
from training.linear import Kind
from training.plan import Facts, Plan, describe
from training.plan import plan as planned
from training.predict import outputs
from training.probes import Head
from training.progress import say
from training.recipe import Recipe
from training.splits import FEWEST, Splits

Floats = NDArray[np.float32]
BATCH = 32  # images, for measuring how fast a network learns


@dataclass(frozen=True)
class Trained:
    """A network that has learned, and what it said about the images it did not learn from.

    Attributes:
        network: the network in memory, as it was trained: uint8 (N, S, S, 3) -> Outputs. What the package must match.
        graph: the same network as an ONNX file's bytes.
        weights: the same network's tensors by name.
        validation: logits float32 (N, C) on validation, of a network that had never seen it.
        test: logits float32 (N, C) on test.
        temperature: chosen on validation.
        scores: by split.
        gain: over its own probe on the test images: difference, low, high; None for a probe.
    """

    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    network: Callable[[Pixels], Outputs]
    graph: bytes
    weights: dict[str, NDArray[np.generic]]
    validation: Floats
    test: Floats
    temperature: float
    scores: dict[str, Score]
    gain: tuple[float, float, float] | None = None


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


def readable(dataset: Dataset, splits: Splits, exported: Exported, choices: Recipe) -> tuple[Features, Splits, dict[str, str]]:
    """One pass over every image: the features, and the splits without the files that are no images.

    Raises:
        DatasetError: if files are unreadable and nobody allowed to skip them, or more than 5 % are.
    """
    views = [View(sample) for samples in splits.named().values() for sample in samples]
    if recipe.mirrored(choices.flips, len(splits.train)):
        views += [View(sample, mirrored=True) for sample in (*splits.train, *splits.validation)]
    features = extract(dataset, views, exported, _passes(choices))
    bad = features.unreadable
    if bad and (not choices.skip_bad or len(bad) > 0.05 * len(dataset.samples)):
        shown = "\n".join(f"  {path}: {reason}" for path, reason in sorted(bad.items())[:10])
        way = "That is too many to skip." if choices.skip_bad else "Mend or remove them, or leave them out with --skip-bad."
        raise DatasetError(f"{len(bad)} of {len(dataset.samples):,} files cannot be used:\n{shown}\n{way}")
    kept = [tuple(sample for sample in part if sample.path not in bad) for part in splits.named().values()]
    splits = Splits(*kept)
    for label, name in enumerate(dataset.labels):
        n_train = sum(sample.label == label for sample in splits.train)
        if n_train < FEWEST or not any(sample.label == label for sample in splits.validation):
            raise DatasetError(f"Without its unreadable files, the label {name!r} has too few images: {n_train} to learn from.")
    return features, splits, bad


def on_gpu(choices: Recipe) -> bool:
    """Whether a recipe means CUDA on this machine."""
    return choices.accelerator == "gpu" or (choices.accelerator == "auto" and cuda_devices() > 0)


def _passes(choices: Recipe) -> Passes:
    if not on_gpu(choices):
        return on_cpu
    from training.extractor import passes

    return passes


def probe(features: Features, splits: Splits, choices: Recipe, strategy: str = "probe") -> Probed:
    """A linear head: on the backbone's last vectors (`probe`, `svm`), or on what cross-validation likes best (`stages`)."""
    # Not asked of the recipe again: files that were left out since may have moved the answer.
    mirrored = View(splits.train[0], mirrored=True).key in features.rows

    def seen(samples: tuple[Sample, ...]) -> Floats:
        return np.stack([features.of(samples, mirror, "all") for mirror in ((False, True) if mirrored else (False,))])

    train, labels, columns = seen(splits.train), labels_of(splits.train), features.columns
    n_folds = recipe.folds(int(np.bincount(labels).min()), len(labels))
    if strategy == "stages":
        chosen = blocks.best_of(train, columns, labels, n_folds, choices.seed)
    else:
        chosen = _on_last(
            train[..., columns["last"]], labels, n_folds, choices.seed, "svm" if strategy == "svm" else "logistic"
        )
    best = chosen.best
    start = blocks.learn(best, train, columns, labels)
    everything = (*splits.train, *splits.validation)
    final = blocks.learn(best, seen(everything), columns, labels_of(everything))
    validation, test = (features.of(samples, block=best.sees) for samples in (splits.validation, splits.test))
    return Probed(start, final, start(validation), final(test), chosen, strategy)


def _on_last(vectors: Floats, labels: NDArray[np.int64], n_folds: int, seed: int, kind: Kind) -> Chosen:
    trials = probes.choose_strength(vectors, labels, n_folds, seed, kind)
    strength = min(trials, key=lambda candidate: trials[candidate])
    best = Candidate("last", kind, strength, trials[strength], float("nan"), len(labels))
    return Chosen(best, (best,))


def finish_probe(probed: Probed, exported: Exported, splits: Splits) -> Trained:
    """The probe as a network: the backbone's graph with the head appended."""
    from safetensors.numpy import load_file

    backbone = Graph(exported.graph)
    head, sees = probed.final, probed.chosen.best.sees

    def network(batch: Pixels) -> Outputs:
        said = backbone(batch)
        seen = [said[name] for name in (STAGES, VECTORS) if name in said] if sees == "all" else [said[VECTORS]]
        return Outputs(head(np.concatenate(seen, axis=1)), said[VECTORS])

    return Trained(
        strategy=probed.strategy,
        backbone=exported.backbone.model_copy(update={"sees": sees}),
        preprocessing=exported.preprocessing,
        network=network,
        graph=probes.with_head(exported.graph, head, sees),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
        validation=probed.validation,
        test=probed.test,
        temperature=evaluate.temperature(probed.validation, labels_of(splits.validation)),
        scores=_scores(probed.validation, probed.test, splits),
    )


def finetune(
    dataset: Dataset, splits: Splits, exported: Exported, probed: Probed, choices: Recipe, epochs: int, folder: Folder
) -> Trained:
    """The network itself, for at most `epochs`: from the probe on (LP-FT), all of it or its last layers, or from scratch.

    Args:
        folder: of the run; a folder below it, named after the strategy, gets what is needed to go on if this is cut short.
    """
    import torch

    from training import layers, memory
    from training.batches import Batches, label_counts
    from training.export import to_onnx
    from training.extractor import load_headless
    from training.finetune import set_head
    from training.learning import learn
    from training.rates import found_rates
    from training.trackers import tracked

    gpu = on_gpu(choices)
    facts = Facts(
        len(splits.train), label_counts(splits.train, len(dataset.labels)), dataset.multilabel, choices.weights != "none", gpu
    )
    wanted = planned(choices.model_copy(update={"epochs": epochs}), facts)
    say(f"fine-tuning {exported.backbone.name} at {exported.preprocessing.crop} pixels for up to {epochs} epochs")
    network = load_headless(exported, len(dataset.labels))
    if wanted.scratch:
        layers.start_fresh(network, choices.seed, backbone=wanted.fresh)
    else:
        set_head(network, probed.start)

    def measured() -> dict[str, object]:
        fits = memory.fitting(network, wanted, exported.preprocessing.crop, memory.free_memory(gpu))
        if fits.find_rates:
            trial = Batches(dataset, splits, exported.preprocessing, fits, gpu)
            fits = found_rates(network, trial.train_dataloader(), fits, gpu)
        return fits.model_dump(mode="json")

    plan = Plan.model_validate(folder.decided(f"plan of {choices.strategy}", measured))
    say(describe(plan))
    batches = Batches(dataset, splits, exported.preprocessing, plan, gpu)
    run = folder.path / choices.strategy
    learn(network, batches, plan, epochs, run, gpu, tracked(choices, run))

    def in_memory(batch: Pixels) -> Outputs:
        with torch.inference_mode():
            logits, vectors = network(torch.from_numpy(batch))
        return Outputs(logits.numpy(), vectors.numpy())

    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=folder.path) as beside:
        path = Path(beside) / "model.onnx"
        to_onnx(network, exported.preprocessing.crop, path, [LOGITS, VECTORS])
        graph, engine = path.read_bytes(), CpuEngine(path)
    logits = {
        name: answers(engine, dataset, samples, exported.preprocessing, f"scoring {name}")
        for name, samples in (("validation", splits.validation), ("test", splits.test))
    }
    return Trained(
        strategy=choices.strategy,
        backbone=exported.backbone,
        preprocessing=exported.preprocessing,
        network=in_memory,
        graph=graph,
        weights={key: value.contiguous().numpy() for key, value in network.state_dict().items()},
        validation=logits["validation"],
        test=logits["test"],
        temperature=evaluate.temperature(logits["validation"], labels_of(splits.validation)),
        scores=_scores(logits["validation"], logits["test"], splits),
        gain=evaluate.paired_difference(logits["test"], probed.test, labels_of(splits.test)),
    )


def images_per_second(exported: Exported, n_labels: int, choices: Recipe) -> float:
    """How fast this machine learns with the whole network: the median of three steps on one batch of noise."""
    import torch
    from torch.nn.functional import cross_entropy

    from training.extractor import load_headless

    device = "cuda" if on_gpu(choices) else "cpu"
    network = load_headless(exported, n_labels).to(device).to(memory_format=torch.channels_last).train()
    side = exported.preprocessing.crop
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


def answers(engine: Engine, dataset: Dataset, samples: tuple[Sample, ...], preprocessing: Preprocessing, what: str) -> Floats:
    """Logits float32 (N, C) of samples that are known to be readable."""
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    rows = list(outputs(engine, preprocessing, readers, what))
    if bad := next((row for row in rows if isinstance(row, ImageError)), None):
        raise bad
    return np.concatenate([row.logits for row in rows if not isinstance(row, ImageError)])


def labels_of(samples: tuple[Sample, ...]) -> NDArray[np.int64]:
    return np.array([sample.label for sample in samples], np.int64)


def _scores(validation: Floats, test: Floats, splits: Splits) -> dict[str, Score]:
    return {
        "validation": evaluate.score(validation, labels_of(splits.validation)),
        "test": evaluate.score(test, labels_of(splits.test)),
    }
