"""Many items in several threads, in order, without ever holding them all."""

import threading
import time
from collections.abc import Iterator

import pytest

from graft.training.runtime.thread_map import AHEAD, each


def test_results_come_in_the_order_of_the_items():
    def slow_if_even(number: int) -> int:
        time.sleep(0.01 * (number % 2 == 0))
        return number

    assert list(each(slow_if_even, range(40), workers=4)) == list(range(40))


def test_nothing_of_nothing():
    assert list(each(str, [], workers=2)) == []


def test_items_are_taken_only_as_results_are_asked_for():
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = each(str, endless(), workers=2)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(taken) <= 2 * AHEAD + 5
    results.close()


def test_workers_run_side_by_side():
    meeting = threading.Barrier(3, timeout=10)  # nobody passes until three are there at once
    assert sorted(each(lambda _: meeting.wait(), range(3), workers=3)) == [0, 1, 2]


def test_an_error_comes_at_its_items_turn():
    results = each(lambda number: 6 // number, [3, 2, 0, 1], workers=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_has_not_begun_when_nobody_listens_any_more_never_does():
    begun: list[int] = []
    go_on = threading.Event()

    def begin(number: int) -> int:
        begun.append(number)
        if number > 0:
            go_on.wait(10)
        return number

    results = each(begin, range(1000), workers=2)
    assert next(results) == 0
    threading.Timer(0.1, go_on.set).start()
    results.close()
    assert len(begun) <= 2 * AHEAD
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count
