"""Whatever is killed takes with it only what it held; whoever stops the service loses nothing that it had accepted."""

import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from handmade_files import progressive
from load_generator import Ask, Crowd, Outcome, Phase, Record, crowd, post
from server_process import PATIENCE_S, Operated, eventually, gone, operating

from graft.service.lifecycle import YIELDS

RATE = 20.0
LEARNED_S = 1.0  # after which every caller knows that its idle connection is closed, however busy the machine is
UNHURRIED = {f"GRAFT_{name}_DEADLINE_S": "100" for name in ("DECODE", "QUEUE", "ANSWER")}
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n"


@pytest.fixture(scope="module")
def asks(clothes) -> list[Ask]:
    return [Ask("photo", post("/v1/classify", encoded)) for _, encoded in clothes]


@pytest.fixture(scope="module")
def server(fitted) -> Iterator[Operated]:
    with operating(fitted.artifact.path, **UNHURRIED) as server:
        yield server


@pytest.fixture(scope="module")
def callers(server, asks) -> Iterator[Crowd]:
    with crowd(server.port) as callers:
        callers.keep(asks, 2, 0.5).result()
        yield callers


@pytest.fixture
def slow_image() -> bytes:
    """An image that takes a decoder a while: as many pixels and passes as are allowed."""
    return progressive(8000, 8000, 100)


def decoding(server: Operated) -> psutil.Process | None:
    """The decoder that is at work on something that takes long."""
    return next((one for one in server.decoders() if one.cpu_percent(0.2) > 20), None)


def tally(outcomes: list[Outcome]) -> Counter[tuple[int, str]]:
    return Counter((outcome.status, outcome.code) for outcome in outcomes)


def test_a_killed_decoder_costs_only_its_own_image(server, callers, asks, slow_image):
    others = callers.offer(asks, [Phase(RATE, 3)])
    with ThreadPoolExecutor(1) as elsewhere:
        asked = elsewhere.submit(httpx.post, f"{server.url}/v1/classify", content=slow_image, timeout=PATIENCE_S)
        before = set(server.decoders())
        eventually(lambda: decoding(server)).kill()
        answer = asked.result()
    assert (answer.status_code, answer.json()["code"]) == (422, "decode_limit")
    assert answer.json()["detail"] == "The decoder died on this image."
    assert set(tally(others.result().outcomes)) == {(200, "")}
    assert len(set(server.decoders()) & before) == len(before) - 1 == len(server.decoders()) - 1


def test_a_killed_nursery_costs_nothing(server, callers, asks, slow_image):
    others = callers.offer(asks, [Phase(RATE, 3)])
    nursery, children = server.nursery(), server.decoders()
    with ThreadPoolExecutor(1) as elsewhere:
        asked = elsewhere.submit(httpx.post, f"{server.url}/v1/classify", content=slow_image, timeout=PATIENCE_S)
        eventually(lambda: decoding(server))
        nursery.kill()
        assert asked.result().status_code == 200
    assert set(tally(others.result().outcomes)) == {(200, "")}
    assert gone([nursery, *children])
    assert server.nursery() != nursery


def test_a_killed_worker_costs_only_what_it_held(server, callers, asks):
    offered = callers.offer(asks, [Phase(RATE, 4)])
    time.sleep(1.0)
    worker, children = server.worker(), [server.nursery(), *server.decoders()]
    killed = time.monotonic()
    worker.kill()
    eventually(lambda: dead(worker))
    buried = time.monotonic()  # until then the kernel keeps its connections open
    eventually(lambda: server.worker() != worker and server.status("/readyz") == 200)
    print(f"serving again after {time.monotonic() - killed:.1f} s")
    record = offered.result()
    lost = [outcome for outcome in record.outcomes if outcome.status == 0]
    assert all(killed < moment(record, outcome) + outcome.seconds for outcome in lost)
    assert all(moment(record, outcome) < buried + LEARNED_S for outcome in lost)
    assert set(tally(record.outcomes)) <= {(200, ""), (503, "not_ready"), (0, "")}
    assert tally(callers.offer(asks, [Phase(RATE, 1)]).result().outcomes).keys() == {(200, "")}
    assert gone(children)


def dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def moment(record: Record, outcome: Outcome) -> float:
    """When a request was due, on time.monotonic()'s clock."""
    return record.begun + outcome.due


def test_nothing_of_that_was_a_bug_of_ours(server):
    """Last of those that share a server."""
    said = server.said()
    assert "Traceback" not in said
    assert "never retrieved" not in said
    assert '"status": 500' not in said
    events = [json.loads(line)["event"] for line in said.splitlines() if line.startswith('{"time"')]
    assert events.count("ready") == 2
    assert set(events) <= {"ready", "request"}


@pytest.mark.parametrize("stop", ["SIGTERM", "Ctrl-C"])
def test_a_stop_loses_nothing_that_was_accepted(fitted, asks, stop):
    with operating(fitted.artifact.path) as server, crowd(server.port) as callers, ThreadPoolExecutor(1) as elsewhere:
        callers.keep(asks, 2, 0.5).result()
        processes = server.processes()
        offered = callers.offer(asks, [Phase(RATE, 3)])
        time.sleep(1.0)
        states = elsewhere.submit(watched, server)
        stopped = time.monotonic()
        if stop == "SIGTERM":
            server.command.terminate()
        else:
            os.killpg(server.command.pid, signal.SIGINT)
        assert server.command.wait(PATIENCE_S) == 0
        seconds = time.monotonic() - stopped
        record, said = offered.result(), server.said()
    assert gone(processes)
    assert 503 in states.result()
    lost = [moment(record, outcome) - stopped for outcome in record.outcomes if outcome.status != 200]
    assert all(late > 0.9 for late in lost)  # who came after a second of notice
    assert any(outcome.status == 200 and moment(record, outcome) > stopped for outcome in record.outcomes)
    assert "Traceback" not in said
    print(f"over after {seconds:.1f} s")


def watched(server: Operated) -> list[int]:
    """What /readyz says until nobody answers."""
    states = []
    while (status := server.status("/readyz")) is not None:
        states.append(status)
    return states


def test_an_upload_that_never_ends_does_not_hold_up_a_stop(fitted):
    limits = {"GRAFT_DRAIN_DEADLINE_S": "2", "GRAFT_READ_DEADLINE_S": "3600"}
    with operating(fitted.artifact.path, **limits) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(HEAD + b"a")
        processes = server.processes()
        server.command.terminate()
        assert server.command.wait(PATIENCE_S) == 0
        assert gone(processes)


def test_two_servers_share_a_home_in_peace(fitted, clothes, tmp_path):
    home = {"BENTOML_HOME": str(tmp_path / "home")}

    def live_and_die() -> None:
        with operating(fitted.artifact.path, **home) as second:
            assert second.status("/metrics") == 200
            second.command.terminate()
            assert second.command.wait(PATIENCE_S) == 0

    with operating(fitted.artifact.path, **home) as first, ThreadPoolExecutor(1) as elsewhere:
        statuses, neighbour = [], elsewhere.submit(live_and_die)
        while not neighbour.done():
            statuses.append(httpx.post(f"{first.url}/v1/classify", content=clothes[0][1], timeout=PATIENCE_S).status_code)
        neighbour.result()
        told = httpx.get(f"{first.url}/metrics").text
    assert set(statuses) == {200}
    assert f'graft_requests_total{{code="ok",route="/v1/classify",status="200"}} {len(statuses)}.0' in told


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness of their own")
def test_whatever_computes_steps_back_behind_the_event_loop(server):
    worker = server.worker()
    own = os.getpriority(os.PRIO_PROCESS, worker.pid)
    yields = min(19, own + YIELDS)
    others = Counter(os.getpriority(os.PRIO_PROCESS, thread.id) for thread in worker.threads())
    assert {decoder.nice() for decoder in server.decoders()} == {yields}
    assert others[yields] >= 2 * len(server.decoders())  # a thread for each decoder, one for each lane, and the engine's own


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_command_leaves_nothing_behind_that_holds_its_port(fitted):
    with operating(fitted.artifact.path) as server:
        everything = server.processes()
        server.worker()
        os.kill(server.command.pid, signal.SIGKILL)
        assert gone(everything)
