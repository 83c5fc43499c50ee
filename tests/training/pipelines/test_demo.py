"""`graft demo`: what it prints, and that `--serve` keeps the page open until Ctrl-C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from graft.training.pipelines.demo import Demo, Server

ROOT = Path(__file__).parents[3]
RUN = Path("runs/sample")


@pytest.fixture
def exited_server(tmp_path) -> Server:
    """A server that exited with code 3 and an error."""
    log_file = (tmp_path / "log").open("w+b")
    log_file.write(b"error: no package\n")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    return Server("http://127.0.0.1:1234", process, log_file)


def test_next_steps_name_the_report_and_how_to_open_the_page(exited_server):
    text = Demo(RUN, RUN / "package", {"predictions": []}, exited_server).to_text(keep_serving=False)
    assert text.startswith('{\n  "predictions": []\n}\n')
    assert "runs/sample/report.html" in text
    assert "graft serve runs/sample/package\n" in text
    assert "graft demo --serve" in text
    assert "1234" not in text  # that server has stopped when the text is read


def test_serving_names_the_open_page_and_the_report(exited_server):
    text = Demo(RUN, RUN / "package", {}, exited_server).to_text(keep_serving=True)
    assert "page:    http://127.0.0.1:1234/\n" in text
    assert "report:  runs/sample/report.html\n" in text
    assert "Ctrl-C" in text


def test_server_that_exits_ends_the_wait_with_its_output(exited_server):
    with pytest.raises(RuntimeError, match="exited with code 3:\nerror: no package"):
        exited_server.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("sent_signal", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_page_stays_open_until_interrupted(fitted, tmp_path, sent_signal, code):
    # A job in the background of a script inherits that SIGINT is ignored.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "graft", "demo", "--serve"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as running:
        url = next(line.split()[1] for line in running.stdout if line.startswith("page:"))
        report = next(line.split()[1] for line in running.stdout if line.startswith("report:"))
        assert "<title>Try the model" in httpx.get(url).text
        assert (tmp_path / report).is_file()
        running.send_signal(sent_signal)
        assert running.wait(timeout=60) == code
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
