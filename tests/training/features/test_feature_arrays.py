"""Lazy features behave like arrays and load only the requested rows and columns."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.training.features.feature_arrays import LazyFeatures, select_columns, to_float32

STORED = np.arange(12, dtype=np.float16).reshape(4, 3)
TWO_VIEWS = LazyFeatures(STORED, np.array([[3, 0], [1, 2]]))


def test_every_finite_float16_is_converted_exactly():
    all_values = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = all_values[np.isfinite(all_values)]
    np.testing.assert_array_equal(to_float32(finite), finite.astype(np.float32))
    assert np.signbit(to_float32(np.array([-0.0], np.float16)))[0]


def test_rows_are_indexed_like_an_array():
    assert (TWO_VIEWS.shape, TWO_VIEWS.ndim, TWO_VIEWS.size, len(TWO_VIEWS)) == ((2, 2, 3), 3, 12, 2)
    assert TWO_VIEWS[0].tolist() == [[9, 10, 11], [0, 1, 2]]
    assert TWO_VIEWS[:, np.array([1])].tolist() == [[[0, 1, 2]], [[6, 7, 8]]]
    assert TWO_VIEWS[:].dtype == np.float32


@pytest.mark.parametrize("vectors", [TWO_VIEWS, TWO_VIEWS[:]], ids=["on disk", "in memory"])
def test_columns_are_selected_on_disk_and_in_memory(vectors):
    assert select_columns(vectors, slice(1, 3))[:].tolist() == [[[10, 11], [1, 2]], [[4, 5], [7, 8]]]


def test_chunks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr("graft.training.features.feature_arrays.CHUNK_SIZE", 2)
    chunks = list(LazyFeatures(STORED, np.array([3, 1, 0])).chunks())
    assert [chunk.tolist() for chunk in chunks] == [[[9, 10, 11], [3, 4, 5]], [[0, 1, 2]]]


def test_only_selected_rows_and_columns_are_loaded(tmp_path: Path):
    path = tmp_path / "features"
    np.ones((20_000, 500), np.float16).tofile(path)
    stored = np.memmap(path, np.float16, "r", shape=(20_000, 500))
    tracemalloc.start()
    loaded = LazyFeatures(stored, np.arange(20_000)[::-1]).select_columns(slice(0, 100))[:50]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.shape == (50, 100)
    assert peak < 500_000  # all features are 10 MB as float16; the indices are 160 kB
