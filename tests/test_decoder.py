"""The bounded pool in front of the decoding function."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from service.batcher import Overloaded
from service.decoder import Decoder
from service.preprocess import Decoded, ImageError

PATIENCE = 30  # seconds until a hung test fails; never reached otherwise


class HeldDecode:
    """A decoding function that waits for `go`, and tells how wide an "image" is: the number of its bytes."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.seen: list[bytes] = []

    def __call__(self, encoded: bytes) -> Decoded:
        self.seen.append(encoded)
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if not encoded:
            raise ImageError("empty_image", "nothing")
        return Decoded(np.zeros((1, 1, 3), np.uint8), len(encoded), 1, "PNG", ())


@contextmanager
def decoding(decode: HeldDecode, workers: int, max_waiting: int) -> Iterator[Decoder]:
    decoder = Decoder(decode, workers, max_waiting)
    try:
        yield decoder
    finally:
        decode.go.set()
        decoder.close()


def test_every_asker_gets_the_own_image():
    decode = HeldDecode()
    decode.go.set()
    with decoding(decode, 4, 100) as decoder:
        promises = [decoder.submit(b"x" * size) for size in range(1, 50)]
        assert [promise.result(PATIENCE).width for promise in promises] == list(range(1, 50))


def test_a_damaged_image_reaches_its_asker():
    decode = HeldDecode()
    decode.go.set()
    with decoding(decode, 1, 8) as decoder, pytest.raises(ImageError, match="nothing"):
        decoder.submit(b"").result(PATIENCE)


def test_without_a_place_it_refuses_at_once():
    decode = HeldDecode()
    with decoding(decode, 1, 2) as decoder:
        decoder.submit(b"a")
        decoder.submit(b"b")
        with pytest.raises(Overloaded, match="2 images are being decoded already"):
            decoder.submit(b"c")
        assert not decode.go.is_set()


@pytest.mark.parametrize("encoded", [b"fine", b""])
def test_a_finished_image_gives_its_place_back(encoded):
    decode = HeldDecode()
    decode.go.set()
    decoder = Decoder(decode, 1, 1)
    for _ in range(3):
        promise, gone = decoder.submit(encoded), threading.Event()
        promise.add_done_callback(lambda _, gone=gone: gone.set())  # runs after the decoder's own
        assert gone.wait(PATIENCE)
    decoder.close()
    assert decode.seen == [encoded] * 3


def test_a_cancelled_image_gives_its_place_back():
    decode = HeldDecode()
    with decoding(decode, 1, 2) as decoder:
        decoder.submit(b"a")
        assert decode.begun.wait(PATIENCE)
        assert decoder.submit(b"b").cancel()
        decoder.submit(b"c")
    assert decode.seen == [b"a", b"c"]


def test_closing_finishes_what_waits():
    decode = HeldDecode()
    with decoding(decode, 1, 8) as decoder:
        promises = [decoder.submit(b"x" * size) for size in (1, 2, 3)]
    assert [promise.done() and promise.result().width for promise in promises] == [1, 2, 3]
