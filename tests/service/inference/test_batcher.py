"""Batcher, in front of an engine that the tests block and release."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from graft.service.errors import Overloaded
from graft.service.inference.batcher import Batcher
from graft.service.inference.engine import DeviceFailed, Outputs, Pixels

FAILING = 13
PATIENCE = 30  # seconds until a hung test fails; never reached otherwise


class HeldEngine:
    """Returns the first pixel of each image; waits for `go` in every call."""

    device, precision = "cpu", "f32"

    def __init__(self, max_batch: int = 1, streams: int = 1) -> None:
        self.max_batch, self.streams = max_batch, streams
        self.started, self.release = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, batch: Pixels) -> Outputs:
        self.batches.append(batch[:, 0, 0, 0].tolist())
        self.started.set()
        assert self.release.wait(PATIENCE)
        if FAILING in batch:
            raise RuntimeError("failing image")
        values = batch[:, 0, 0, :1].astype(np.float32)
        return Outputs(values, -values)


class DeadGpuEngine(HeldEngine):
    """A GPU that fails: after some calls, every one raises the same error."""

    def __init__(self, error: Exception, max_batch: int = 1, n_good_calls: int = 0) -> None:
        super().__init__(max_batch)
        self.error, self.n_good_calls = error, n_good_calls

    def __call__(self, batch: Pixels) -> Outputs:
        outputs = super().__call__(batch)
        if len(self.batches) <= self.n_good_calls:
            return outputs
        raise self.error


class BarrierEngine:
    """A call returns only after a second, parallel call."""

    device, precision, max_batch, streams = "cpu", "f32", 1, 2

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=PATIENCE)

    def __call__(self, batch: Pixels) -> Outputs:
        self.barrier.wait()
        return Outputs(batch[:, 0, 0, :1].astype(np.float32), np.zeros((1, 1), np.float32))


def image(value: int) -> Pixels:
    return np.full((1, 1, 3), value, np.uint8)


def value_of(future: Future[Outputs]) -> float:
    return float(future.result(PATIENCE).logits[0, 0])


@contextmanager
def batching(engine, max_waiting: int = 64, deadline_s: float = 600) -> Iterator[Batcher]:
    batcher = Batcher(engine, max_waiting, deadline_s)
    try:
        yield batcher
    finally:
        engine.release.set()
        batcher.close()


@contextmanager
def held(engine: HeldEngine, max_waiting: int = 64) -> Iterator[tuple[Batcher, Future[Outputs]]]:
    """A batcher whose only thread is blocked in the engine with image 0."""
    with batching(engine, max_waiting) as batcher:
        first = batcher.submit(image(0))
        assert engine.started.wait(PATIENCE)
        yield batcher, first


@pytest.mark.parametrize(("max_batch", "streams"), [(1, 1), (8, 1), (1, 3), (8, 3)])
def test_every_caller_gets_its_own_result(max_batch, streams):
    engine = HeldEngine(max_batch, streams)
    engine.release.set()
    values = [value for value in range(256) if value != FAILING]
    with batching(engine, max_waiting=256) as batcher, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda value: value_of(batcher.submit(image(value))), values))
    assert results == values


def test_a_result_has_one_row_of_logits_and_vectors():
    engine = HeldEngine()
    engine.release.set()
    with batching(engine) as batcher:
        logits, vectors = batcher.submit(image(7)).result(PATIENCE)
    assert (logits.tolist(), vectors.tolist()) == ([[7.0]], [[-7.0]])


def test_queued_images_are_batched_up_to_max_batch():
    engine = HeldEngine(max_batch=3)
    with held(engine) as (batcher, _):
        futures = [batcher.submit(image(value)) for value in (1, 2, 3, 4, 5)]
        engine.release.set()
        assert [value_of(future) for future in futures] == [1, 2, 3, 4, 5]
    assert engine.batches == [[0], [1, 2, 3], [4, 5]]


def test_streams_run_in_parallel():
    batcher = Batcher(BarrierEngine(), 8, 600)
    futures = [batcher.submit(image(value)) for value in (1, 2)]
    assert [value_of(future) for future in futures] == [1, 2]
    batcher.close()


def test_a_full_queue_rejects_immediately():
    engine = HeldEngine()
    with held(engine, max_waiting=2) as (batcher, _):
        batcher.submit(image(1))
        batcher.submit(image(2))
        with pytest.raises(Overloaded, match="2 images are waiting"):
            batcher.submit(image(3))
        assert not engine.release.is_set()


def test_a_drained_queue_accepts_again():
    engine = HeldEngine()
    with held(engine, max_waiting=1) as (batcher, _):
        queued = batcher.submit(image(1))
        engine.release.set()
        assert (value_of(queued), value_of(batcher.submit(image(2)))) == (1, 2)


def test_an_image_past_its_deadline_is_rejected():
    # A deadline in the past needs no sleep.
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
        cancelled, active = batcher.submit(image(1)), batcher.submit(image(2))
        assert cancelled.cancel()
        engine.release.set()
        assert value_of(active) == 2
    assert engine.batches == [[0], [2]]


def test_a_cancelled_image_has_no_result():
    engine = HeldEngine()
    with held(engine) as (batcher, _):
        cancelled = batcher.submit(image(1))
        cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE)


def test_a_running_image_cannot_be_cancelled():
    engine = HeldEngine()
    with held(engine) as (_, first):
        assert not first.cancel()


def test_a_failing_image_does_not_fail_the_rest_of_its_batch():
    engine = HeldEngine(max_batch=2)
    with held(engine) as (batcher, first):
        failing, same_batch, next_batch = (batcher.submit(image(value)) for value in (FAILING, 1, 2))
        engine.release.set()
        assert [str(future.exception(PATIENCE)) for future in (first, failing, same_batch, next_batch)] == [
            "None",
            "failing image",
            "None",
            "None",
        ]


AcceleratorError = type("AcceleratorError", (RuntimeError,), {})  # torch's, by name
OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DeviceFailed("CUDA error: unspecified launch failure"), "CUDA error: unspecified launch failure"),
        (AcceleratorError("CUDA error: device-side assert\nCompile with"), "CUDA error: device-side assert"),
        (AcceleratorError(), "unknown error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"), "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
    ],
)
def test_a_failed_device_is_called_once_for_all_waiting_images(error, reason):
    engine = DeadGpuEngine(error, max_batch=3)
    with held(engine) as (batcher, first):
        futures = [first, *(batcher.submit(image(value)) for value in range(1, 9))]
        assert batcher.failure is None
        engine.release.set()
        errors = [future.exception(PATIENCE) for future in futures]
        assert str(batcher.failure) == reason
        assert isinstance(batcher.submit(image(9)).exception(PATIENCE), DeviceFailed)
    assert [(type(found), str(found)) for found in errors] == [(DeviceFailed, reason)] * 9
    assert engine.batches == [[0]]


def test_a_batch_that_the_device_fails_is_not_asked_again_one_by_one():
    engine = DeadGpuEngine(DeviceFailed("lost"), max_batch=64, n_good_calls=1)
    with held(engine) as (batcher, first):
        futures = [batcher.submit(image(value)) for value in range(20, 84)]
        engine.release.set()
        assert value_of(first) == 0
        assert {str(future.exception(PATIENCE)) for future in futures} == {"lost"}
    assert [len(batch) for batch in engine.batches] == [1, 64]


@pytest.mark.parametrize("error", [RuntimeError("failing image"), OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_other_errors_are_not_those_of_the_device(error):
    with batching(DeadGpuEngine(error)) as batcher:
        batcher._engine.release.set()
        assert batcher.submit(image(1)).exception(PATIENCE) is error
        assert batcher.failure is None


def test_a_thread_continues_after_an_error():
    engine = HeldEngine()
    engine.release.set()
    with batching(engine) as batcher:
        batcher.submit(image(FAILING)).exception(PATIENCE)
        assert value_of(batcher.submit(image(1))) == 1


def test_images_of_different_sizes_do_not_stop_the_thread():
    engine = HeldEngine(max_batch=2)
    with held(engine) as (batcher, _):
        regular = batcher.submit(image(1))
        odd = batcher.submit(np.zeros((2, 2, 3), np.uint8))
        engine.release.set()
        assert odd.exception(PATIENCE) is None  # this engine accepts any size
        assert value_of(regular) == 1
        assert value_of(batcher.submit(image(3))) == 3


@pytest.mark.parametrize(("max_batch", "streams"), [(1, 1), (4, 1), (1, 2), (4, 2)])
def test_closing_finishes_queued_images(max_batch, streams):
    engine = HeldEngine(max_batch, streams)
    with batching(engine) as batcher:
        futures = [batcher.submit(image(value)) for value in range(1, 11)]
    assert [future.done() and value_of(future) for future in futures] == list(range(1, 11))


def test_closing_stops_the_threads():
    before = set(threading.enumerate())
    with batching(HeldEngine(streams=3)):
        threads = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("stream-")]
    assert [thread.is_alive() for thread in threads] == [False, False, False]
