"""The queue in front of an engine that the tests hold back and let go."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from graft.service.errors import Overloaded
from graft.service.inference.batcher import Batcher
from graft.service.inference.engine import Outputs, Pixels

UNLUCKY = 13
PATIENCE = 30  # seconds until a hung test fails; never reached otherwise


class HeldEngine:
    """Answers each image with its own first pixel; waits for `go` in every call."""

    device, precision = "cpu", "f32"

    def __init__(self, max_batch: int = 1, lanes: int = 1) -> None:
        self.max_batch, self.lanes = max_batch, lanes
        self.begun, self.go = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, batch: Pixels) -> Outputs:
        self.batches.append(batch[:, 0, 0, 0].tolist())
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if UNLUCKY in batch:
            raise RuntimeError("thirteen")
        values = batch[:, 0, 0, :1].astype(np.float32)
        return Outputs(values, -values)


class MeetingEngine:
    """A call returns only once another lane has called too."""

    device, precision, max_batch, lanes = "cpu", "f32", 1, 2

    def __init__(self) -> None:
        self.meeting = threading.Barrier(2, timeout=PATIENCE)

    def __call__(self, batch: Pixels) -> Outputs:
        self.meeting.wait()
        return Outputs(batch[:, 0, 0, :1].astype(np.float32), np.zeros((1, 1), np.float32))


def image(value: int) -> Pixels:
    return np.full((1, 1, 3), value, np.uint8)


def answer(promise: Future[Outputs]) -> float:
    return float(promise.result(PATIENCE).logits[0, 0])


@contextmanager
def batching(engine, max_waiting: int = 64, deadline_s: float = 600) -> Iterator[Batcher]:
    batcher = Batcher(engine, max_waiting, deadline_s)
    try:
        yield batcher
    finally:
        engine.go.set()
        batcher.close()


@contextmanager
def held(engine: HeldEngine, max_waiting: int = 64) -> Iterator[tuple[Batcher, Future[Outputs]]]:
    """A batcher whose only lane is inside the engine with image 0."""
    with batching(engine, max_waiting) as batcher:
        first = batcher.submit(image(0))
        assert engine.begun.wait(PATIENCE)
        yield batcher, first


@pytest.mark.parametrize(("max_batch", "lanes"), [(1, 1), (8, 1), (1, 3), (8, 3)])
def test_every_asker_gets_the_own_answer(max_batch, lanes):
    engine = HeldEngine(max_batch, lanes)
    engine.go.set()
    values = [value for value in range(256) if value != UNLUCKY]
    with batching(engine, max_waiting=256) as batcher, ThreadPoolExecutor(8) as askers:
        answers = list(askers.map(lambda value: answer(batcher.submit(image(value))), values))
    assert answers == values


def test_an_answer_holds_one_row_of_logits_and_of_vectors():
    engine = HeldEngine()
    engine.go.set()
    with batching(engine) as batcher:
        logits, vectors = batcher.submit(image(7)).result(PATIENCE)
    assert (logits.tolist(), vectors.tolist()) == ([[7.0]], [[-7.0]])


def test_what_waits_is_computed_together_up_to_max_batch():
    engine = HeldEngine(max_batch=3)
    with held(engine) as (batcher, _):
        promises = [batcher.submit(image(value)) for value in (1, 2, 3, 4, 5)]
        engine.go.set()
        assert [answer(promise) for promise in promises] == [1, 2, 3, 4, 5]
    assert engine.batches == [[0], [1, 2, 3], [4, 5]]


def test_lanes_run_side_by_side():
    batcher = Batcher(MeetingEngine(), 8, 600)
    promises = [batcher.submit(image(value)) for value in (1, 2)]
    assert [answer(promise) for promise in promises] == [1, 2]
    batcher.close()


def test_a_full_queue_refuses_at_once():
    engine = HeldEngine()
    with held(engine, max_waiting=2) as (batcher, _):
        batcher.submit(image(1))
        batcher.submit(image(2))
        with pytest.raises(Overloaded, match="2 images are waiting already"):
            batcher.submit(image(3))
        assert not engine.go.is_set()


def test_a_queue_that_emptied_accepts_again():
    engine = HeldEngine()
    with held(engine, max_waiting=1) as (batcher, _):
        waiting = batcher.submit(image(1))
        engine.go.set()
        assert (answer(waiting), answer(batcher.submit(image(2)))) == (1, 2)


def test_an_image_past_its_deadline_is_refused():
    # A deadline that lies behind us already needs no sleeping.
    with batching(HeldEngine(), deadline_s=-1) as batcher, pytest.raises(Overloaded, match="past its deadline"):
        batcher.submit(image(1)).result(PATIENCE)


def test_an_image_past_its_deadline_is_not_computed():
    engine = HeldEngine()
    with batching(engine, deadline_s=-1) as batcher:
        batcher.submit(image(1)).exception(PATIENCE)
    assert engine.batches == []


def test_a_cancelled_image_is_not_computed():
    engine = HeldEngine()
    with held(engine) as (batcher, _):
        unwanted, wanted = batcher.submit(image(1)), batcher.submit(image(2))
        assert unwanted.cancel()
        engine.go.set()
        assert answer(wanted) == 2
    assert engine.batches == [[0], [2]]


def test_a_cancelled_image_stays_unanswered():
    engine = HeldEngine()
    with held(engine) as (batcher, _):
        unwanted = batcher.submit(image(1))
        unwanted.cancel()
    with pytest.raises(CancelledError):
        unwanted.result(PATIENCE)


def test_what_has_begun_cannot_be_cancelled():
    engine = HeldEngine()
    with held(engine) as (_, first):
        assert not first.cancel()


def test_an_image_that_fails_costs_those_that_came_with_it_nothing():
    engine = HeldEngine(max_batch=2)
    with held(engine) as (batcher, first):
        unlucky, beside, after = (batcher.submit(image(value)) for value in (UNLUCKY, 1, 2))
        engine.go.set()
        assert [str(promise.exception(PATIENCE)) for promise in (first, unlucky, beside, after)] == [
            "None",
            "thirteen",
            "None",
            "None",
        ]


def test_a_lane_lives_on_after_an_error():
    engine = HeldEngine()
    engine.go.set()
    with batching(engine) as batcher:
        batcher.submit(image(UNLUCKY)).exception(PATIENCE)
        assert answer(batcher.submit(image(1))) == 1


def test_images_of_different_sizes_do_not_end_the_lane():
    engine = HeldEngine(max_batch=2)
    with held(engine) as (batcher, _):
        even = batcher.submit(image(1))
        odd = batcher.submit(np.zeros((2, 2, 3), np.uint8))
        engine.go.set()
        assert odd.exception(PATIENCE) is None  # this engine takes any size, as long as it is one
        assert answer(even) == 1
        assert answer(batcher.submit(image(3))) == 3


@pytest.mark.parametrize(("max_batch", "lanes"), [(1, 1), (4, 1), (1, 2), (4, 2)])
def test_closing_finishes_what_waits(max_batch, lanes):
    engine = HeldEngine(max_batch, lanes)
    with batching(engine) as batcher:
        promises = [batcher.submit(image(value)) for value in range(1, 11)]
    assert [promise.done() and answer(promise) for promise in promises] == list(range(1, 11))


def test_closing_ends_the_lanes():
    before = set(threading.enumerate())
    with batching(HeldEngine(lanes=3)):
        lanes = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("lane-")]
    assert [lane.is_alive() for lane in lanes] == [False, False, False]
