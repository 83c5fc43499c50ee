"""Images that are costly to decode: however many are sent, ordinary ones are served, and none of them waits behind."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
from api_client import TIMEOUT_S, http_server
from fake_decode_worker import ACTORS, act
from handmade_files import vp8l, webp

from graft.service.decoding.pool import DecoderPool

PATIENT = {"queue_deadline_s": 60, "answer_deadline_s": 60}
Ask = Callable[[bytes], Future[httpx.Response]]


@pytest.fixture
def costly(tmp_path: Path) -> bytes:
    """A file of few bytes and 49 megapixels, which occupies its worker until the folder contains a file `go`."""
    return act(f"hold {tmp_path}", webp((b"VP8L", vp8l(7000, 7000))))


@pytest.fixture
def ask(monkeypatch, model, tmp_path) -> Iterator[Callable[..., Ask]]:
    """Starts a service with settings; returns a function that sends it an image and does not wait."""
    monkeypatch.setattr("graft.service.scheduling.image_queue.DecoderPool", partial(DecoderPool, command=ACTORS))
    with ExitStack() as resources:

        def start(**settings: object) -> Ask:
            port = resources.enter_context(http_server(model, **settings))
            callers = resources.enter_context(ThreadPoolExecutor(200))
            resources.callback((tmp_path / "go").touch)
            url = f"http://127.0.0.1:{port}/v1/classify"
            return lambda image: callers.submit(httpx.post, url, content=image, timeout=TIMEOUT_S)

        yield start


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_costly_images_neither_fill_the_queue_nor_delay_ordinary_ones(ask, costly, shirt, tmp_path):
    send = ask(max_waiting=16, **PATIENT)
    flood = [send(costly) for _ in range(100)]
    wait_until(lambda: sum(answer.done() for answer in flood) == 96)  # 4 slots of 16
    rejected = [answer.result() for answer in flood if answer.done()]
    assert {answer.status_code for answer in rejected} == {503}
    assert {answer.json()["limit"]["name"] for answer in rejected} == {"max_waiting"}
    assert all("Retry-After" in answer.headers for answer in rejected)
    for _ in range(3):
        ordinary = [send(shirt) for _ in range(8)]
        assert [answer.result(TIMEOUT_S).status_code for answer in ordinary] == [200] * 8
    assert sum(answer.done() for answer in flood) == 96  # the others still hold their slots
    (tmp_path / "go").touch()
    assert sorted(answer.result(TIMEOUT_S).status_code for answer in flood) == [200] * 4 + [503] * 96


def test_costly_images_of_a_batch_are_rejected_one_by_one(ask, model, monkeypatch, costly, shirt, tmp_path):
    send = ask(max_waiting=4, **PATIENT)
    holding = send(costly)
    wait_until((tmp_path / "begun").exists)
    with http_server(model, max_waiting=4, **PATIENT) as port:
        files = [("images", ("a", content)) for content in (costly, shirt, costly)]
        threading.Timer(0.5, (tmp_path / "go").touch).start()
        results = httpx.post(f"http://127.0.0.1:{port}/v1/classify/batch", files=files, timeout=TIMEOUT_S).json()["results"]
    assert [(result.get("error") or {}).get("code", "ok") for result in results] == ["ok", "ok", "overloaded"]
    assert holding.result(TIMEOUT_S).status_code == 200


def test_a_costly_image_that_is_being_decoded_is_past_no_queue_deadline(ask, costly, shirt, tmp_path):
    send = ask(queue_deadline_s=0.2)
    answer = send(costly)
    wait_until((tmp_path / "begun").exists)
    time.sleep(0.4)
    assert not answer.done()
    (tmp_path / "go").touch()
    assert answer.result(TIMEOUT_S).status_code == 200


def test_a_costly_image_that_waits_for_others_is_rejected_at_the_queue_deadline(ask, costly, tmp_path):
    send = ask(queue_deadline_s=0.2)
    answers = [send(costly) for _ in range(8)]  # more than workers
    wait_until(lambda: any(answer.done() for answer in answers))
    late = next(answer for answer in answers if answer.done()).result()
    assert (late.status_code, late.json()["limit"]["name"]) == (503, "queue_deadline_s")
