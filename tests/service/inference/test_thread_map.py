"""Ordered thread map: order, laziness, concurrency and errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from graft.service.inference.thread_map import MAX_PENDING_PER_WORKER, ordered_map


def test_results_are_in_item_order():
    def slow_if_even(number: int) -> int:
        time.sleep(0.01 * (number % 2 == 0))
        return number

    assert list(ordered_map(slow_if_even, range(40), workers=4)) == list(range(40))


def test_no_items():
    assert list(ordered_map(str, [], workers=2)) == []


def test_items_are_consumed_lazily():
    consumed: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            consumed.append(len(consumed))
            yield consumed[-1]

    results = ordered_map(str, endless(), workers=2)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(consumed) <= 2 * MAX_PENDING_PER_WORKER + 5
    results.close()


def test_workers_run_concurrently():
    barrier = threading.Barrier(3, timeout=10)  # passes only when three threads wait at once
    assert sorted(ordered_map(lambda _: barrier.wait(), range(3), workers=3)) == [0, 1, 2]


def test_error_is_raised_in_item_order():
    results = ordered_map(lambda number: 6 // number, [3, 2, 0, 1], workers=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_cancels_pending_calls():
    started: list[int] = []
    resume = threading.Event()

    def start(number: int) -> int:
        started.append(number)
        if number > 0:
            resume.wait(10)
        return number

    results = ordered_map(start, range(1000), workers=2)
    assert next(results) == 0
    threading.Timer(0.1, resume.set).start()
    results.close()
    assert len(started) <= 2 * MAX_PENDING_PER_WORKER
    count = len(started)
    time.sleep(0.05)
    assert len(started) == count
