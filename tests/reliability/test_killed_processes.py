"""A killed process loses only the requests it was processing; a graceful stop loses no accepted request."""

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
LEARNED_S = 1.0  # time until every client has noticed that its idle connection is closed, even on a busy machine
UNHURRIED = {f"GRAFT_{name}_DEADLINE_S": "100" for name in ("DECODE", "QUEUE", "ANSWER")}
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n"


@pytest.fixture(scope="module")
def asks(clothes) -> list[Ask]:
    return [Ask("photo", post("/v1/classify", encoded)) for _, encoded in clothes]


@pytest.fixture(scope="module")
def server(fitted) -> Iterator[Operated]:
    with operating(fitted.artifact.path, **UNHURRIED) as running:
        yield running


@pytest.fixture(scope="module")
def callers(server, asks) -> Iterator[Crowd]:
    with crowd(server.port) as generator:
        generator.keep(asks, 2, 0.5).result()
        yield generator


@pytest.fixture
def slow_image() -> bytes:
    """An image that is slow to decode: the maximum number of pixels and scans."""
    return progressive(8000, 8000, 100)


def decoding(server: Operated) -> psutil.Process | None:
    """The decode worker that is busy with a slow image; None if there is none."""
    return next((worker for worker in server.decoders() if worker.cpu_percent(0.2) > 20), None)


def tally(outcomes: list[Outcome]) -> Counter[tuple[int, str]]:
    return Counter((outcome.status, outcome.code) for outcome in outcomes)


def test_killed_decode_worker_fails_only_its_image(server, callers, asks, slow_image):
    load = callers.offer(asks, [Phase(RATE, 3)])
    with ThreadPoolExecutor(1) as executor:
        response_future = executor.submit(httpx.post, f"{server.url}/v1/classify", content=slow_image, timeout=PATIENCE_S)
        workers_before = set(server.decoders())
        eventually(lambda: decoding(server)).kill()
        response = response_future.result()
    assert (response.status_code, response.json()["code"]) == (422, "decode_limit")
    assert response.json()["detail"] == "The decoder crashed on this image."
    assert set(tally(load.result().outcomes)) == {(200, "")}
    assert len(set(server.decoders()) & workers_before) == len(workers_before) - 1 == len(server.decoders()) - 1


def test_killed_fork_server_fails_no_request(server, callers, asks, slow_image):
    load = callers.offer(asks, [Phase(RATE, 3)])
    nursery, decode_workers = server.nursery(), server.decoders()
    with ThreadPoolExecutor(1) as executor:
        response_future = executor.submit(httpx.post, f"{server.url}/v1/classify", content=slow_image, timeout=PATIENCE_S)
        eventually(lambda: decoding(server))
        nursery.kill()
        assert response_future.result().status_code == 200
    assert set(tally(load.result().outcomes)) == {(200, "")}
    assert gone([nursery, *decode_workers])
    assert server.nursery() != nursery


def test_killed_worker_fails_only_its_requests(server, callers, asks):
    load = callers.offer(asks, [Phase(RATE, 4)])
    time.sleep(1.0)
    worker, decode_processes = server.worker(), [server.nursery(), *server.decoders()]
    killed_at = time.monotonic()
    worker.kill()
    eventually(lambda: dead(worker))
    reaped_at = time.monotonic()  # until then, the kernel keeps its connections open
    eventually(lambda: server.worker() != worker and server.status("/readyz") == 200)
    print(f"serving again after {time.monotonic() - killed_at:.1f} s")
    record = load.result()
    failed = [outcome for outcome in record.outcomes if outcome.status == 0]
    assert all(killed_at < moment(record, outcome) + outcome.seconds for outcome in failed)
    assert all(moment(record, outcome) < reaped_at + LEARNED_S for outcome in failed)
    assert set(tally(record.outcomes)) <= {(200, ""), (503, "not_ready"), (0, "")}
    assert tally(callers.offer(asks, [Phase(RATE, 1)]).result().outcomes).keys() == {(200, "")}
    assert gone(decode_processes)


def dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def moment(record: Record, outcome: Outcome) -> float:
    """Scheduled time of a request on the clock of time.monotonic()."""
    return record.begun + outcome.due


def test_log_contains_no_errors(server):
    """Must run after the tests above, which use the same server."""
    log = server.said()
    assert "Traceback" not in log
    assert "never retrieved" not in log
    assert '"status": 500' not in log
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith('{"time"')]
    assert events.count("ready") == 2
    assert set(events) <= {"ready", "request"}


@pytest.mark.parametrize("stop", ["SIGTERM", "Ctrl-C"])
def test_graceful_stop_loses_no_accepted_request(fitted, asks, stop):
    with operating(fitted.artifact.path) as server, crowd(server.port) as clients, ThreadPoolExecutor(1) as executor:
        clients.keep(asks, 2, 0.5).result()
        processes = server.processes()
        load = clients.offer(asks, [Phase(RATE, 3)])
        time.sleep(1.0)
        statuses = executor.submit(watched, server)
        stopped_at = time.monotonic()
        if stop == "SIGTERM":
            server.command.terminate()
        else:
            os.killpg(server.command.pid, signal.SIGINT)
        assert server.command.wait(PATIENCE_S) == 0
        seconds = time.monotonic() - stopped_at
        record, log = load.result(), server.said()
    assert gone(processes)
    assert 503 in statuses.result()
    failed_after_s = [moment(record, outcome) - stopped_at for outcome in record.outcomes if outcome.status != 200]
    assert all(delay_s > 0.9 for delay_s in failed_after_s)  # only requests that came after the drain period
    assert any(outcome.status == 200 and moment(record, outcome) > stopped_at for outcome in record.outcomes)
    assert "Traceback" not in log
    print(f"stopped after {seconds:.1f} s")


def watched(server: Operated) -> list[int]:
    """Status codes of /readyz until the server is gone."""
    statuses = []
    while (status := server.status("/readyz")) is not None:
        statuses.append(status)
    return statuses


def test_stalled_upload_does_not_block_a_stop(fitted):
    limits = {"GRAFT_DRAIN_DEADLINE_S": "2", "GRAFT_READ_DEADLINE_S": "3600"}
    with operating(fitted.artifact.path, **limits) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(HEAD + b"a")
        processes = server.processes()
        server.command.terminate()
        assert server.command.wait(PATIENCE_S) == 0
        assert gone(processes)


def test_two_servers_can_share_a_bentoml_home(fitted, clothes, tmp_path):
    home = {"BENTOML_HOME": str(tmp_path / "home")}

    def start_and_stop() -> None:
        with operating(fitted.artifact.path, **home) as second:
            assert second.status("/metrics") == 200
            second.command.terminate()
            assert second.command.wait(PATIENCE_S) == 0

    with operating(fitted.artifact.path, **home) as first, ThreadPoolExecutor(1) as executor:
        statuses, other_server = [], executor.submit(start_and_stop)
        while not other_server.done():
            statuses.append(httpx.post(f"{first.url}/v1/classify", content=clothes[0][1], timeout=PATIENCE_S).status_code)
        other_server.result()
        metrics_text = httpx.get(f"{first.url}/metrics").text
    assert set(statuses) == {200}
    assert f'graft_requests_total{{code="ok",route="/v1/classify",status="200"}} {len(statuses)}.0' in metrics_text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no niceness per thread")
def test_compute_threads_have_lower_priority_than_the_event_loop(server):
    worker = server.worker()
    worker_nice = os.getpriority(os.PRIO_PROCESS, worker.pid)
    lowered_nice = min(19, worker_nice + YIELDS)
    thread_nices = Counter(os.getpriority(os.PRIO_PROCESS, thread.id) for thread in worker.threads())
    assert {decoder.nice() for decoder in server.decoders()} == {lowered_nice}
    assert thread_nices[lowered_nice] >= 2 * len(
        server.decoders()
    )  # a thread per decode worker, one per stream, and those of the engine


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of the parent process")
def test_killed_command_leaves_no_process_on_its_port(fitted):
    with operating(fitted.artifact.path) as server:
        processes = server.processes()
        server.worker()
        os.kill(server.command.pid, signal.SIGKILL)
        assert gone(processes)
