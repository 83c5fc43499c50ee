"""A package brought to life, or refused because its golden answers do not come out."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.artifact import GOLDEN, MANIFEST, ArtifactError, Manifest, read, record
from service.model import Golden, Model, load
from service.preprocess import ImageError, ImageLimits


@pytest.fixture
def package(fitted, tmp_path) -> Path:
    return Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))


def reseal(package: Path, **changes: object) -> None:
    """Makes every digest right again, as somebody who means it could."""
    manifest = Manifest.model_validate_json((package / MANIFEST).read_bytes())
    files = {name: record(package / name) for name in manifest.files}
    (package / MANIFEST).write_bytes(manifest.model_copy(update={"files": files, **changes}).sealed().content())


def test_golden_answers_survive_saving(tmp_path):
    golden = Golden((b"one", b"", b"three\0"), np.array([[1.5, -2], [0, 1], [3, 4]], np.float32))
    golden.save(tmp_path / "golden.npz")
    found = Golden.load(tmp_path / "golden.npz")
    assert (found.encoded, found.logits.tolist()) == (golden.encoded, [[1.5, -2], [0, 1], [3, 4]])


def test_golden_answers_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "golden.npz", content=np.array([print], object), ends=np.array([1]), logits=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Golden.load(tmp_path / "golden.npz")


def test_answers_hardly_drift_on_the_machine_that_packed(model):
    assert model.drift < 1e-4


def test_a_package_whose_golden_answers_were_changed_is_refused(package):
    golden = Golden.load(package / GOLDEN)
    replace(golden, logits=np.roll(golden.logits, 1, axis=1)).save(package / GOLDEN)
    reseal(package)
    with pytest.raises(ArtifactError) as caught:
        load(package)
    assert str(caught.value).startswith(f"{package / GOLDEN}: this machine's answers differ by ")


def test_a_package_whose_golden_answers_are_no_numbers_is_refused(package):
    golden = Golden.load(package / GOLDEN)
    replace(golden, logits=np.full_like(golden.logits, np.nan)).save(package / GOLDEN)
    reseal(package)
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        load(package)


def test_golden_answers_within_the_tolerance_are_accepted(package):
    golden = Golden.load(package / GOLDEN)
    replace(golden, logits=golden.logits * np.float32(1.001)).save(package / GOLDEN)
    reseal(package, tolerance=0.01)
    assert 1e-6 < load(package).drift <= 0.01


@pytest.mark.parametrize("change", [lambda labels: (*labels, "hat"), lambda labels: labels[:-1]])
def test_a_package_with_another_number_of_labels_than_logits_is_refused(package, change):
    reseal(package, labels=change(read(package).manifest.labels))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(package)


def test_a_damaged_package_never_reaches_the_engine(package):
    (package / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"model\.onnx has 8 bytes"):
        load(package)


def test_a_package_is_read_from_an_unusual_path(package, clothes):
    moved = package.rename(package.parent / "käse чай 🧦")
    assert len(load(moved).classify(clothes[0][1], 3).ranked) == 3


def test_an_answer_is_ranked_and_sums_to_one(model, clothes):
    ranked = model.classify(clothes[0][1], 10).ranked
    chances = [probability for _, probability in ranked]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-9)
    assert {label for label, _ in ranked} == set(model.manifest.labels)


def test_an_answer_is_the_same_twice(model, clothes):
    assert model.classify(clothes[0][1], 10) == model.classify(clothes[0][1], 10)


def test_the_temperature_cools_the_answer(fitted, model, clothes):
    outputs = model.engine(model.decode(clothes[0][1]).pixels[None])
    hotter = Model(replace(fitted.artifact, manifest=model.manifest.model_copy(update={"temperature": 100.0})), model.engine)
    [warm], [cool] = hotter.answer(outputs, 1).ranked, model.answer(outputs, 1).ranked
    assert warm.label == cool.label
    assert warm.probability < cool.probability


def test_a_models_limits_hold(fitted, model, encode, photo):
    strict = Model(fitted.artifact, model.engine, ImageLimits(max_side=79))
    with pytest.raises(ImageError, match="the longest side allowed is 79"):
        strict.decode(encode(photo))
