"""A machine with several GPUs: a worker for each, one port, one set of metrics, and a dead worker is replaced."""

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from server_process import TIMEOUT_S, bentoml_server, poll_until

from graft.service.supervision import BEAT_INTERVAL_S

pytestmark = pytest.mark.slow

SERVICE = "two_gpus_service:TwoGpus"


def test_each_gpu_has_a_worker_and_a_scrape_has_the_metrics_of_all(fitted, shirt):
    support = str(Path(__file__).parents[1] / "support")
    with bentoml_server(fitted.artifact.path, SERVICE, PYTHONPATH=support) as server:

        def gpus() -> dict[str, int]:
            """The process that has each card, as the last line about it says."""
            found = re.findall(r"worker (\d+) has GPU (\d+)", server.log_text())
            return {card: int(pid) for pid, card in found}

        def classify(_: int = 0) -> int:
            return httpx.post(f"{server.url}/v1/classify", content=shirt, timeout=TIMEOUT_S).status_code

        def n_requests() -> float:
            text = httpx.get(f"{server.url}/metrics", timeout=TIMEOUT_S).text
            return sum(float(value) for value in re.findall(r'graft_requests_total\{.*route="/v1/classify".*\} (\S+)', text))

        poll_until(lambda: set(gpus()) == {"0", "1"})
        workers = gpus()
        assert len(set(workers.values())) == 2
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(classify, range(40))) == {200}
        poll_until(lambda: [n_requests() for _ in range(6)] == [40] * 6)  # whichever worker answers
        time.sleep(2 * BEAT_INTERVAL_S)  # a worker shows its metrics to the others once in each interval

        os.kill(workers["1"], signal.SIGKILL)
        poll_until(lambda: gpus()["1"] != workers["1"])
        assert gpus()["0"] == workers["0"]
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(classify, range(20))) == {200}
        poll_until(lambda: n_requests() == 60)  # what the dead worker counted is not lost
        assert "Traceback" not in server.log_text()
