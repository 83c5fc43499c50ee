"""Trained -> a package directory: written beside, read back with the service's own reader, compared, renamed."""

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
AGREEMENT = 1e-4  # of probabilities, between the packaged graph and the network that was trained, on this machine
TOLERANCE = 1e-3  # of probabilities, on any other machine


def write(
    trained: Trained,
    dataset: Dataset,
    splits: Splits,
    name: str,
    target: Path,
    pictures: Thumbnails | None = None,
    int8: bool = False,
) -> Artifact:
    """Publishes the package, whole or not at all; an older one at `target` is replaced only by a finished one.

    Args:
        splits: validation is what golden answers are about.
        pictures: of the neighbours; None leaves them without.
        int8: whether there shall be a second network, in int8.

    Raises:
        ArtifactError: if what was written does not answer as the trained network does.
        OSError: if the disk is full, with the bytes needed and free.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    shown = Thumbnails.of([b""] * len(trained.neighbours.paths)) if pictures is None else pictures
    n_bytes = len(trained.graph) + sum(weight.nbytes for weight in trained.weights.values()) + len(shown.content)
    try:
        with atomic_files.room_for(target.parent, n_bytes):
            _write_networks(beside, trained, dataset, splits.train if int8 else ())
            fidelity = measure(beside / GRAPH, beside / INT8_GRAPH if int8 else None, trained, dataset, splits)
            _fill(beside, trained, dataset, splits.validation, name, shown, fidelity)
        artifact = read(beside)
        _compare(artifact)
        _publish(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return replace(artifact, path=target)


def _write_networks(folder: Path, trained: Trained, dataset: Dataset, quantised_by: Sequence[Sample]) -> None:
    (folder / GRAPH).write_bytes(trained.graph)
    if quantised_by:
        chosen = sorted(quantised_by, key=lambda sample: sample.digest)[:MOST]
        pixels = [decode(dataset.read(sample), trained.preprocessing).pixels for sample in chosen]
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
    # Written here, because safetensors' own writing hides why it failed.
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
    promised = FILES | INT8_FILES if "int8" in fidelity else FILES
    files = {file: record(folder / file) for file in sorted(promised)}
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"files": files}).sealed().content())
    # A server is often another user; temporary folders, and safetensors' files, are readable by their owner only.
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
        _sync(path)
    _sync(folder)


def _golden(trained: Trained, dataset: Dataset, held_out: tuple[Sample, ...]) -> Golden:
    """A few images as small files, half JPEG and half PNG so that both decoders are checked, with their answers."""
    encoded = []
    for index, sample in enumerate(sorted(held_out, key=lambda sample: sample.digest)[:N_GOLDEN]):
        image, file = Image.fromarray(shrink(dataset.read(sample), trained.preprocessing)), io.BytesIO()
        image.save(file, "PNG") if index % 2 else image.save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    batch = np.stack([decode(file, trained.preprocessing).pixels for file in encoded])
    return Golden(tuple(encoded), trained.network(batch).logits)


def _compare(artifact: Artifact) -> None:
    model = Model(artifact, loader.load(artifact, "cpu"))
    _ = model.neighbours, model.thumbnails  # read as a service will read them
    moved = model.drift
    if not moved <= AGREEMENT:
        raise ArtifactError(
            f"{artifact.graph} answers differently from the network that was trained: by {moved:.2g} in probability;"
            f" {AGREEMENT:.2g} is allowed. Nothing was published. This is a bug of ours, or of the exporter."
        )


def _publish(beside: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}-old-{os.getpid()}")
    if target.exists():
        os.rename(target, old)  # a directory with content cannot be replaced in one step
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
