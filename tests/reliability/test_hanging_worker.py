"""A worker that hangs is replaced, and does not keep the command from stopping; one that was only paused goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from server_process import TIMEOUT_S, RunningServer, all_exited, bentoml_server, poll_until

from graft.training.pipelines.serve import command, environment
from graft.training.runtime.import_root import IMPORT_ROOT

pytestmark = pytest.mark.slow

HANGING = "hanging_service:Hanging"
PAUSE_S = 8.0  # twice as long as the worker of this test may hang


@pytest.fixture
def server(fitted) -> Iterator[RunningServer]:
    support = str(Path(__file__).parents[1] / "support")
    with bentoml_server(fitted.artifact.path, HANGING, PYTHONPATH=support, GRAFT_DRAIN_DEADLINE_S="1") as running:
        yield running


def hang(server: RunningServer) -> socket.socket:
    """Makes the worker hang; returns the connection that did it."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Hang: 1\r\n\r\n")
    return connection


def test_a_hanging_worker_is_replaced_and_its_stack_is_printed(server):
    worker = server.worker()
    with hang(server):
        poll_until(lambda: server.status("/readyz") == 200 and server.worker() != worker)
    log = server.log_text()
    assert "the worker has not responded for 4 seconds, and is replaced; its stack follows" in log
    assert "hanging_service.py" in log


def test_a_command_stops_although_its_worker_hangs(server):
    processes = server.processes()
    with hang(server):
        server.command.terminate()
        assert server.command.wait(TIMEOUT_S) == 0
    assert all_exited(processes)


def test_a_pause_of_all_processes_is_no_hang(server):
    worker, processes = server.worker(), server.processes()
    for process in processes:
        process.suspend()
    time.sleep(PAUSE_S)
    for process in reversed(processes):
        process.resume()
    poll_until(lambda: server.status("/readyz") == 200)
    time.sleep(3.0)  # several looks of the supervisor
    assert server.worker() == worker
    assert "has not responded" not in server.log_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe can be chosen on Linux only")
def test_a_log_that_nobody_reads_stops_neither_answers_nor_signals(fitted):
    import fcntl

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        command("127.0.0.1", port),
        cwd=IMPORT_ROOT,
        env=environment(fitted.artifact.path, port),
        stdout=write_end,
        stderr=write_end,
        start_new_session=True,
    )
    os.close(write_end)
    server = RunningServer(process, port, Path(os.devnull))
    try:
        poll_until(lambda: server.status("/readyz") == 200)
        assert [server.status("/nowhere") for _ in range(300)] == [404] * 300
        assert server.status("/livez") == 200
        processes = server.processes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
        assert all_exited(processes)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(read_end)
