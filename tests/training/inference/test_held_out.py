"""The images that a package is evaluated on, and which of them count as one."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from graft.training.config.read_options import ReadOptions
from graft.training.evaluation.clusters import cluster_ids, n_clusters
from graft.training.inference import held_out
from graft.training.pipelines import evaluate


def noise_image(seed: int, quality: int = 95) -> bytes:
    """A JPEG of random blocks: no two seeds look alike, and one seed in another quality is a copy."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((96, 96), Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Files in two label folders, in turn."""
    for number, (name, encoded) in enumerate(files.items()):
        label = folder / ("bag", "coat")[number % 2]
        label.mkdir(parents=True, exist_ok=True)
        (label / name).write_bytes(encoded)
    return folder


def test_near_duplicates_are_one_group(model, tmp_path: Path):
    files = {f"{seed}.jpg": noise_image(seed) for seed in range(4)} | {"copy.jpg": noise_image(0, 60)}
    found = held_out.load(model, write(tmp_path / "mine", files))
    group_of = {sample.path.rpartition("/")[2]: sample.group for sample in found.samples}
    assert group_of["copy.jpg"] == group_of["0.jpg"]
    assert n_clusters(cluster_ids(found.samples)) == 4


def test_declared_groups_and_near_duplicates_are_joined(model, tmp_path: Path):
    names = ("x-1.jpg", "x-2.jpg", "y-1.jpg", "y-2.jpg", "z-1.jpg")
    files = {name: noise_image(seed) for seed, name in enumerate(names)} | {"z-2.jpg": noise_image(0, 60)}
    found = held_out.load(model, write(tmp_path / "mine", files), ReadOptions(group_by=r"([xyz])-\d"))
    groups = {sample.path.rpartition("/")[2]: sample.group for sample in found.samples}
    assert len(set(groups.values())) == 2  # x and z are joined by the copy
    assert groups["x-2.jpg"] == groups["z-1.jpg"] != groups["y-1.jpg"]


def test_evaluation_names_its_groups(model, tmp_path: Path):
    folder = write(
        tmp_path / "mine", {f"{video}-{frame}.jpg": noise_image(3 * video + frame) for video in (1, 2) for frame in (0, 1, 2)}
    )
    alone = evaluate.evaluate(model.artifact.path, folder)
    grouped = evaluate.evaluate(model.artifact.path, folder, ReadOptions(group_by=r"(\d)-"))
    assert (alone.evaluation.n_groups, grouped.evaluation.n_groups) == (6, 2)
    assert "on 6 images in 2 groups" in grouped._repr_html_()
    narrow, wide = alone.evaluation.primary_metric, grouped.evaluation.primary_metric
    assert wide.high - wide.low > narrow.high - narrow.low
