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
from handmade_files import encode_image
from load_generator import LoadGenerator, LoadRecord, Outcome, Phase, RequestSpec, build_post, start_load_generator
from PIL import Image
from server_process import TIMEOUT_S, RunningServer, all_exited, bentoml_server, poll_until

from graft.service.lifecycle import NICE

pytestmark = pytest.mark.slow

REQUEST_RATE = 20.0
DISCONNECT_NOTICED_S = 1.0  # time until every client has noticed that its idle connection is closed, even on a busy machine
LONG_DEADLINES = {f"GRAFT_{name}_DEADLINE_S": "100" for name in ("DECODE", "QUEUE", "ANSWER")}
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n"


@pytest.fixture(scope="module")
def asks(clothes) -> list[RequestSpec]:
    return [RequestSpec("photo", build_post("/v1/classify", encoded)) for _, encoded in clothes]


@pytest.fixture(scope="module")
def server(fitted) -> Iterator[RunningServer]:
    with bentoml_server(fitted.artifact.path, **LONG_DEADLINES) as running:
        yield running


@pytest.fixture(scope="module")
def callers(server, asks) -> Iterator[LoadGenerator]:
    with start_load_generator(server.port) as generator:
        generator.closed_loop(asks, 2, 0.5).result()
        yield generator


@pytest.fixture
def slow_image() -> bytes:
    """An image that is slow to decode: a file of few bytes with nearly the maximum number of pixels."""
    return encode_image(Image.new("RGBA", (7000, 7000)), "WEBP", lossless=True, method=0)


def busy_decode_worker(server: RunningServer) -> psutil.Process | None:
    """The decode worker that is busy with a slow image; None if there is none."""
    return next((worker for worker in server.decode_workers() if worker.cpu_percent(0.2) > 20), None)


def count_outcomes(outcomes: list[Outcome]) -> Counter[tuple[int, str]]:
    return Counter((outcome.status, outcome.code) for outcome in outcomes)


def test_killed_decode_worker_fails_only_its_image(server, callers, asks, slow_image):
    load = callers.open_loop(asks, [Phase(REQUEST_RATE, 3)])
    with ThreadPoolExecutor(1) as executor:
        response_future = executor.submit(httpx.post, f"{server.url}/v1/classify", content=slow_image, timeout=TIMEOUT_S)
        workers_before = set(server.decode_workers())
        poll_until(lambda: busy_decode_worker(server)).kill()
        response = response_future.result()
    assert (response.status_code, response.json()["code"]) == (422, "decode_limit")
    assert response.json()["detail"] == "The decoder crashed on this image."
    assert set(count_outcomes(load.result().outcomes)) == {(200, "")}
    assert len(set(server.decode_workers()) & workers_before) == len(workers_before) - 1 == len(server.decode_workers()) - 1


def test_killed_fork_server_fails_no_request(server, callers, asks, slow_image):
    load = callers.open_loop(asks, [Phase(REQUEST_RATE, 3)])
    fork_server, decode_workers = server.fork_server(), server.decode_workers()
    with ThreadPoolExecutor(1) as executor:
        response_future = executor.submit(httpx.post, f"{server.url}/v1/classify", content=slow_image, timeout=TIMEOUT_S)
        poll_until(lambda: busy_decode_worker(server))
        fork_server.kill()
        assert response_future.result().status_code == 200
    assert set(count_outcomes(load.result().outcomes)) == {(200, "")}
    assert all_exited([fork_server, *decode_workers])
    assert server.fork_server() != fork_server


def test_killed_worker_fails_only_its_requests(server, callers, asks):
    load = callers.open_loop(asks, [Phase(REQUEST_RATE, 4)])
    time.sleep(1.0)
    worker, decode_processes = server.worker(), [server.fork_server(), *server.decode_workers()]
    killed_at = time.monotonic()
    worker.kill()
    poll_until(lambda: is_dead(worker))
    reaped_at = time.monotonic()  # until then, the kernel keeps its connections open
    poll_until(lambda: server.worker() != worker and server.status("/readyz") == 200)
    print(f"serving again after {time.monotonic() - killed_at:.1f} s")
    record = load.result()
    failed = [outcome for outcome in record.outcomes if outcome.status == 0]
    assert all(killed_at < due_time(record, outcome) + outcome.seconds for outcome in failed)
    assert all(due_time(record, outcome) < reaped_at + DISCONNECT_NOTICED_S for outcome in failed)
    assert set(count_outcomes(record.outcomes)) <= {(200, ""), (503, "not_ready"), (0, "")}
    assert count_outcomes(callers.open_loop(asks, [Phase(REQUEST_RATE, 1)]).result().outcomes).keys() == {(200, "")}
    assert all_exited(decode_processes)


def is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def due_time(record: LoadRecord, outcome: Outcome) -> float:
    """Scheduled time of a request on the clock of time.monotonic()."""
    return record.started_at + outcome.due


def test_log_contains_no_errors(server):
    """Must run after the tests above, which use the same server."""
    log = server.log_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log
    assert '"status": 500' not in log
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith('{"time"')]
    assert events.count("ready") == 2
    assert set(events) <= {"ready", "request"}


@pytest.mark.parametrize("stop", ["SIGTERM", "Ctrl-C"])
def test_graceful_stop_loses_no_accepted_request(fitted, asks, stop):
    with (
        bentoml_server(fitted.artifact.path) as server,
        start_load_generator(server.port) as clients,
        ThreadPoolExecutor(1) as executor,
    ):
        clients.closed_loop(asks, 2, 0.5).result()
        processes = server.processes()
        load = clients.open_loop(asks, [Phase(REQUEST_RATE, 3)])
        time.sleep(1.0)
        statuses = executor.submit(poll_readyz, server)
        stopped_at = time.monotonic()
        if stop == "SIGTERM":
            server.command.terminate()
        else:
            os.killpg(server.command.pid, signal.SIGINT)
        assert server.command.wait(TIMEOUT_S) == 0
        seconds = time.monotonic() - stopped_at
        record, log = load.result(), server.log_text()
    assert all_exited(processes)
    assert 503 in statuses.result()
    failed_after_s = [due_time(record, outcome) - stopped_at for outcome in record.outcomes if outcome.status != 200]
    assert all(delay_s > 0.9 for delay_s in failed_after_s)  # only requests that came after the drain period
    assert any(outcome.status == 200 and due_time(record, outcome) > stopped_at for outcome in record.outcomes)
    assert "Traceback" not in log
    print(f"stopped after {seconds:.1f} s")


def poll_readyz(server: RunningServer) -> list[int]:
    """Status codes of /readyz until the server is gone."""
    statuses = []
    while (status := server.status("/readyz")) is not None:
        statuses.append(status)
    return statuses


def test_stalled_upload_does_not_block_a_stop(fitted):
    limits = {"GRAFT_DRAIN_DEADLINE_S": "2", "GRAFT_READ_DEADLINE_S": "3600"}
    with bentoml_server(fitted.artifact.path, **limits) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(HEAD + b"a")
        processes = server.processes()
        server.command.terminate()
        assert server.command.wait(TIMEOUT_S) == 0
        assert all_exited(processes)


def test_two_servers_can_share_a_bentoml_home(fitted, clothes, tmp_path):
    home = {"BENTOML_HOME": str(tmp_path / "home")}

    def start_and_stop() -> None:
        with bentoml_server(fitted.artifact.path, **home) as second:
            assert second.status("/metrics") == 200
            second.command.terminate()
            assert second.command.wait(TIMEOUT_S) == 0

    with bentoml_server(fitted.artifact.path, **home) as first, ThreadPoolExecutor(1) as executor:
        statuses, other_server = [], executor.submit(start_and_stop)
        while not other_server.done():
            statuses.append(httpx.post(f"{first.url}/v1/classify", content=clothes[0][1], timeout=TIMEOUT_S).status_code)
        other_server.result()
        metrics_text = httpx.get(f"{first.url}/metrics").text
    assert set(statuses) == {200}
    assert f'graft_requests_total{{code="ok",route="/v1/classify",status="200"}} {len(statuses)}.0' in metrics_text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no niceness per thread")
def test_compute_threads_have_lower_priority_than_the_event_loop(server):
    worker = server.worker()
    worker_nice = os.getpriority(os.PRIO_PROCESS, worker.pid)
    lowered_nice = min(19, worker_nice + NICE)
    thread_nices = Counter(os.getpriority(os.PRIO_PROCESS, thread.id) for thread in worker.threads())
    decoder_nices = Counter(decoder.nice() for decoder in server.decode_workers())
    assert decoder_nices == {lowered_nice: decoder_nices[19], 19: decoder_nices[19]}  # as many for costly images
    # A thread per decode worker, one per stream, and those of the engine.
    assert thread_nices[lowered_nice] >= len(server.decode_workers()) + decoder_nices[19]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of the parent process")
def test_killed_command_leaves_no_process_on_its_port(fitted):
    with bentoml_server(fitted.artifact.path) as server:
        processes = server.processes()
        server.worker()
        os.kill(server.command.pid, signal.SIGKILL)
        assert all_exited(processes)
