"""Which way to learn. Every strategy ends in the same `Trained`, so nothing after it asks how it learned."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.artifact import Backbone, Calibration, Preprocessing, Score
from service.engine import LOGITS, VECTORS, CpuEngine, Engine, Graph, Outputs, Pixels, cuda_devices
from service.neighbours import Neighbours
from service.preprocess import ImageError
from training import calibrate, evaluate, probes, recipe
from training.calibrate import Answered
from training.dataset import Dataset, DatasetError, Sample
from training.features import Features, Passes, View, extract, on_cpu
from training.graphs import Exported
from training.predict import outputs
from training.probes import Head
from training.progress import say
from training.recipe import Recipe
from training.splits import FEWEST, Splits

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A network that has learned, and what it said about the images it did not learn from.

    Attributes:
        network: the network in memory, as it was trained: uint8 (N, S, S, 3) -> Outputs. What the package must match.
        graph: the same network as an ONNX file's bytes.
        weights: the same network's tensors by name.
        temperature: chosen on validation.
        calibration: chosen on validation, too.
        neighbours: some of the images it learned from, as it sees them.
        test: what it said of the test images.
        scores: by split.
        gain: over its own probe on the test images: difference, low, high; None for a probe.
    """

    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    network: Callable[[Pixels], Outputs]
    graph: bytes
    weights: dict[str, NDArray[np.generic]]
    temperature: float
    calibration: Calibration
    neighbours: Neighbours
    test: Answered
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
        features: what both saw.
    """

    start: Head
    final: Head
    validation: Floats
    test: Floats
    features: Features


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


def probe(features: Features, splits: Splits, choices: Recipe) -> Probed:
    """Logistic regression on the backbone's vectors."""
    # Not asked of the recipe again: files that were left out since may have moved the answer.
    mirrored = View(splits.train[0], mirrored=True).key in features.rows

    def views(samples: tuple[Sample, ...]) -> Floats:
        return np.stack([features.of(samples, mirror) for mirror in ((False, True) if mirrored else (False,))])

    train, labels = views(splits.train), labels_of(splits.train)
    n_folds = recipe.folds(int(np.bincount(labels).min()), len(labels))
    trials = probes.choose_strength(train, labels, n_folds, choices.seed)
    strength = min(trials, key=lambda candidate: trials[candidate])
    start = probes.fit(train, labels, strength)
    everything = (*splits.train, *splits.validation)
    final = probes.fit(views(everything), labels_of(everything), strength)
    return Probed(start, final, start(features.of(splits.validation)), final(features.of(splits.test)), features)


def finish_probe(probed: Probed, exported: Exported, splits: Splits) -> Trained:
    """The probe as a network: the backbone's graph with the head appended."""
    from safetensors.numpy import load_file

    backbone = Graph(exported.graph)
    head = probed.final
    near = calibrate.chosen_neighbours(splits.train, exported.backbone.width)
    neighbours = calibrate.neighbours_of(near, probed.features.of(near))
    validation = Answered(probed.validation, probed.features.of(splits.validation), labels_of(splits.validation))
    test = Answered(probed.test, probed.features.of(splits.test), labels_of(splits.test))
    temperature = calibrate.temperature(validation.logits, validation.targets)

    def network(batch: Pixels) -> Outputs:
        vectors = backbone(batch)[VECTORS]
        return Outputs(head(vectors), vectors)

    return Trained(
        strategy="probe",
        backbone=exported.backbone,
        preprocessing=exported.preprocessing,
        network=network,
        graph=probes.with_head(exported.graph, head),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
        temperature=temperature,
        calibration=calibrate.calibrate(validation, temperature, neighbours),
        neighbours=neighbours,
        test=test,
        scores=_scores(probed.validation, probed.test, splits),
    )


def finetune(dataset: Dataset, splits: Splits, exported: Exported, probed: Probed, choices: Recipe, run: Path) -> Trained:
    """The whole network, from the probe on (LP-FT)."""
    import torch

    from training.batches import Batches
    from training.export import to_onnx
    from training.extractor import load_headless
    from training.finetune import set_head
    from training.learning import learn

    epochs = choices.epochs or recipe.epochs(len(splits.train))
    gpu = on_gpu(choices)
    say(f"fine-tuning {exported.backbone.name} at {exported.preprocessing.crop} pixels for up to {epochs} epochs")
    network = load_headless(exported, len(probed.start.bias))
    set_head(network, probed.start)
    batches = Batches(dataset, splits, exported.preprocessing, choices, gpu)
    learn(network, batches, choices, epochs, run, gpu)

    def in_memory(batch: Pixels) -> Outputs:
        with torch.inference_mode():
            logits, vectors = network(torch.from_numpy(batch))
        return Outputs(logits.numpy(), vectors.numpy())

    with tempfile.TemporaryDirectory(dir=run) as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(network, exported.preprocessing.crop, path, [LOGITS, VECTORS])
        graph, engine = path.read_bytes(), CpuEngine(path)

    def asked(samples: tuple[Sample, ...], what: str) -> Answered:
        found = answers(engine, dataset, samples, exported.preprocessing, what)
        return Answered(found.logits, found.vectors, labels_of(samples))

    validation, test = asked(splits.validation, "scoring validation"), asked(splits.test, "scoring test")
    near = tuple(calibrate.chosen_neighbours(splits.train, exported.backbone.width))
    neighbours = calibrate.neighbours_of(near, asked(near, "looking at neighbours").vectors)
    temperature = calibrate.temperature(validation.logits, validation.targets)
    return Trained(
        strategy="finetune",
        backbone=exported.backbone,
        preprocessing=exported.preprocessing,
        network=in_memory,
        graph=graph,
        weights={key: value.contiguous().numpy() for key, value in network.state_dict().items()},
        temperature=temperature,
        calibration=calibrate.calibrate(validation, temperature, neighbours),
        neighbours=neighbours,
        test=test,
        scores=_scores(validation.logits, test.logits, splits),
        gain=evaluate.paired_difference(test.logits, probed.test, test.targets),
    )


def answers(engine: Engine, dataset: Dataset, samples: tuple[Sample, ...], preprocessing: Preprocessing, what: str) -> Outputs:
    """The outputs, (N, C) and (N, D), for samples that are known to be readable."""
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    rows = list(outputs(engine, preprocessing, readers, what))
    if bad := next((row for row in rows if isinstance(row, ImageError)), None):
        raise bad
    good = [row for row in rows if not isinstance(row, ImageError)]
    return Outputs(np.concatenate([row.logits for row in good]), np.concatenate([row.vectors for row in good]))


def labels_of(samples: tuple[Sample, ...]) -> NDArray[np.int64]:
    return np.array([sample.label for sample in samples], np.int64)


def _scores(validation: Floats, test: Floats, splits: Splits) -> dict[str, Score]:
    return {
        "validation": evaluate.score(validation, labels_of(splits.validation)),
        "test": evaluate.score(test, labels_of(splits.test)),
    }
