"""A scrape of one worker has the metrics of all of them."""

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from graft.service.monitoring.merged_metrics import MetricsFolder, merge
from graft.service.monitoring.metrics import Metrics

STARTED = "process_start_time_seconds"


def worker_metrics(n_requests: int, n_waiting: int, batch_sizes: list[int]) -> Metrics:
    metrics = Metrics()
    metrics.requests.labels("/v1/classify", "200", "ok").inc(n_requests)
    metrics.track_queue("images", lambda: n_waiting)
    metrics.set_model_info(name="birds", version="1", sha256="00", backbone="tiny", device="cuda", precision="f16")
    for size in batch_sizes:
        metrics.batch_size.observe(size)
    return metrics


def values(text: bytes) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, *(value for name, value in sample.labels.items() if name in ("route", "queue", "le"))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_histograms_and_gauges_are_added_up():
    texts = [(worker_metrics(3, 1, [1, 8]).to_text(), True), (worker_metrics(4, 2, [8]).to_text(), True)]
    found = values(merge(texts))
    assert found["graft_requests_total", "/v1/classify"] == 7
    assert found["graft_waiting", "images"] == 3
    assert (found["graft_batch_size_count",], found["graft_batch_size_sum",]) == (3, 17)
    assert (found["graft_batch_size_bucket", "1.0"], found["graft_batch_size_bucket", "8.0"]) == (1, 3)
    assert found["graft_model_info",] == 1


def test_the_metrics_of_one_worker_stay_as_they_are():
    text = worker_metrics(3, 1, [1, 8]).to_text()
    assert values(merge([(text, True)])) == values(text)
    assert {line for line in merge([(text, True)]).splitlines() if line.startswith(b"#")} == {
        line for line in text.splitlines() if line.startswith(b"#")
    }


def test_what_an_ended_worker_counted_stays_and_its_queues_do_not():
    texts = [(worker_metrics(3, 1, [1]).to_text(), True), (worker_metrics(4, 9, [2]).to_text(), False)]
    found = values(merge(texts))
    assert found["graft_requests_total", "/v1/classify"] == 7
    assert found["graft_batch_size_count",] == 2
    assert found["graft_waiting", "images"] == 1


def test_the_service_started_when_its_first_worker_did():
    texts = [(f"# TYPE {STARTED} gauge\n{STARTED} {seconds}\n".encode(), True) for seconds in (200, 100)]
    assert values(merge(texts))[STARTED,] == 100


def test_workers_find_each_other_in_the_folder(tmp_path: Path):
    folder = MetricsFolder(tmp_path)
    text = worker_metrics(4, 2, []).to_text()
    with subprocess.Popen(["sleep", "600"]) as running, subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        for pid in (running.pid, ended.pid, os.getpid()):
            (tmp_path / f"{pid}.prom").write_bytes(text)
        found = values(folder.merge(worker_metrics(1, 0, []).to_text()))
        running.kill()
    assert found["graft_requests_total", "/v1/classify"] == 9  # 1 of this process, which is newer than its file
    assert found["graft_waiting", "images"] == 2
    folder.publish(text)
    assert (tmp_path / f"{os.getpid()}.prom").read_bytes() == text
