"""A package is written atomically, predicts like the trained network, and contains only data."""

import dataclasses
import errno
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import file_size_limit
from other_predictions import with_predictions
from safetensors.numpy import load_file

from graft.service import artifact
from graft.service.artifact import ArtifactError
from graft.service.inference import model
from graft.service.inference.engine import Outputs
from graft.service.inference.golden import GoldenSamples
from graft.service.inference.neighbors import NeighborIndex, Thumbnails
from graft.training.audit.image_scan import scan_images
from graft.training.data.dataset import Dataset, scan
from graft.training.data.seen_images import NO_IMAGES
from graft.training.data.splits import Splits
from graft.training.packaging import writer
from graft.training.sample import SAMPLE
from graft.training.strategies.trained_model import TrainedModel


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return scan_images(scan(SAMPLE))[0]


@pytest.fixture(scope="module")
def splits(dataset: Dataset) -> Splits:
    """Like the splits of a run, but smaller."""
    test = tuple(sample for sample in dataset.samples if sample.split == "test")[::10]
    return Splits(tuple(sample for sample in dataset.samples if sample.split == "train")[::20], test[::2], test[1::2])


@pytest.fixture(scope="module")
def trained(fitted, dataset: Dataset, splits: Splits) -> TrainedModel:
    return with_predictions(fitted.trained, dataset, splits)


@pytest.fixture(scope="module")
def written(trained, dataset: Dataset, splits, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("written") / "package"
    before = os.umask(0o022)
    try:
        writer.write(trained, dataset, splits, NO_IMAGES, "clothes", target)
    finally:
        os.umask(before)
    return target


@pytest.fixture
def wrong(trained):
    """A trained model with an in-memory network that favors the first label more than the graph does."""

    def shifted(batch: np.ndarray) -> Outputs:
        logits, vectors = trained.network(batch)
        return Outputs(logits + np.eye(1, logits.shape[1], dtype=np.float32), vectors)

    return dataclasses.replace(trained, network=shifted)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_written_package_can_be_read(written: Path):
    assert artifact.read(written).manifest.name == "clothes"


def test_written_package_predicts(written: Path, clothes):
    assert len(model.load(written, "cpu").classify(clothes[0][1], 3).ranked) == 3


def test_no_temporary_files_remain(written: Path):
    assert [path.name for path in written.parent.iterdir()] == ["package"]


def test_manifest_describes_the_trained_model(written: Path, trained, dataset: Dataset):
    manifest = artifact.read(written).manifest
    assert manifest.labels == dataset.labels
    assert (manifest.strategy, manifest.temperature) == ("probe", trained.temperature)
    assert (manifest.preprocessing, manifest.backbone) == (trained.preprocessing, trained.backbone)
    assert manifest.scores == trained.scores


def test_golden_images_are_jpeg_and_png(written: Path):
    golden = GoldenSamples.load(written / "golden.npz", artifact.read(written).manifest.fidelity)
    assert [encoded[:4] for encoded in golden.encoded] == [b"\xff\xd8\xff\xe0", b"\x89PNG"] * 4
    assert {name: logits.shape for name, logits in golden.logits.items()} == dict.fromkeys(
        ("f32", "tf32", "bf16", "f16"), (8, 10)
    )


def test_calibration_is_in_the_manifest(written: Path, trained):
    manifest = artifact.read(written).manifest
    assert (manifest.calibration, manifest.multilabel) == (trained.calibration, False)


def test_neighbors_are_feature_vectors_of_training_images(written: Path, trained, dataset: Dataset):
    neighbors = NeighborIndex.load(written / "neighbors.npz")
    assert neighbors.vectors.shape == (850, 1280)
    np.testing.assert_array_equal(neighbors.vectors, trained.neighbors.vectors)
    np.testing.assert_allclose(np.linalg.norm(neighbors.vectors, axis=1), 1, atol=1e-3)
    labels = {sample.path: sample.labels for sample in dataset.samples if sample.split == "train"}
    assert all(labels[path] == expected for path, expected in zip(neighbors.paths, neighbors.labels, strict=True))


def test_fitted_package_has_a_thumbnail_for_every_neighbor(fitted):
    thumbnails = Thumbnails.load(fitted.artifact.thumbnails)
    assert len(thumbnails) == 850
    assert all(thumbnails[row].startswith(b"\xff\xd8\xff") for row in range(850))
    card = (fitted.artifact.path / "README.md").read_text(encoding="utf-8")
    assert "850 training images, and thumbnails of 850 of them, which the service returns to any client.\n" in card


def test_card_says_that_there_are_no_thumbnails(written: Path):
    thumbnails = Thumbnails.load(written / "thumbnails.npz")
    assert (len(thumbnails), thumbnails.content) == (850, b"")
    card = (written / "README.md").read_text(encoding="utf-8")
    assert "850 training images, but no thumbnails.\n" in card


@pytest.mark.parametrize("pictures", [[], [b"a", b"b"]])
def test_package_with_a_wrong_number_of_thumbnails_is_not_written(trained, dataset: Dataset, splits, tmp_path: Path, pictures):
    with pytest.raises(ArtifactError, match=r"thumbnails\.npz has \d thumbnails; expected: 850"):
        writer.write(trained, dataset, splits, NO_IMAGES, "clothes", tmp_path / "package", Thumbnails.from_jpegs(pictures))


def test_multilabel_package_predicts_labels_above_their_thresholds(trained, dataset: Dataset, splits, clothes, tmp_path: Path):
    rules = {"thresholds": (0.5,) * 10, "coverage": None, "set_thresholds": None, "outlier_threshold": 2.0}
    strict = dataclasses.replace(trained, calibration=trained.calibration.model_copy(update=rules), label_frequencies=None)
    several = dataclasses.replace(dataset, multilabel=True)
    writer.write(strict, several, splits, NO_IMAGES, "clothes", tmp_path / "package")
    answer = model.load(tmp_path / "package", "cpu").classify(clothes[0][1], 10)
    expected = [ranked.label for ranked in answer.ranked if ranked.probability >= 0.5]
    assert list(answer.prediction_set) == expected
    assert "ankle boot" in expected


def test_card_states_the_coverage(written: Path):
    card = (written / "README.md").read_text(encoding="utf-8")
    assert "Prediction sets contain the true label for 90% of images" in card


def test_no_file_is_a_pickle(written: Path):
    pickles = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
    assert [name for name, content in contents(written).items() if content.startswith(pickles)] == []


def test_arrays_load_without_pickle(written: Path):
    with np.load(written / "golden.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays} == {
            "content": "u",
            "ends": "i",
            **dict.fromkeys(("logits_f32", "logits_tf32", "logits_bf16", "logits_f16"), "f"),
        }
    assert load_file(written / "weights.safetensors")["head.weight"].shape == (10, 1280)


def test_package_is_readable_by_other_users(written: Path):
    assert stat.S_IMODE(written.stat().st_mode) == 0o755
    assert {path.name: stat.S_IMODE(path.stat().st_mode) & 0o044 for path in written.iterdir()} == dict.fromkeys(
        contents(written), 0o044
    )


def test_card_shows_scores_and_license(written: Path, trained):
    card = (written / "README.md").read_text(encoding="utf-8")
    assert f"| test | {trained.scores['test'].accuracy:.1%} |" in card
    assert "license Apache-2.0" in card
    assert re.search(r"^\| ankle boot \| \d+ \| [\d.]+% \| [\d.]+% \| [\d.]+% \|$", card, re.MULTILINE)


def test_network_that_differs_from_its_graph_is_not_written(wrong, dataset: Dataset, splits, tmp_path: Path):
    with pytest.raises(ArtifactError, match="predicts differently from the trained network"):
        writer.write(wrong, dataset, splits, NO_IMAGES, "clothes", tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_network_with_nan_outputs_is_not_written(trained, dataset: Dataset, splits, tmp_path: Path):
    def broken(batch: np.ndarray) -> Outputs:
        return Outputs(np.full((len(batch), 10), np.nan, np.float32), np.zeros((len(batch), 1280), np.float32))

    with pytest.raises(ArtifactError, match="No package was written"):
        writer.write(dataclasses.replace(trained, network=broken), dataset, splits, NO_IMAGES, "clothes", tmp_path / "package")


def test_failed_write_leaves_the_older_package_unchanged(trained, wrong, dataset: Dataset, splits, tmp_path: Path):
    target = tmp_path / "package"
    writer.write(trained, dataset, splits, NO_IMAGES, "older", target)
    before = contents(target)
    with pytest.raises(ArtifactError):
        writer.write(wrong, dataset, splits, NO_IMAGES, "newer", target)
    assert contents(target) == before
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("full", ["at once", "midway"])
def test_full_disk_is_reported_and_leaves_the_older_package_unchanged(
    trained, dataset: Dataset, splits, tmp_path: Path, monkeypatch, full: str
):
    target = tmp_path / "package"
    writer.write(trained, dataset, splits, NO_IMAGES, "clothes", target)
    before = contents(target)
    if full == "at once":
        monkeypatch.setattr("graft.training.runtime.atomic_files.free_bytes", lambda _: 1_000_000)
    with file_size_limit(2**20 if full == "midway" else None), pytest.raises(OSError, match=r"The disk is full: ") as refused:
        writer.write(trained, dataset, splits, NO_IMAGES, "newer", target)
    assert refused.value.errno == errno.ENOSPC
    assert re.search(
        r"full: \d\d,\d{3},\d{3} bytes are needed and [\d,]+ are free; existing files are unchanged", str(refused.value)
    )
    assert contents(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_newer_package_replaces_the_older_one_completely(trained, dataset: Dataset, splits, tmp_path: Path):
    target = tmp_path / "package"
    writer.write(trained, dataset, splits, NO_IMAGES, "older", target)
    (target / "stray.txt").write_text("not of the package")
    writer.write(trained, dataset, splits, NO_IMAGES, "newer", target)
    assert artifact.read(target).manifest.name == "newer"
    assert list(tmp_path.iterdir()) == [target]


def test_labels_in_any_script_are_preserved(trained, dataset: Dataset, splits, tmp_path: Path):
    labels = ("été", "🧥", "靴", "<b>", 'a "b"', "back\\slash", "a|b", "عباية", "e\N{COMBINING ACUTE ACCENT}", "می\u200cخواهم")
    target = tmp_path / "paquet d'été 🧥" / "package"
    writer.write(trained, dataclasses.replace(dataset, labels=labels), splits, NO_IMAGES, "clothes", target)
    assert artifact.read(target).manifest.labels == labels
