"""A second network in int8, for those who ask for it: smaller, nearly the same, and never used unasked."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from other_predictions import answering

from graft.service.artifact import INT8_GRAPH, INT8_WEIGHTS, ArtifactError, read
from graft.service.inference.model import load
from graft.training.data.dataset import scan
from graft.training.data.splits import Splits
from graft.training.packaging import quantize, writer
from graft.training.sample import SAMPLE

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="needs graft-vision[int8]")


@pytest.fixture(scope="module")
def written(fitted, tmp_path_factory) -> Path:
    dataset = scan(SAMPLE)
    shown = tuple(sample for sample in dataset.samples if sample.part == "test")[::10]
    learned = tuple(sample for sample in dataset.samples if sample.part == "train")[::20]
    target = tmp_path_factory.mktemp("int8") / "package"
    splits = Splits(learned, shown[::2], shown[1::2])
    return writer.write(answering(fitted.trained, dataset, splits), dataset, splits, "small", target, int8=True).path


@needs_nncf
def test_the_package_holds_it_and_promises_what_it_keeps(written):
    artifact = read(written)
    assert {INT8_GRAPH, INT8_WEIGHTS} <= set(artifact.manifest.files)
    assert artifact.manifest.files[INT8_WEIGHTS].bytes < artifact.manifest.files["model.onnx"].bytes / 2
    assert "| int8 | " in (written / "README.md").read_text(encoding="utf-8")


@needs_nncf
def test_asked_for_it_answers(written, clothes):
    exact, small = load(written, "cpu", precision="f32"), load(written, "cpu", precision="int8")
    assert (exact.engine.precision, small.engine.precision) == ("f32", "int8")
    same = [exact.classify(image, 1).ranked[0].label == small.classify(image, 1).ranked[0].label for _, image in clothes]
    assert sum(same) >= 8
    assert small.drift > exact.drift


@needs_nncf
def test_an_altered_int8_network_is_refused(written, tmp_path):
    import shutil

    copy = Path(shutil.copytree(written, tmp_path / "package"))
    content = bytearray((copy / INT8_WEIGHTS).read_bytes())
    content[1000] ^= 1
    (copy / INT8_WEIGHTS).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.int8\.bin has sha256"):
        read(copy)


def test_a_package_without_says_how_to_make_one(fitted):
    with pytest.raises(ArtifactError, match=r"has no int8 network\. Make one with: graft fit DIR --int8"):
        load(fitted.artifact.path, "cpu", precision="int8")


def test_without_nncf_a_fit_ends_before_it_begins(monkeypatch):
    monkeypatch.setattr("graft.training.packaging.quantize.find_spec", lambda name: None)
    quantize.require(int8=False)
    with pytest.raises(ValueError, match="--int8: nncf is not installed"):
        quantize.require(int8=True)
