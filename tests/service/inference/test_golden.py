"""Golden samples: saved and loaded without pickle."""

import numpy as np
import pytest

from graft.service.inference.golden import GoldenSamples
from graft.service.package_arrays import ContentError


def test_they_round_trip(tmp_path):
    exact, rounded = np.array([[1.5, -2], [0, 1], [3, 4]], np.float32), np.array([[1, -2], [0, 1], [3, 4]], np.float32)
    golden = GoldenSamples((b"one", b"", b"three\0"), {"f32": exact, "f16": rounded})
    golden.save(tmp_path / "golden.npz")
    found = GoldenSamples.load(tmp_path / "golden.npz", ["f32", "f16"])
    assert found.encoded == golden.encoded
    assert {name: logits.tolist() for name, logits in found.logits.items()} == {
        "f32": [[1.5, -2], [0, 1], [3, 4]],
        "f16": [[1, -2], [0, 1], [3, 4]],
    }


def test_the_logits_of_every_precision_of_the_manifest_are_needed(tmp_path):
    GoldenSamples((b"one",), {"f32": np.zeros((1, 2), np.float32)}).save(tmp_path / "golden.npz")
    with pytest.raises(ContentError, match="does not contain exactly"):
        GoldenSamples.load(tmp_path / "golden.npz", ["f32", "bf16"])


def test_logits_that_are_not_finite_are_refused_in_every_precision(tmp_path):
    rows = np.zeros((1, 2), np.float32)
    GoldenSamples((b"one",), {"f32": rows, "f16": rows + np.float32(np.inf)}).save(tmp_path / "golden.npz")
    with pytest.raises(ContentError, match="not finite"):
        GoldenSamples.load(tmp_path / "golden.npz", ["f32", "f16"])


def test_they_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "golden.npz", content=np.array([print], object), ends=np.array([1]), logits_f32=np.zeros((1, 2)))
    with pytest.raises(ContentError, match=r"has content of type \|O"):
        GoldenSamples.load(tmp_path / "golden.npz", ["f32"])
