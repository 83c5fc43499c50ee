"""The cache of exported backbones: a prepared one is read even where it cannot be written, and failures name the cause."""

import errno

import pytest

from graft.training.backbones.onnx_cache import _export_error, load_or_export
from graft.training.backbones.registry import BackboneError, BackboneSpec
from graft.training.runtime import cache_dir

LITE0 = BackboneSpec("tf_efficientnet_lite0", "package")


def test_a_prepared_cache_is_read_where_it_cannot_be_written(fitted, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_dir, "_writable", lambda _: tmp_path)
    exported = load_or_export(LITE0, 128, 28, "crop")
    assert exported.folder.is_relative_to(cache)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("last_line", "number"),
    [("OSError: [Errno 28] No space left on device", errno.ENOSPC), ("I/O error: … (os error 30)", errno.EROFS)],
)
def test_a_full_or_read_only_disk_names_the_setting(tmp_path, last_line, number):
    error = _export_error(f"Traceback\n  File\n{last_line}", 1, tmp_path)
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (number, str(tmp_path))
    assert "Set GRAFT_CACHE" in error.strerror


def test_an_expected_failure_keeps_its_message(tmp_path):
    error = _export_error("Traceback\n…BackboneError: There are no weights.\nTry others.", 1, tmp_path)
    assert isinstance(error, BackboneError)
    assert str(error) == "There are no weights.\nTry others."


def test_a_killed_export_says_how_it_ended(tmp_path):
    assert str(_export_error("", -9, tmp_path)) == "The export ended with exit code -9: no output"
