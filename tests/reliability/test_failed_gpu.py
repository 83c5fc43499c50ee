"""A GPU that fails while it serves: honest answers, not ready from then on, and another worker."""

from collections import Counter
from pathlib import Path

import httpx
import pytest
from server_process import TIMEOUT_S, bentoml_server, poll_until

pytestmark = pytest.mark.slow

SERVICE = "failing_gpu_service:FailingGpuService"


def test_a_worker_whose_gpu_fails_is_replaced(fitted, shirt, tmp_path):
    fail = tmp_path / "fail"
    support = str(Path(__file__).parents[1] / "support")
    with bentoml_server(fitted.artifact.path, SERVICE, PYTHONPATH=support, FAIL_GPU=str(fail)) as server:
        worker = server.worker()

        def classify() -> httpx.Response:
            return httpx.post(f"{server.url}/v1/classify", content=shirt, timeout=TIMEOUT_S)

        assert classify().status_code == 200
        fail.touch()
        first = classify()
        assert (first.status_code, first.json()["code"]) == (503, "device_failed")
        assert first.headers["Retry-After"]
        assert server.status("/readyz") == 503
        fail.unlink()  # the card works again, but not in this process
        assert {classify().json()["code"] for _ in range(10)} == {"device_failed"}
        poll_until(lambda: server.status("/readyz") == 200)
        assert server.worker() != worker
        assert Counter(classify().status_code for _ in range(10)) == {200: 10}
        log = server.log_text()
    assert "the GPU has failed: CUDA error: an illegal memory access was encountered; restarting" in log
    assert "Traceback" not in log
