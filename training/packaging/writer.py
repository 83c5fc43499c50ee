"""Writes a trained model as a package directory: staged, read back with the service's reader, verified, then renamed."""

import io
import os
import shutil
import tempfile
from collections.abc import Container, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save as to_bytes

from graft.service.artifact import Artifact, ArtifactError, file_record, read
from graft.service.fidelity import Fidelity, Precision
from graft.service.imaging.preprocess import decode, decode_resized
from graft.service.inference import loader
from graft.service.inference.golden import GoldenSamples
from graft.service.inference.model import Model, load
from graft.service.inference.neighbors import Thumbnails
from graft.service.inference.postprocess import to_probabilities
from graft.service.manifest import (
    FILES,
    GOLDEN,
    GRAPH,
    HEAD,
    INT8_FILES,
    INT8_NAMES,
    MANIFEST,
    MODEL_CARD,
    NEIGHBORS,
    SEEN_IMAGES,
    THUMBNAILS,
    WEIGHTS,
    Int8Model,
    Manifest,
)
from graft.service.package_contents import MAX_GOLDEN
from graft.service.visible_text import to_text
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.seen_images import SeenImages
from graft.training.data.splits import Splits
from graft.training.evaluation import metrics
from graft.training.evaluation.clusters import n_clusters
from graft.training.evaluation.label_frequencies import as_trained
from graft.training.evaluation.per_class import MetricsTable, multiclass_metrics, multilabel_metrics
from graft.training.evaluation.split_gap import split_gap
from graft.training.packaging.int8_check import check_int8, load_int8
from graft.training.packaging.model_card import render_card
from graft.training.packaging.precision_check import Logits, check_precisions, load_precisions
from graft.training.results import temperature_warning
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import step
from graft.training.strategies.label_prior import Weights
from graft.training.strategies.trained_model import TrainedModel

MAX_EXPORT_DIFFERENCE = (
    1e-4  # of probabilities: maximum difference between the packaged graph and the trained network, on this machine
)
TOLERANCE = 1e-3  # of probabilities: maximum difference from the golden predictions on any other machine


@step("packaging")
def write(
    trained: TrainedModel,
    dataset: Dataset,
    splits: Splits,
    seen: SeenImages,
    name: str,
    target: Path,
    thumbnails: Thumbnails | None = None,
    int8: TrainedModel | None = None,
) -> Artifact:
    """Writes the package atomically. An older package at `target` is replaced only by a complete one.

    Args:
        splits: validation images are the source of the golden predictions.
        seen: the images of the run, so that an evaluation can leave them out.
        thumbnails: of the neighbors; None for no thumbnails.
        int8: the same model on the quantized network; None for a package without one.

    Raises:
        ArtifactError: if the written package predicts differently from the trained network.
        OSError: if the disk is full, with the bytes needed and free.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    neighbor_thumbnails = Thumbnails.from_jpegs([b""] * len(trained.neighbors.paths)) if thumbnails is None else thumbnails
    graphs = (trained.graph, int8.graph if int8 else b"")
    n_bytes = sum(map(len, (*graphs, neighbor_thumbnails.content))) + sum(weight.nbytes for weight in trained.weights.values())
    try:
        with atomic_files.check_disk_space(target.parent, n_bytes):
            (staging / GRAPH).write_bytes(trained.graph)
            precisions = load_precisions(trained, staging / GRAPH)
            fidelity = check_precisions(precisions, trained, dataset, splits)
            int8_model = None
            if int8:
                int8_model = _write_int8(staging, int8, trained, dataset, splits)
                precisions["int8"] = load_int8(staging / INT8_NAMES[GRAPH])
            golden = _golden_answers(precisions, trained, dataset, splits.validation, {*fidelity, "int8"})
            golden.save(staging / GOLDEN)
            seen.save(staging / SEEN_IMAGES)
            usable = {precision: found for precision, found in fidelity.items() if precision in golden.logits}
            _write_contents(staging, trained, dataset, name, neighbor_thumbnails, usable, int8_model)
        artifact = read(staging)
        _check_against_trained(artifact)
        if int8_model and "int8" in loader.supported_precisions("cpu"):
            load(artifact, "cpu", precision="int8")  # checks it as the service does
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return replace(artifact, path=target)


def _write_int8(folder: Path, int8: TrainedModel, trained: TrainedModel, dataset: Dataset, splits: Splits) -> Int8Model:
    """Writes the files of the int8 model; returns its record."""
    graph = folder / INT8_NAMES[GRAPH]
    graph.write_bytes(int8.graph)
    head = {name: tensor for name, tensor in int8.weights.items() if name.startswith("head.")}
    _write_tensors(folder / INT8_NAMES[HEAD], head)
    int8.neighbors.save(folder / INT8_NAMES[NEIGHBORS])
    return Int8Model(
        backbone=int8.backbone,
        temperature=int8.temperature,
        label_frequencies=int8.label_frequencies,
        calibration=int8.calibration,
        scores=int8.scores,
        fidelity=check_int8(int8, graph, trained, dataset, splits),
    )


def _write_tensors(path: Path, tensors: Weights) -> None:
    # Written here, because safetensors' own writer hides the cause of a failure.
    path.write_bytes(to_bytes({key: np.asarray(value, order="C") for key, value in tensors.items()}))


def _write_contents(
    folder: Path,
    trained: TrainedModel,
    dataset: Dataset,
    name: str,
    thumbnails: Thumbnails,
    fidelity: dict[Precision, Fidelity],
    int8: Int8Model | None,
) -> None:
    now = datetime.now(UTC)
    _write_tensors(folder / WEIGHTS, trained.weights)
    trained.neighbors.save(folder / NEIGHBORS)
    thumbnails.save(folder / THUMBNAILS)
    manifest = Manifest(
        name=to_text(name),
        version=now.strftime("%Y%m%d-%H%M%S"),
        created=now.isoformat(timespec="seconds"),
        labels=dataset.labels,
        strategy=trained.strategy,
        backbone=trained.backbone,
        preprocessing=trained.preprocessing,
        formats=dataset.formats,
        multilabel=dataset.multilabel,
        temperature=trained.temperature,
        metric=trained.metric,
        label_frequencies=trained.label_frequencies,
        calibration=trained.calibration,
        scores=trained.scores,
        tolerance=TOLERANCE,
        fidelity=fidelity,
        int8=int8,
        libraries={library: _version(library) for library in ("graft-vision", "torch", "timm", "openvino", "pillow")},
        files={},
    )
    n_groups = {"validation": n_clusters(trained.validation.clusters), "test": n_clusters(trained.test.clusters)}
    measured = _test_metrics(trained, dataset.labels)
    card = render_card(manifest, thumbnails, *measured, sorted(trained.weights), n_groups, _warnings(trained))
    (folder / MODEL_CARD).write_text(card, encoding="utf-8")
    file_names = FILES | INT8_FILES if int8 else FILES
    files = {file: file_record(folder / file) for file in sorted(file_names)}
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).with_digest().to_bytes())
    # The server often runs as another user, but temporary folders are readable by their owner only.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
        atomic_files.fsync(path)
    atomic_files.fsync(folder)


def _test_metrics(trained: TrainedModel, labels: tuple[str, ...]) -> MetricsTable:
    """The proportions among the metrics, and the per-class metrics, on test."""
    compute = multilabel_metrics if trained.test.multilabel else multiclass_metrics
    probabilities = to_probabilities(trained.test.logits, trained.temperature, trained.test.multilabel)
    return compute(probabilities, trained.test.targets, labels, trained.calibration, trained.test.clusters)


def _warnings(trained: TrainedModel) -> list[str]:
    """What must be read before the numbers of the model card, as in `Evaluation.warnings`."""
    natural = as_trained(trained.test, trained.temperature, trained.label_frequencies)
    gain = metrics.temperature_gain(natural, trained.temperature)
    errors = metrics.calibration_errors(natural, trained.temperature)
    gap = split_gap(trained.validation, trained.test).to_text()
    return [warning for warning in (gap, temperature_warning(*errors, gain)) if warning]


def _golden_answers(
    precisions: Mapping[Precision, Logits],
    trained: TrainedModel,
    dataset: Dataset,
    validation: tuple[Sample, ...],
    usable: Container[Precision],
) -> GoldenSamples:
    """A few small images with their predictions, half JPEG and half PNG, so that both decoders are checked.

    Args:
        usable: the precisions to compute them for; one whose outputs are not finite is left out.
    """
    encoded = []
    for index, sample in enumerate(sorted(validation, key=lambda sample: sample.digest)[:MAX_GOLDEN]):
        image, file = Image.fromarray(decode_resized(dataset.read(sample), trained.preprocessing)), io.BytesIO()
        image.save(file, "PNG") if index % 2 else image.save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    batch = np.stack([decode(file, trained.preprocessing).pixels for file in encoded])
    computed = {name: compute(batch) for name, compute in precisions.items() if name in usable}
    logits = {name: rows for name, rows in computed.items() if np.isfinite(rows).all()}
    if "f32" not in logits:
        raise ArtifactError("The trained network gives outputs that are not finite. No package was written.")
    return GoldenSamples(tuple(encoded), logits)


def _check_against_trained(artifact: Artifact) -> None:
    model = Model(artifact, loader.load(artifact, "cpu"))
    _ = model.neighbors, model.thumbnails  # checks that they load as they do in the service
    difference = model.golden_difference
    if not difference <= MAX_EXPORT_DIFFERENCE:
        raise ArtifactError(
            f"{artifact.path / GRAPH} predicts differently from the trained network: its probabilities differ by"
            f" {difference:.2g}; at most {MAX_EXPORT_DIFFERENCE:.2g} is allowed. No package was written."
            " This is a bug in Graft or in the ONNX exporter."
        )


def _publish(staging: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}-old-{os.getpid()}")
    if target.exists():
        os.rename(target, old)  # a non-empty directory cannot be replaced atomically
    os.rename(staging, target)
    atomic_files.fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"
