"""DecoderPool: an image that crashes or blocks its worker process fails alone."""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import uvloop
from fake_decode_worker import ACTORS, act
from hostile_corpus import corpus
from PIL import Image
from server_process import poll_until
from threaded_pool import ThreadedPool

from graft.service.decoding import pool
from graft.service.decoding.pool import DecoderPool
from graft.service.decoding.worker_process import COMMAND
from graft.service.errors import ImageError, Overloaded
from graft.service.imaging.decode_cost import COSTLY_MS
from graft.service.imaging.headers import ImageLimits
from graft.service.imaging.preprocess import decode
from graft.service.manifest import Preprocessing

PATIENCE = 60  # seconds until a hung test fails; never reached otherwise
PREPROCESSING = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@contextmanager
def decoding(
    workers: int = 1,
    max_waiting: int = 100,
    deadline_s: float = PATIENCE,
    max_bytes: int = 2**28,
    command: tuple[str, ...] = COMMAND,
    limits: ImageLimits = ImageLimits(),
) -> Iterator[ThreadedPool]:
    decoder = ThreadedPool(PREPROCESSING, limits, workers, max_waiting, deadline_s, max_bytes, command)
    try:
        yield decoder
    finally:
        decoder.close()


@pytest.fixture(scope="module")
def fake_pool() -> Iterator[ThreadedPool]:
    """A decoder pool with workers that execute the command in the image."""
    with decoding(command=ACTORS) as decoder:
        yield decoder


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[ThreadedPool, bytes, Callable[[], None]]]:
    """A pool with one worker and two slots, an image that blocks it, and a function that releases it."""
    with decoding(command=ACTORS, max_waiting=2) as decoder:
        try:
            yield decoder, act(f"hold {tmp_path}"), (tmp_path / "go").touch
        finally:
            (tmp_path / "go").touch()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def error_of(decoder: ThreadedPool, image: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decoder.submit(image).result(PATIENCE)
    return caught.value


def processes() -> list[psutil.Process]:
    """The child processes of this process: the fork server and its workers."""
    return psutil.Process().children(recursive=True)


def workers_since(before: list[psutil.Process]) -> tuple[psutil.Process, psutil.Process]:
    """The two workers of a pool that was started since: for ordinary images, and for costly ones."""

    def found() -> list[psutil.Process]:
        """Without one that has just been killed, which is a child for a moment more."""
        new = [process for process in processes() if process not in before]
        with suppress(psutil.NoSuchProcess):
            workers = [process for process in new if process.status() != psutil.STATUS_ZOMBIE and not process.children()]
            return workers if len(workers) == 2 else []
        return []

    first, second = poll_until(found)
    return (first, second) if first.nice() < second.nice() else (second, first)


def test_pixels_are_those_of_the_one_decoding_function(encode, photo):
    encoded = encode(photo, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    with decoding() as decoder:
        found, expected = decoder.submit(encoded).result(PATIENCE), decode(encoded, PREPROCESSING)
    assert np.array_equal(found.pixels, expected.pixels)
    assert (found.pixels.dtype, found.pixels.shape) == (np.uint8, (32, 32, 3))
    assert (found.width, found.height, found.format, found.notes) == (60, 80, "JPEG", ())


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_12_bit_pixels_are_scaled_as_in_training(encode, format):
    encoded = encode(np.linspace(0, 4095, 1600).astype(np.uint16).reshape(40, 40), format)
    preprocessing = PREPROCESSING.model_copy(update={"sample_bits": 12})
    with closing(ThreadedPool(preprocessing, ImageLimits(), 1, 8, PATIENCE, 2**30)) as decoder:
        found = decoder.submit(encoded).result(PATIENCE).pixels
    assert np.array_equal(found, decode(encoded, preprocessing).pixels)
    assert (found.min(), found.max()) == (15, 240)  # the corners are cropped


def test_notes_come_through(encode):
    with decoding() as decoder:
        notes = decoder.submit(encode(np.zeros((1, 1, 4), np.uint8))).result(PATIENCE).notes
    assert notes == ("tiny: fewer than 16 pixels on a side", "transparent: every pixel is fully transparent")


def test_every_hostile_file_gets_its_error_code():
    with decoding(workers=2, max_waiting=1000, deadline_s=PATIENCE, max_bytes=2**30) as decoder:
        futures = {name: decoder.submit(case.content) for name, case in corpus().items()}
        errors = {name: future.exception(PATIENCE) for name, future in futures.items()}
    found = {name: getattr(error, "code", error) for name, error in errors.items()}
    assert found == {name: case.decode_code for name, case in corpus().items()}


def test_an_image_error_keeps_all_its_fields(encode, photo):
    with decoding() as decoder:
        error = error_of(decoder, encode(np.zeros((1, 51), np.uint8)))
    assert (error.code, error.limit) == ("bad_aspect", "max_aspect")
    assert str(error) == "The image is 51x1 pixels; the longer side may be at most 50 times the shorter side."


def test_limits_reach_the_workers(encode, photo):
    with decoding(limits=ImageLimits(max_side=79)) as decoder:
        assert error_of(decoder, encode(photo)).limit == "max_side"


def test_every_caller_gets_its_own_image():
    with decoding(workers=3, command=ACTORS) as decoder:
        futures = [decoder.submit(b"x" * size) for size in range(1, 50)]
        assert [future.result(PATIENCE).width for future in futures] == list(range(1, 50))


def test_a_full_queue_rejects_immediately(held):
    decoder, hold, go = held
    first = decoder.submit(hold)
    decoder.submit(b"b")
    assert decoder.full
    with pytest.raises(Overloaded, match="2 images are being decoded"):
        decoder.submit(b"c")
    assert not first.done()
    go()
    first.result(PATIENCE)
    until(lambda: not decoder.full)


def test_depth_counts_queued_images(held, tmp_path):
    decoder, hold, _ = held
    assert decoder.depth == 0
    decoder.submit(hold)
    until((tmp_path / "begun").exists)
    decoder.submit(b"b")
    assert decoder.depth == 1


def test_a_cancelled_image_frees_its_slot_and_is_not_decoded(held, tmp_path):
    decoder, hold, go = held
    first = decoder.submit(hold)
    until((tmp_path / "begun").exists)
    cancelled = decoder.submit(act("die"))
    assert cancelled.cancel()
    until(lambda: not decoder.full)
    last = decoder.submit(b"c")
    go()
    assert (first.result(PATIENCE).notes, last.result(PATIENCE).width) == (("acted",), 1)
    with pytest.raises(CancelledError):
        cancelled.result()


@pytest.mark.parametrize("image", [b"fine", act("die"), act("break")])
def test_a_finished_image_frees_its_slot(image):
    with decoding(max_waiting=1, command=ACTORS) as decoder:
        for _ in range(3):
            decoder.submit(image).exception(PATIENCE)
            until(lambda: not decoder.full)


COSTLY = COSTLY_MS + 1


def test_a_costly_image_does_not_delay_ordinary_ones(held, tmp_path):
    decoder, hold, _ = held
    costly = decoder.submit(hold, COSTLY)
    until((tmp_path / "begun").exists)
    assert decoder.submit(b"ordinary").result(PATIENCE).width == 8
    assert not costly.done()


def test_an_ordinary_image_does_not_delay_costly_ones(held, tmp_path):
    decoder, hold, _ = held
    decoder.submit(hold)
    until((tmp_path / "begun").exists)
    assert decoder.submit(b"costly", COSTLY).result(PATIENCE).width == 6


def test_costly_images_wait_for_each_other(held, tmp_path):
    decoder, hold, go = held
    first = decoder.submit(hold, COSTLY)
    until((tmp_path / "begun").exists)
    second = decoder.submit(b"costly", COSTLY)
    assert (decoder.depth, first.done(), second.done()) == (1, False, False)
    go()
    assert second.result(PATIENCE).width == 6


def test_costly_images_are_decoded_at_the_lowest_priority():
    before = processes()
    with decoding(command=ACTORS) as decoder:
        ordinary, costly = workers_since(before)
        assert (ordinary.nice(), costly.nice()) == (psutil.Process().nice(), 19)
        assert decoder.submit(act("die"), COSTLY).exception(PATIENCE) is not None
        assert decoder.submit(b"costly", COSTLY).result(PATIENCE).width == 6
        assert workers_since(before)[1].nice() == 19  # the replacement too


def test_a_costly_image_has_a_deadline_of_its_own(tmp_path):
    with closing(ThreadedPool(PREPROCESSING, ImageLimits(), 1, 9, 0.2, 2**28, ACTORS, costly_deadline_s=PATIENCE)) as decoder:
        costly = decoder.submit(act(f"hold {tmp_path}"), COSTLY)
        assert str(error_of(decoder, act("sleep"))) == "Decoding the image takes longer than 0.2 seconds."
        (tmp_path / "go").touch()
        assert costly.result(PATIENCE).notes == ("acted",)


def test_small_images_pass_large_ones_of_the_same_queue(tmp_path):
    finished = []
    with decoding(command=ACTORS) as decoder:
        decoder.submit(act(f"hold {tmp_path}"))
        until((tmp_path / "begun").exists)
        for name, cost_ms in (("large", COSTLY_MS), ("small", 5), ("medium", 50), ("small, too", 5)):
            decoder.submit(b"x", cost_ms).add_done_callback(lambda _, name=name: finished.append(name))
        (tmp_path / "go").touch()
    assert finished == ["small", "small, too", "medium", "large"]


def test_a_large_image_passes_small_ones_that_come_much_later(tmp_path, monkeypatch):
    finished = []
    with decoding(command=ACTORS) as decoder:
        decoder.submit(act(f"hold {tmp_path}"))
        until((tmp_path / "begun").exists)
        decoder.submit(b"x", COSTLY_MS).add_done_callback(lambda _: finished.append("large"))
        monkeypatch.setattr(pool, "PATIENCE", 0.0)  # as if the next one came when the patience of the first is over
        monkeypatch.setattr(pool.time, "monotonic", lambda now=time.monotonic() + 60: now)
        decoder.submit(b"x", 1).add_done_callback(lambda _: finished.append("small"))
        monkeypatch.undo()
        (tmp_path / "go").touch()
    assert finished == ["large", "small"]


def test_closing_finishes_queued_images():
    with decoding(command=ACTORS) as decoder:
        futures = [decoder.submit(b"x" * size) for size in (1, 2, 3)]
    assert [future.result(0).width for future in futures] == [1, 2, 3]


def test_a_closed_pool_rejects_images():
    async def run() -> None:
        decoder = DecoderPool(PREPROCESSING, ImageLimits(), 1, 8, PATIENCE, 2**28, ACTORS)
        await decoder.close()
        with pytest.raises(Overloaded, match="shutting down"):
            decoder.submit(b"x")

    asyncio.run(run())


def test_an_image_past_its_deadline_is_cancelled():
    with decoding(deadline_s=0.2, command=ACTORS) as decoder:
        error = error_of(decoder, act("sleep"))
        assert (error.code, error.limit) == ("decode_limit", "decode_deadline_s")
        assert str(error) == "Decoding the image takes longer than 0.2 seconds."
        assert decoder.submit(b"next").result(PATIENCE).width == 4


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_counts_that_is_there_when_the_time_is_over(new_loop):
    """As after a pause of the whole machine."""

    async def run() -> None:
        decoder = DecoderPool(PREPROCESSING, ImageLimits(), 1, 8, 0.5, 2**28, ACTORS)
        decoding = decoder.submit(b"fine")
        while not decoding.started:
            await asyncio.sleep(0)
        time.sleep(1)
        assert (await decoding).width == 4
        await decoder.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def test_an_image_that_no_longer_has_an_event_loop_costs_its_worker_and_no_other_image():
    decoder = DecoderPool(PREPROCESSING, ImageLimits(), 1, 8, PATIENCE, 2**28, ACTORS)

    async def give_up() -> None:
        decoder.submit(act("sleep"))
        await asyncio.sleep(0)

    async def decode_next() -> int:
        try:
            return (await decoder.submit(b"next")).width
        finally:
            await decoder.close()

    asyncio.run(give_up())
    assert asyncio.run(decode_next()) == 4


def test_a_worker_that_speaks_unasked_is_replaced():
    """It may have been taken over by an image, and answer for the next one."""
    before = processes()
    with decoding(command=ACTORS) as decoder:
        worker, _ = workers_since(before)
        assert decoder.submit(act("lie later")).result(PATIENCE).width == 13
        until(lambda: decoder.submit(b"next").result(PATIENCE).width == 4 and not worker.is_running())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit exists only on Linux")
def test_an_image_that_needs_too_much_memory_fails(fake_pool):
    error = error_of(fake_pool, act("eat 400000000"))
    assert (error.code, error.limit) == ("decode_limit", "max_decode_bytes")
    assert str(error) == "Decoding the image takes more than 268,435,456 bytes of memory."
    assert fake_pool.submit(act("eat 100000000")).result(PATIENCE).format == "PNG"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory limit exists only on Linux")
@pytest.mark.parametrize(("format", "settings"), [("WEBP", {"lossless": True}), ("JPEG", {"progressive": True}), ("PNG", {})])
def test_out_of_memory_is_not_reported_as_a_damaged_file(encode, format, settings):
    image = encode(Image.new("RGB", (7000, 6000)), format, **settings)
    with decoding(max_bytes=2**26) as decoder:
        assert error_of(decoder, image).limit == "max_decode_bytes"


@pytest.mark.parametrize("image", [act("die"), act("crash"), act("lie")])
def test_an_image_that_kills_its_worker_fails_alone(fake_pool, image):
    error = error_of(fake_pool, image)
    assert (error.code, error.limit, str(error)) == ("decode_limit", None, "The decoder crashed on this image.")
    assert fake_pool.submit(b"next").result(PATIENCE).width == 4


def test_a_killed_worker_does_not_fail_other_images():
    with decoding(workers=2, command=ACTORS) as decoder:
        futures = [decoder.submit(act("die") if number % 3 == 0 else b"fine") for number in range(30)]
        failed = [future.exception(PATIENCE) is not None for future in futures]
    assert failed == [number % 3 == 0 for number in range(30)]


def test_a_bug_is_logged_but_not_exposed(fake_pool, caplog):
    with pytest.raises(RuntimeError) as caught:
        fake_pool.submit(act("break")).result(PATIENCE)
    assert "secret" not in str(caught.value)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("graft", "ERROR")
    assert "KeyError: '/secret/path'" in record.getMessage()


def test_a_worker_can_open_few_files_and_write_none(fake_pool, tmp_path, caplog):
    assert fake_pool.submit(act("open")).exception(PATIENCE) is not None
    assert fake_pool.submit(act(f"write {tmp_path / 'x'}")).exception(PATIENCE) is not None
    assert ["Too many open files" in caplog.text, "File too large" in caplog.text] == [True, True]


def test_a_worker_has_no_secrets_in_its_environment(monkeypatch):
    monkeypatch.setenv("GRAFT_API_KEY", "secret")
    with decoding(command=ACTORS) as decoder:
        assert decoder.submit(act("environment")).result(PATIENCE).format == "PNG"


def test_fifty_killed_workers_leak_nothing():
    with decoding(workers=2, command=ACTORS) as decoder:
        decoder.submit(b"fine").result(PATIENCE)
        before = psutil.Process().num_fds(), len(processes())
        for _ in range(50):
            assert error_of(decoder, act("die")).code == "decode_limit"
        decoder.submit(b"fine").result(PATIENCE)
        until(lambda: (psutil.Process().num_fds(), len(processes())) == before)


def test_closing_leaks_nothing():
    before = psutil.Process().num_fds(), len(processes())
    with decoding(workers=3) as decoder:
        started = processes()
        assert len(started) - before[1] == 7  # the fork server, and two for each worker
        decoder.submit(b"x").exception(PATIENCE)
    until(lambda: (psutil.Process().num_fds(), len(processes())) == before)


def test_killing_an_idle_worker_fails_no_image(encode, photo):
    before = processes()
    with decoding() as decoder:
        worker, _ = workers_since(before)
        worker.kill()
        until(lambda: not worker.is_running())
        assert decoder.submit(encode(photo)).result(PATIENCE).width == 80


def test_killing_a_busy_worker_fails_its_image(tmp_path):
    before = processes()
    with decoding(command=ACTORS) as decoder:
        future = decoder.submit(act(f"hold {tmp_path}"))
        until((tmp_path / "begun").exists)
        worker, _ = workers_since(before)
        worker.kill()
        assert str(future.exception(PATIENCE)) == "The decoder crashed on this image."
        assert decoder.submit(b"next").result(PATIENCE).width == 4


def test_killing_a_worker_that_receives_an_image_is_reported_once(caplog):
    before = processes()
    with decoding(command=ACTORS) as decoder:
        worker, _ = workers_since(before)
        worker.suspend()
        future = decoder.submit(bytes(2**24))  # more than the socket takes
        until(lambda: decoder.depth == 0)
        worker.kill()
        assert str(future.exception(PATIENCE)) == "The decoder crashed on this image."
        assert decoder.submit(b"next").result(PATIENCE).width == 4
    gc.collect()
    assert not caplog.records  # asyncio would log an error that nobody has retrieved


def test_killing_the_fork_server_fails_no_image(tmp_path):
    before = processes()
    with decoding(workers=2, command=ACTORS) as decoder:
        futures = [decoder.submit(act(f"hold {tmp_path}")) for _ in range(2)]
        until((tmp_path / "begun").exists)
        [fork_server] = [process for process in processes() if process not in before and process.children()]
        fork_server.kill()
        (tmp_path / "go").touch()
        assert [future.result(PATIENCE).notes for future in futures] == [("acted",)] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_process_group_do_not_stop_the_workers(encode, photo, number):
    before = processes()
    with decoding() as decoder:
        for process in set(processes()) - set(before):  # only to the processes of this pool
            process.send_signal(number)
        assert decoder.submit(encode(photo)).result(PATIENCE).width == 80


ORPHANS = """
import asyncio, sys
from graft.service.manifest import Preprocessing
from graft.service.decoding.pool import DecoderPool
from graft.service.imaging.headers import ImageLimits
preprocessing = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
decoder = DecoderPool(preprocessing, ImageLimits(), 2, 9, 600.0, 2**28, tuple(sys.argv[1:]))

async def run():
    decoder.submit(b"ACT burn")
    await asyncio.sleep(0)
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(run())
"""


def test_no_worker_survives_its_server():
    with psutil.Popen([sys.executable, "-c", ORPHANS, *ACTORS], stdout=-1) as server:
        assert server.stdout.readline() == b"started\n"
        workers = server.children(recursive=True)
        server.kill()
        server.wait()
    assert len(workers) == 5
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert alive == []


def test_a_command_that_does_not_start_is_reported_immediately():
    with pytest.raises(RuntimeError, match="do not start"), decoding(command=(sys.executable, "-c", "raise SystemExit(1)")):
        pass


def test_workers_start_in_any_directory(monkeypatch, tmp_path, encode, photo):
    (tmp_path / "service.py").write_text("raise SystemExit('wrong module')")
    monkeypatch.chdir(tmp_path)
    with decoding() as decoder:
        assert decoder.submit(encode(photo)).result(PATIENCE).width == 80


@pytest.mark.parametrize("image", [act("break"), act("die"), b"fine"])
def test_an_image_is_freed_without_garbage_collection(fake_pool, image):
    gone = []

    class Watched(bytes):
        def __del__(self) -> None:
            gone.append(len(self))

    gc.disable()
    try:
        fake_pool.submit(Watched(image)).exception(PATIENCE)
        until(lambda: gone == [len(image)])
    finally:
        gc.enable()
