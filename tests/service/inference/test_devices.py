"""Which device is used, and why a requested one cannot be."""

import pytest

from graft.service.inference import devices
from graft.service.inference.cuda_check import CudaCheck, adopt, known_check
from graft.service.inference.devices import DeviceError, adopt_check, resolve_device

BROKEN = CudaCheck("a convolution on NVIDIA L4 gives wrong numbers", n_devices=1, name="NVIDIA L4")
ABSENT = CudaCheck("this machine has no CUDA device", is_absent=True)


@pytest.fixture
def found(monkeypatch):
    """Sets what is known about the GPU of this machine."""
    before = known_check()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_warned_of", set())
    yield adopt
    adopt(before)


def test_gpu_that_computes_is_used(found, capsys):
    found(CudaCheck(n_devices=1))
    assert [resolve_device(setting) for setting in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert capsys.readouterr().err == ""


def test_auto_uses_the_cpu_and_says_once_why(found, capsys):
    found(BROKEN)
    assert [resolve_device("auto") for _ in range(3)] == ["cpu"] * 3
    warning = "warning: the CPU is used, not the GPU: a convolution on NVIDIA L4 gives wrong numbers\n"
    assert capsys.readouterr().err == warning


def test_a_caller_can_choose_where_the_reason_goes(found):
    found(BROKEN)
    reasons: list[str] = []
    resolve_device("auto", reasons.append)
    assert reasons == ["the CPU is used, not the GPU: a convolution on NVIDIA L4 gives wrong numbers"]


def test_broken_gpu_that_is_asked_for_is_an_error(found):
    found(BROKEN)
    message = r"^device cuda: a convolution on NVIDIA L4 gives wrong numbers\. Use auto or cpu\.$"
    with pytest.raises(DeviceError, match=message):
        resolve_device("cuda")


def test_nothing_is_said_where_there_is_no_gpu(found, capsys):
    found(ABSENT)
    assert resolve_device("auto") == "cpu"
    assert capsys.readouterr().err == ""
    with pytest.raises(DeviceError, match="this machine has no CUDA device"):
        resolve_device("cuda")


def test_the_cpu_needs_no_look_at_the_gpu(found, monkeypatch):
    monkeypatch.setattr(devices, "check_cuda", lambda: pytest.fail("the GPU was checked"))
    assert resolve_device("cpu") == "cpu"


def test_what_a_parent_process_has_warned_of_is_not_said_again(found, capsys):
    found(None)
    adopt_check(BROKEN)
    assert resolve_device("auto") == "cpu"
    assert capsys.readouterr().err == ""
