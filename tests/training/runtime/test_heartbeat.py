"""Without a terminal, it is never silent for long."""

import os
import re
import threading
import time

import pytest

from graft.training.runtime import heartbeat
from graft.training.runtime.progress import Progress, log, step, verbosity


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE_S", 0.2)
    monkeypatch.setattr(heartbeat, "MIN_TASK_S", 0.05)


def test_step_says_what_is_being_done(capsys):
    with step("importing torch"):
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"importing torch, 0 s"}


def test_slow_item_is_no_silence(capsys):
    with Progress("reading", 5, "images") as progress:
        progress.advance(1)
        time.sleep(0.3)
    assert re.match(r"reading 1/5 images, \S+, .* left\n", capsys.readouterr().err)


def test_innermost_task_is_shown(capsys):
    with step("checking"), step("reading"):
        time.sleep(0.3)
    assert set(capsys.readouterr().err.splitlines()) == {"reading, 0 s"}


def test_many_short_steps_are_one_silence(capsys):
    heartbeat.note_line()
    for _ in range(8):
        with step("fitting"):
            time.sleep(0.08)
    assert "fitting, 0 s" in capsys.readouterr().err


def test_short_step_prints_nothing(capsys):
    with step("reading"):
        pass
    assert capsys.readouterr().err == ""


def test_other_lines_end_the_silence(capsys):
    with step("reading"):
        for _ in range(8):
            log("a line")
            time.sleep(0.05)
    assert set(capsys.readouterr().err.splitlines()) == {"a line"}


def test_quiet_prints_nothing(capsys):
    with verbosity("quiet"), step("reading"):
        time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_no_thread_remains():
    with step("reading"):
        assert "graft-progress" in [thread.name for thread in threading.enumerate()]
    with verbosity("normal"):
        Progress("left behind by an exception", 5, "images").__enter__()
    assert "graft-progress" not in [thread.name for thread in threading.enumerate()]


def test_forked_process_has_its_own_lines():
    reader, writer = os.pipe()
    with step("of the parent"):
        child = os.fork()
        if child == 0:
            os.dup2(writer, 2)
            with open(2, "w", closefd=False) as errors:
                heartbeat.sys.stderr = errors
                with step("of the child"):
                    time.sleep(0.5)
            os._exit(0)
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reader) as output:
        assert set(output.read().splitlines()) == {"of the child, 0 s"}
