"""Data loader workers use only the shared memory that there is."""

import shutil
import sys

import pytest

from graft.training.runtime import shared_memory
from graft.training.runtime.shared_memory import affordable_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit shared memory")
BATCH_BYTES = 5 * 10**6


@pytest.fixture(autouse=True)
def limited(monkeypatch):
    """64 MB, as in a Docker container."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=64 * 10**6))
    shared_memory._note_once.cache_clear()


@pytest.mark.parametrize(("requested", "affordable"), [(0, 0), (1, 1), (4, 4), (5, 4), (16, 4)])
def test_there_are_as_many_workers_as_have_room(tmp_path, requested, affordable):
    assert affordable_workers(requested, BATCH_BYTES, tmp_path) == affordable


def test_a_note_says_once_how_to_get_more(tmp_path, capsys):
    affordable_workers(4, BATCH_BYTES, tmp_path)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        affordable_workers(16, BATCH_BYTES, tmp_path)
    assert capsys.readouterr().err == (
        f"loading images in 16 processes needs 240 MB of shared memory, but {tmp_path} has 64 MB: 4 processes are used,"
        " which is slower. In Docker, set --shm-size=1g\n"
    )


def test_without_shared_memory_images_are_loaded_in_the_main_process(tmp_path):
    assert affordable_workers(16, BATCH_BYTES, tmp_path / "none") == 0
