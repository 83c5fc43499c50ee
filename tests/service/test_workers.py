"""Several workers share the GPUs and the cores of a machine."""

import multiprocessing
import os

import pytest

from graft.service.workers import Workers, core_share


@pytest.mark.parametrize(
    ("n_cores", "n_workers", "shares"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3, 4]]),
        (2, 3, [[0], [0], [1]]),
        (1, 2, [[0], [0]]),
    ],
)
def test_cores_are_divided_and_every_worker_has_one(n_cores, n_workers, shares):
    found = [core_share(list(range(n_cores)), index, n_workers) for index in range(n_workers)]
    assert found == shares or all(found)
    assert set().union(*found) == set(range(n_cores))


def take(index: int, n_workers: int, visible: str | None, results) -> None:
    if visible is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    Workers(n_workers, "").take_share(index)
    results.put((os.environ.get("CUDA_VISIBLE_DEVICES"), len(os.sched_getaffinity(0))))


@pytest.mark.parametrize(
    ("n_workers", "visible", "cards"),
    [
        (2, None, ["0", "1"]),
        (2, "3,1", ["3", "1"]),
        (2, "GPU-8f3a, GPU-11c0", ["GPU-8f3a", "GPU-11c0"]),
        (1, "0,1", ["0,1"]),
        (1, None, [None]),
    ],
)
def test_each_worker_sees_its_own_card(n_workers, visible, cards):
    context, n_cores = multiprocessing.get_context("fork"), len(os.sched_getaffinity(0))
    results = context.SimpleQueue()
    found = []
    for index in range(n_workers):
        process = context.Process(target=take, args=(index, n_workers, visible, results))
        process.start()
        process.join()
        found.append(results.get())
    assert [card for card, _ in found] == cards
    assert all(n == max(1, n_cores // n_workers) or n_cores % n_workers for _, n in found)


def test_only_several_workers_need_a_folder():
    assert Workers.create(1) == Workers(1, "")
    several = Workers.create(3)
    assert several.n == 3
    assert os.path.isdir(several.metrics)
