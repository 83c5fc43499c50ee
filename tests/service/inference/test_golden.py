"""Golden samples: saved and loaded without pickle."""

import numpy as np
import pytest

from graft.service.inference.golden import GoldenSamples
from graft.service.package_arrays import ContentError


def test_they_round_trip(tmp_path):
    golden = GoldenSamples((b"one", b"", b"three\0"), np.array([[1.5, -2], [0, 1], [3, 4]], np.float32))
    golden.save(tmp_path / "golden.npz")
    found = GoldenSamples.load(tmp_path / "golden.npz")
    assert (found.encoded, found.logits.tolist()) == (golden.encoded, [[1.5, -2], [0, 1], [3, 4]])


def test_they_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "golden.npz", content=np.array([print], object), ends=np.array([1]), logits=np.zeros((1, 2)))
    with pytest.raises(ContentError, match=r"has content of type \|O"):
        GoldenSamples.load(tmp_path / "golden.npz")
