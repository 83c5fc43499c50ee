"""The optional int8 network: smaller, nearly the same predictions, used only on request."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from other_predictions import with_predictions

from graft.service.artifact import ArtifactError, read
from graft.service.inference.model import load
from graft.service.manifest import INT8_GRAPH, INT8_WEIGHTS
from graft.training.data.dataset import scan
from graft.training.data.seen_images import NO_IMAGES
from graft.training.data.splits import Splits
from graft.training.packaging import quantize, writer
from graft.training.sample import SAMPLE

pytestmark = pytest.mark.slow

needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="needs graft-vision[int8]")


@pytest.fixture(scope="module")
def written(fitted, tmp_path_factory) -> Path:
    dataset = scan(SAMPLE)
    test = tuple(sample for sample in dataset.samples if sample.split == "test")[::10]
    train = tuple(sample for sample in dataset.samples if sample.split == "train")[::20]
    target = tmp_path_factory.mktemp("int8") / "package"
    splits = Splits(train, test[::2], test[1::2])
    return writer.write(
        with_predictions(fitted.trained, dataset, splits), dataset, splits, NO_IMAGES, "small", target, int8=True
    ).path


@needs_nncf
def test_package_contains_a_smaller_int8_network(written):
    artifact = read(written)
    assert {INT8_GRAPH, INT8_WEIGHTS} <= set(artifact.manifest.files)
    assert artifact.manifest.files[INT8_WEIGHTS].bytes < artifact.manifest.files["model.onnx"].bytes / 2
    assert "| int8 | " in (written / "README.md").read_text(encoding="utf-8")


@needs_nncf
def test_int8_predictions_are_close_to_f32(written, clothes):
    exact, quantized = load(written, "cpu", precision="f32"), load(written, "cpu", precision="int8")
    assert (exact.engine.precision, quantized.engine.precision) == ("f32", "int8")
    same = [exact.classify(image, 1).ranked[0].label == quantized.classify(image, 1).ranked[0].label for _, image in clothes]
    assert sum(same) >= 8
    golden = exact.contents.golden.logits
    assert 1e-3 < np.abs(golden["int8"] - golden["f32"]).max() < 5  # answers of its own
    assert quantized.passes


@needs_nncf
def test_modified_int8_network_is_rejected(written, tmp_path):
    import shutil

    copy = Path(shutil.copytree(written, tmp_path / "package"))
    content = bytearray((copy / INT8_WEIGHTS).read_bytes())
    content[1000] ^= 1
    (copy / INT8_WEIGHTS).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.int8\.bin has sha256"):
        read(copy)


def test_package_without_int8_says_how_to_create_it(fitted):
    with pytest.raises(ArtifactError, match=r"has no int8 network\. Create one with: graft fit DIR --int8"):
        load(fitted.artifact.path, "cpu", precision="int8")


def test_missing_nncf_is_reported_before_training(monkeypatch):
    monkeypatch.setattr("graft.training.packaging.quantize.find_spec", lambda name: None)
    quantize.require_nncf(int8=False)
    with pytest.raises(ValueError, match="--int8: nncf is not installed"):
        quantize.require_nncf(int8=True)
