"""The device of a command: what is said about it, and that a run on the CPU leaves the GPU alone."""

import pytest
import torch

from graft.service.inference import devices
from graft.service.inference.cuda_check import CudaCheck, adopt, known_check
from graft.service.inference.devices import DeviceError
from graft.training.runtime.device import select_device, without_cuda

FULL = CudaCheck("the memory of NVIDIA L4 is full", n_devices=1, name="NVIDIA L4")


@pytest.fixture
def full_gpu(monkeypatch):
    """This machine has a GPU whose memory is full."""
    before = known_check()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_warned_of", set())
    adopt(FULL)
    yield
    adopt(before)


def test_reason_is_a_warning_of_one_line(full_gpu, capsys):
    assert (select_device("auto"), select_device("auto")) == ("cpu", "cpu")
    assert capsys.readouterr().err == "warning: the CPU is used, not the GPU: the memory of NVIDIA L4 is full\n"


def test_broken_gpu_that_is_asked_for_is_an_error(full_gpu, capsys):
    with pytest.raises(DeviceError, match="the memory of NVIDIA L4 is full"):
        select_device("cuda")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("device", "seen"), [("cpu", False), ("cuda", True)])
def test_gpu_is_hidden_from_a_run_on_the_cpu_only(monkeypatch, device, seen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with without_cuda(device):
        assert torch.cuda.is_available() is seen
    assert torch.cuda.is_available()
