"""A data loader worker that fails is one line with the file that it was reading."""

from types import SimpleNamespace

import pytest

from graft.training.data.errors import DatasetError
from graft.training.finetuning.worker_errors import explain_worker_failure


def loader(*rows: int) -> SimpleNamespace:
    """A loader whose workers are reading these rows."""
    images = SimpleNamespace(samples=[SimpleNamespace(path=f"{row}.jpg") for row in range(5)])
    return SimpleNamespace(dataset=SimpleNamespace(images=images, worker_progress=SimpleNamespace(current_rows=lambda: rows)))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
    ],
)
def test_dead_worker_names_its_file(error):
    with (
        pytest.raises(DatasetError, match=r"^A data loader worker failed at 3\.jpg \(DataLoader worker .*\)\. Check that file"),
        explain_worker_failure(loader(3)),
    ):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), explain_worker_failure(loader(3)):
        raise RuntimeError("shapes do not match")
