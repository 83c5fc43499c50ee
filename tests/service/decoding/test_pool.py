"""Images are decoded in child processes; whatever one does to its child, only that image fails."""

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from fake_decode_worker import ACTORS, act
from hostile_corpus import corpus
from PIL import Image

from graft.service.artifact import Preprocessing
from graft.service.decoding.pool import Decoder
from graft.service.decoding.worker_process import COMMAND
from graft.service.errors import ImageError, Overloaded
from graft.service.imaging.headers import ImageLimits
from graft.service.imaging.preprocess import decode

PATIENCE = 60  # seconds until a hung test fails; never reached otherwise
RECIPE = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@contextmanager
def decoding(
    workers: int = 1,
    max_waiting: int = 100,
    deadline_s: float = PATIENCE,
    max_bytes: int = 2**28,
    command: tuple[str, ...] = COMMAND,
    limits: ImageLimits = ImageLimits(),
) -> Iterator[Decoder]:
    decoder = Decoder(RECIPE, limits, workers, max_waiting, deadline_s, max_bytes, command)
    try:
        yield decoder
    finally:
        decoder.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Decoder]:
    """One decoder whose children act as the images say."""
    with decoding(command=ACTORS) as decoder:
        yield decoder


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Decoder, bytes, Callable[[], None]]]:
    """A decoder of one worker with two places, an image that it holds on to, and how to let that go."""
    with decoding(command=ACTORS, max_waiting=2) as decoder:
        try:
            yield decoder, act(f"hold {tmp_path}"), (tmp_path / "go").touch
        finally:
            (tmp_path / "go").touch()


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def error_of(decoder: Decoder, image: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decoder.submit(image).result(PATIENCE)
    return caught.value


def processes() -> list[psutil.Process]:
    """The decoders' processes that this one started: a nursery and its children."""
    return psutil.Process().children(recursive=True)


def test_pixels_are_those_of_the_one_decoding_function(encode, photo):
    encoded = encode(photo, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0")
    with decoding() as decoder:
        found, expected = decoder.submit(encoded).result(PATIENCE), decode(encoded, RECIPE)
    assert np.array_equal(found.pixels, expected.pixels)
    assert (found.pixels.dtype, found.pixels.shape) == (np.uint8, (32, 32, 3))
    assert (found.width, found.height, found.format, found.notes) == (60, 80, "JPEG", ())


def test_notes_come_through(encode):
    with decoding() as decoder:
        notes = decoder.submit(encode(np.zeros((1, 1, 4), np.uint8))).result(PATIENCE).notes
    assert notes == ("tiny: fewer than 16 pixels on a side", "transparent: every pixel is fully transparent")


def test_every_hostile_file_gets_its_code():
    with decoding(workers=2, max_waiting=1000, deadline_s=PATIENCE, max_bytes=2**30) as decoder:
        promises = {name: decoder.submit(case.content) for name, case in corpus().items()}
        errors = {name: promise.exception(PATIENCE) for name, promise in promises.items()}
    found = {name: getattr(error, "code", error) for name, error in errors.items()}
    assert found == {name: case.code for name, case in corpus().items()}


def test_an_images_error_is_told_in_full(encode, photo):
    with decoding() as decoder:
        error = error_of(decoder, encode(np.zeros((1, 51), np.uint8)))
    assert (error.code, error.limit) == ("bad_aspect", "max_aspect")
    assert str(error) == "The image is 51x1 pixels; the longer side may be 50 times the shorter."


def test_limits_reach_the_children(encode, photo):
    with decoding(limits=ImageLimits(max_side=79)) as decoder:
        assert error_of(decoder, encode(photo)).limit == "max_side"


def test_every_asker_gets_the_own_image():
    with decoding(workers=3, command=ACTORS) as decoder:
        promises = [decoder.submit(b"x" * size) for size in range(1, 50)]
        assert [promise.result(PATIENCE).width for promise in promises] == list(range(1, 50))


def test_without_a_place_it_refuses_at_once(held):
    decoder, hold, go = held
    first = decoder.submit(hold)
    decoder.submit(b"b")
    assert decoder.full
    with pytest.raises(Overloaded, match="2 images are being decoded already"):
        decoder.submit(b"c")
    assert not first.done()
    go()
    first.result(PATIENCE)
    until(lambda: not decoder.full)


def test_depth_counts_those_that_have_not_begun(held, tmp_path):
    decoder, hold, _ = held
    assert decoder.depth == 0
    decoder.submit(hold)
    until((tmp_path / "begun").exists)
    decoder.submit(b"b")
    assert decoder.depth == 1


def test_a_cancelled_image_gives_its_place_back_and_is_not_decoded(held, tmp_path):
    decoder, hold, go = held
    first = decoder.submit(hold)
    until((tmp_path / "begun").exists)
    unwanted = decoder.submit(act("die"))
    assert unwanted.cancel()
    last = decoder.submit(b"c")
    go()
    assert (first.result(PATIENCE).notes, last.result(PATIENCE).width) == (("acted",), 1)
    with pytest.raises(CancelledError):
        unwanted.result()


@pytest.mark.parametrize("image", [b"fine", act("die"), act("break")])
def test_a_finished_image_gives_its_place_back(image):
    with decoding(max_waiting=1, command=ACTORS) as decoder:
        for _ in range(3):
            decoder.submit(image).exception(PATIENCE)
            until(lambda: not decoder.full)


def test_closing_finishes_what_waits():
    with decoding(command=ACTORS) as decoder:
        promises = [decoder.submit(b"x" * size) for size in (1, 2, 3)]
    assert [promise.result(0).width for promise in promises] == [1, 2, 3]


def test_after_closing_nothing_is_taken():
    with decoding(command=ACTORS) as decoder:
        pass
    with pytest.raises(Overloaded, match="shutting down"):
        decoder.submit(b"x")


def test_an_image_past_its_deadline_is_given_up():
    with decoding(deadline_s=0.2, command=ACTORS) as decoder:
        error = error_of(decoder, act("sleep"))
        assert (error.code, error.limit) == ("decode_limit", "decode_deadline_s")
        assert str(error) == "Decoding the image takes longer than 0.2 seconds."
        assert decoder.submit(b"next").result(PATIENCE).width == 4


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells a process's size, and holds it to a limit")
def test_an_image_that_wants_too_much_memory_is_given_up(stage):
    error = error_of(stage, act("eat 400000000"))
    assert (error.code, error.limit) == ("decode_limit", "max_decode_bytes")
    assert str(error) == "Decoding the image takes more than 268,435,456 bytes of memory."
    assert stage.submit(act("eat 100000000")).result(PATIENCE).format == "PNG"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux holds a process to a limit of memory")
@pytest.mark.parametrize(("format", "settings"), [("WEBP", {"lossless": True}), ("JPEG", {"progressive": True}), ("PNG", {})])
def test_too_little_memory_is_not_mistaken_for_damage(encode, format, settings):
    image = encode(Image.new("RGB", (7000, 6000)), format, **settings)
    with decoding(max_bytes=2**26) as decoder:
        assert error_of(decoder, image).limit == "max_decode_bytes"


@pytest.mark.parametrize("image", [act("die"), act("crash"), act("lie")])
def test_an_image_that_kills_its_child_fails_alone(stage, image):
    error = error_of(stage, image)
    assert (error.code, error.limit, str(error)) == ("decode_limit", None, "The decoder died on this image.")
    assert stage.submit(b"next").result(PATIENCE).width == 4


def test_those_beside_an_image_that_kills_its_child_are_answered():
    with decoding(workers=2, command=ACTORS) as decoder:
        promises = [decoder.submit(act("die") if number % 3 == 0 else b"fine") for number in range(30)]
        failed = [promise.exception(PATIENCE) is not None for promise in promises]
    assert failed == [number % 3 == 0 for number in range(30)]


def test_a_bug_is_logged_and_not_told(stage, caplog):
    with pytest.raises(RuntimeError) as caught:
        stage.submit(act("break")).result(PATIENCE)
    assert "secret" not in str(caught.value)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("graft", "ERROR")
    assert "KeyError: '/secret/path'" in record.getMessage()


def test_a_child_opens_few_files_and_writes_none(stage, tmp_path, caplog):
    assert stage.submit(act("open")).exception(PATIENCE) is not None
    assert stage.submit(act(f"write {tmp_path / 'x'}")).exception(PATIENCE) is not None
    assert ["Too many open files" in caplog.text, "File too large" in caplog.text] == [True, True]


def test_a_child_knows_no_secret(monkeypatch):
    monkeypatch.setenv("GRAFT_API_KEY", "secret")
    with decoding(command=ACTORS) as decoder:
        assert decoder.submit(act("environment")).result(PATIENCE).format == "PNG"


def test_fifty_killed_children_leave_nothing_behind():
    with decoding(workers=2, command=ACTORS) as decoder:
        decoder.submit(b"fine").result(PATIENCE)
        before = psutil.Process().num_fds(), len(processes())
        for _ in range(50):
            assert error_of(decoder, act("die")).code == "decode_limit"
        decoder.submit(b"fine").result(PATIENCE)
        until(lambda: (psutil.Process().num_fds(), len(processes())) == before)


def test_closing_leaves_nothing_behind():
    before = psutil.Process().num_fds(), len(processes())
    with decoding(workers=3) as decoder:
        children = processes()
        assert len(children) - before[1] == 4
        decoder.submit(b"x").exception(PATIENCE)
    until(lambda: (psutil.Process().num_fds(), len(processes())) == before)


def test_an_idle_child_that_is_killed_from_outside_costs_no_image(encode, photo):
    before = processes()
    with decoding() as decoder:
        [child] = [process for process in processes() if process not in before and not process.children()]
        child.kill()
        until(lambda: not child.is_running())
        assert decoder.submit(encode(photo)).result(PATIENCE).width == 80


def test_a_busy_child_that_is_killed_from_outside_costs_its_image(tmp_path):
    before = processes()
    with decoding(command=ACTORS) as decoder:
        promise = decoder.submit(act(f"hold {tmp_path}"))
        until((tmp_path / "begun").exists)
        [child] = [process for process in processes() if process not in before and not process.children()]
        child.kill()
        assert str(promise.exception(PATIENCE)) == "The decoder died on this image."
        assert decoder.submit(b"next").result(PATIENCE).width == 4


def test_the_death_of_the_nursery_costs_no_image(tmp_path):
    before = processes()
    with decoding(workers=2, command=ACTORS) as decoder:
        promises = [decoder.submit(act(f"hold {tmp_path}")) for _ in range(2)]
        until((tmp_path / "begun").exists)
        [nursery] = [process for process in processes() if process not in before and process.children()]
        nursery.kill()
        (tmp_path / "go").touch()
        assert [promise.result(PATIENCE).notes for promise in promises] == [("acted",)] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_do_not_reach_the_children(encode, photo, number):
    before = processes()
    with decoding() as decoder:
        for process in set(processes()) - set(before):  # not to the session's server, where this process has one
            process.send_signal(number)
        assert decoder.submit(encode(photo)).result(PATIENCE).width == 80


ORPHANS = """
import sys, time
from graft.service.artifact import Preprocessing
from graft.service.decoding.pool import Decoder
from graft.service.imaging.headers import ImageLimits
recipe = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
decoder = Decoder(recipe, ImageLimits(), 2, 9, 600.0, 2**28, tuple(sys.argv[1:]))
decoder.submit(b"ACT burn")
print("begun", flush=True)
time.sleep(600)
"""


def test_no_child_survives_its_server():
    with psutil.Popen([sys.executable, "-c", ORPHANS, *ACTORS], stdout=-1) as server:
        assert server.stdout.readline() == b"begun\n"
        children = server.children(recursive=True)
        server.kill()
        server.wait()
    assert len(children) == 3
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert alive == []


def test_a_program_that_does_not_start_is_told_at_once():
    with pytest.raises(RuntimeError, match="does not start"), decoding(command=(sys.executable, "-c", "raise SystemExit(1)")):
        pass


def test_children_are_found_from_any_folder(monkeypatch, tmp_path, encode, photo):
    (tmp_path / "service.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with decoding() as decoder:
        assert decoder.submit(encode(photo)).result(PATIENCE).width == 80


@pytest.mark.parametrize("image", [act("break"), act("die"), b"fine"])
def test_an_image_is_let_go_of_without_waiting_for_the_garbage_collector(stage, image):
    gone = []

    class Watched(bytes):
        def __del__(self) -> None:
            gone.append(len(self))

    gc.disable()
    try:
        stage.submit(Watched(image)).exception(PATIENCE)
        until(lambda: gone == [len(image)])
    finally:
        gc.enable()
