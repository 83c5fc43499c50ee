"""Writes a trained model as a package directory: staged, read back with the service's reader, verified, then renamed."""

import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save as to_bytes

from graft.service.artifact import (
    CARD,
    FILES,
    GOLDEN,
    GRAPH,
    INT8_FILES,
    INT8_GRAPH,
    MANIFEST,
    NEIGHBOURS,
    THUMBNAILS,
    WEIGHTS,
    Artifact,
    ArtifactError,
    Fidelity,
    Manifest,
    Precision,
    read,
    record,
)
from graft.service.imaging.preprocess import decode, shrink
from graft.service.inference import loader
from graft.service.inference.model import Golden, Model
from graft.service.inference.neighbours import Thumbnails
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.splits import Splits
from graft.training.packaging.model_card import card
from graft.training.packaging.precision_check import measure
from graft.training.packaging.quantize import MOST, quantise
from graft.training.runtime import atomic_files
from graft.training.strategies.trained_model import Trained

N_GOLDEN = 8
AGREEMENT = 1e-4  # of probabilities: maximum difference between the packaged graph and the trained network, on this machine
TOLERANCE = 1e-3  # of probabilities: maximum difference from the golden predictions on any other machine


def write(
    trained: Trained,
    dataset: Dataset,
    splits: Splits,
    name: str,
    target: Path,
    pictures: Thumbnails | None = None,
    int8: bool = False,
) -> Artifact:
    """Writes the package atomically. An older package at `target` is replaced only by a complete one.

    Args:
        splits: validation images are the source of the golden predictions; training images calibrate int8.
        thumbnails: of the neighbors; None for no thumbnails.
        int8: whether to add a second network, quantized to int8.

    Raises:
        ArtifactError: if the written package predicts differently from the trained network.
        OSError: if the disk is full, with the bytes needed and free.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    neighbor_thumbnails = Thumbnails.of([b""] * len(trained.neighbours.paths)) if pictures is None else pictures
    n_bytes = len(trained.graph) + sum(weight.nbytes for weight in trained.weights.values()) + len(neighbor_thumbnails.content)
    try:
        with atomic_files.room_for(target.parent, n_bytes):
            _write_networks(staging, trained, dataset, splits.train if int8 else ())
            fidelity = measure(staging / GRAPH, staging / INT8_GRAPH if int8 else None, trained, dataset, splits)
            _fill(staging, trained, dataset, splits.validation, name, neighbor_thumbnails, fidelity)
        artifact = read(staging)
        _compare(artifact)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return replace(artifact, path=target)


def _write_networks(folder: Path, trained: Trained, dataset: Dataset, quantised_by: Sequence[Sample]) -> None:
    (folder / GRAPH).write_bytes(trained.graph)
    if quantised_by:
        samples = sorted(quantised_by, key=lambda sample: sample.digest)[:MOST]
        pixels = [decode(dataset.read(sample), trained.preprocessing).pixels for sample in samples]
        quantise(folder / GRAPH, pixels, folder / INT8_GRAPH)


def _fill(
    folder: Path,
    trained: Trained,
    dataset: Dataset,
    held_out: tuple[Sample, ...],
    name: str,
    shown: Thumbnails,
    fidelity: dict[Precision, Fidelity],
) -> None:
    now = datetime.now(UTC)
    # Written here, because safetensors' own writer hides the cause of a failure.
    (folder / WEIGHTS).write_bytes(to_bytes({key: np.ascontiguousarray(value) for key, value in trained.weights.items()}))
    _golden(trained, dataset, held_out).save(folder / GOLDEN)
    trained.neighbours.save(folder / NEIGHBOURS)
    shown.save(folder / THUMBNAILS)
    manifest = Manifest(
        name=name,
        version=now.strftime("%Y%m%d-%H%M%S"),
        created=now.isoformat(timespec="seconds"),
        labels=dataset.labels,
        strategy=trained.strategy,
        backbone=trained.backbone,
        preprocessing=trained.preprocessing,
        multilabel=dataset.multilabel,
        temperature=trained.temperature,
        calibration=trained.calibration,
        scores=trained.scores,
        tolerance=TOLERANCE,
        fidelity=fidelity,
        libraries={library: _version(library) for library in ("graft-vision", "torch", "timm", "openvino", "pillow")},
        files={},
    )
    (folder / CARD).write_text(card(manifest, shown), encoding="utf-8")
    file_names = FILES | INT8_FILES if "int8" in fidelity else FILES
    files = {file: record(folder / file) for file in sorted(file_names)}
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).sealed().content())
    # The server often runs as another user, but temporary folders are readable by their owner only.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
        _sync(path)
    _sync(folder)


def _golden(trained: Trained, dataset: Dataset, held_out: tuple[Sample, ...]) -> Golden:
    """A few small images with their predictions, half JPEG and half PNG, so that both decoders are checked."""
    encoded = []
    for index, sample in enumerate(sorted(held_out, key=lambda sample: sample.digest)[:N_GOLDEN]):
        image, file = Image.fromarray(shrink(dataset.read(sample), trained.preprocessing)), io.BytesIO()
        image.save(file, "PNG") if index % 2 else image.save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    batch = np.stack([decode(file, trained.preprocessing).pixels for file in encoded])
    return Golden(tuple(encoded), trained.network(batch).logits)


def _compare(artifact: Artifact) -> None:
    model = Model(artifact, loader.load(artifact, "cpu"))
    _ = model.neighbours, model.thumbnails  # checks that they load as they do in the service
    difference = model.drift
    if not difference <= AGREEMENT:
        raise ArtifactError(
            f"{artifact.graph} predicts differently from the trained network: its probabilities differ by {difference:.2g};"
            f" at most {AGREEMENT:.2g} is allowed. No package was written. This is a bug in Graft or in the ONNX exporter."
        )


def _publish(beside: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}-old-{os.getpid()}")
    if target.exists():
        os.rename(target, old)  # a non-empty directory cannot be replaced atomically
    os.rename(beside, target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"
