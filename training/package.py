"""Trained -> a package directory: written beside, read back with the service's own reader, compared, renamed."""

import io
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save as to_bytes

from service import engine
from service.artifact import (
    CARD,
    FILES,
    GOLDEN,
    GRAPH,
    MANIFEST,
    NEIGHBOURS,
    THUMBNAILS,
    WEIGHTS,
    Artifact,
    ArtifactError,
    Manifest,
    read,
    record,
)
from service.model import Golden, Model
from service.neighbours import Thumbnails
from service.preprocess import decode, shrink
from training import durable
from training.dataset import Dataset, Sample
from training.trained import Trained

N_GOLDEN = 8
AGREEMENT = 1e-4  # of probabilities, between the packaged graph and the network that was trained, on this machine
TOLERANCE = 1e-3  # of probabilities, on any other machine


def write(
    trained: Trained,
    dataset: Dataset,
    held_out: tuple[Sample, ...],
    name: str,
    target: Path,
    pictures: Thumbnails | None = None,
) -> Artifact:
    """Publishes the package, whole or not at all; an older one at `target` is replaced only by a finished one.

    Args:
        held_out: images that golden answers are made from.
        pictures: of the neighbours; None leaves them without.

    Raises:
        ArtifactError: if what was written does not answer as the trained network does.
        OSError: if the disk is full, with the bytes needed and free.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    shown = Thumbnails.of([b""] * len(trained.neighbours.paths)) if pictures is None else pictures
    n_bytes = len(trained.graph) + sum(weight.nbytes for weight in trained.weights.values()) + len(shown.content)
    try:
        with durable.room_for(target.parent, n_bytes):
            _fill(beside, trained, dataset, held_out, name, shown)
        artifact = read(beside)
        _compare(artifact)
        _publish(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return replace(artifact, path=target)


def _fill(folder: Path, trained: Trained, dataset: Dataset, held_out: tuple[Sample, ...], name: str, shown: Thumbnails) -> None:
    now = datetime.now(UTC)
    (folder / GRAPH).write_bytes(trained.graph)
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
        libraries={library: _version(library) for library in ("graft-vision", "torch", "timm", "openvino", "pillow")},
        files={},
    )
    (folder / CARD).write_text(_card(manifest, shown), encoding="utf-8")
    files = {file: record(folder / file) for file in sorted(FILES)}
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
    model = Model(artifact, engine.load(artifact, "cpu"))
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


def _promises(manifest: Manifest) -> str:
    calibration = manifest.calibration
    if calibration.coverage is None:
        sets = "An image may have several labels; each is given from a threshold of its own on."
    else:
        sets = f"Prediction sets promise to hold the right label for {calibration.coverage:.0%} of images like validation's."
    return f"{sets}\nAn image at a cosine distance above {calibration.outlier_threshold:.3f} counts as an outlier."


def _privacy(shown: Thumbnails) -> str:
    n_pictures = sum(shown[row] is not None for row in range(len(shown)))
    kept = f"Paths, labels and vectors of {len(shown):,} training images are in it"
    shows = f"and small pictures of {n_pictures:,} of them, for whoever may ask" if n_pictures else "but no pictures of them"
    return f"{kept}, {shows}.\nOf validation it holds the images that its golden answers are about."


def _card(manifest: Manifest, shown: Thumbnails) -> str:
    """The model card, for whoever finds the directory."""
    rows = "\n".join(
        f"| {split} | {score.accuracy:.1%} | {score.low:.1%} to {score.high:.1%} | {score.n:,} |"
        for split, score in manifest.scores.items()
    )
    labels = "\n".join(f"- {label}" for label in manifest.labels)
    return f"""# {manifest.name}

An image classifier made by Graft on {manifest.created}: {manifest.strategy} on {manifest.backbone.name}
(weights: {manifest.backbone.weights}, licence {manifest.backbone.license}).

| split | top-1 accuracy | 95 % interval | images |
|---|---|---|---|
{rows}

Nothing was chosen by the test images. Probabilities are calibrated with temperature {manifest.temperature:.2f}.
{_promises(manifest)}

## Labels

{labels}

## Use

    graft predict {manifest.name}/ photo.jpg
    graft serve {manifest.name}/

This directory is data only: no pickle, no code. `graft verify` checks every byte of it.
{_privacy(shown)}
"""
