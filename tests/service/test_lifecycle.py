"""The start of a worker: which device it uses, and how it ends if it cannot start."""

import json
import os
from dataclasses import asdict

import pytest

from graft.service import lifecycle
from graft.service.fidelity import Precision
from graft.service.inference import cuda_check, devices
from graft.service.inference.cuda_check import CudaCheck, adopt, known_check
from graft.service.inference.devices import DeviceError, resolve_device
from graft.service.inference.engine import DeviceFailed
from graft.service.monitoring import logs
from graft.service.settings import Settings
from graft.service.supervision import ENV, Handover

BROKEN = CudaCheck("the memory of NVIDIA L4 is full", n_devices=1, name="NVIDIA L4")


@pytest.fixture
def worker(monkeypatch):
    """Makes this process a worker: `worker(what its supervisor has found)`."""
    before = known_check()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_warned_of", set())
    monkeypatch.setattr(lifecycle.logger, "disabled", False)  # a library of an earlier test may have configured logging

    def start(cuda: CudaCheck | None, precision: Precision | None = None) -> None:
        adopt(None)
        handover = Handover(os.getppid(), "", "", {}, -1, cuda, precision=precision)
        monkeypatch.setenv(ENV, json.dumps(asdict(handover)))

    yield start
    adopt(before)


def test_a_worker_does_not_look_at_the_gpu_again(worker, monkeypatch, capfd, caplog):
    worker(BROKEN)
    monkeypatch.setattr(cuda_check, "_look", lambda: pytest.fail("the worker has looked at the GPU"))
    lifecycle.resolve_worker_device("auto")
    assert resolve_device("auto") == "cpu"
    assert (capfd.readouterr().err, caplog.messages) == ("", [])  # the supervisor has printed the warning


def test_a_worker_that_replaces_another_logs_what_it_finds(worker, monkeypatch, capfd, caplog):
    worker(None)
    monkeypatch.setattr(cuda_check, "_look", lambda: BROKEN)
    lifecycle.resolve_worker_device("auto")
    assert resolve_device("auto") == "cpu"
    assert caplog.messages == ["the CPU is used, not the GPU: the memory of NVIDIA L4 is full"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "device", "served", "loaded"),
    [
        ("auto", "cpu", "int8", "int8"),
        ("auto", "cpu", None, "auto"),
        ("auto", "cpu", "tf32", "auto"),  # the worker before had a GPU
        ("auto", "cuda", "int8", "auto"),
        ("f32", "cpu", "int8", "f32"),
    ],
)
def test_a_worker_that_replaces_another_serves_in_its_precision(worker, monkeypatch, asked, device, served, loaded):
    worker(None, served)
    monkeypatch.setattr(lifecycle, "resolve_device", lambda setting: device)
    monkeypatch.setattr(lifecycle, "supported_precisions", lambda device: ("f32", "int8"))
    assert lifecycle.precision_to_load(Settings(precision=asked)) == loaded


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DeviceError("device cuda: the memory of NVIDIA L4 is full. Use auto or cpu."), "device cuda: the memory of"),
        (DeviceFailed("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU has failed: CUDA out of memory. Tried to"),
    ],
)
def test_a_gpu_that_cannot_be_used_ends_the_start_with_one_line(error, line, monkeypatch, capfd):
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.delenv(ENV, raising=False)
    with lifecycle.ends_service_on_failure():
        raise error
    logs.stderr.flush()
    printed = capfd.readouterr().err
    assert printed.startswith(f"error: {line}")
    assert (printed.count("\n"), codes) == (1, [lifecycle.EXIT_UNUSABLE])
