"""Facts about the GPU and switches for its arithmetic; without a GPU, a made-up card takes its place."""

from pathlib import Path

import pytest
import torch
from needs_cuda import needs_cuda

from graft.training.runtime import gpu
from graft.training.runtime.gpu import Card

CARD = Card("NVIDIA L4", "550.54.14", (8, 9), 24 * 2**30)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: 12.2.0\n",
            "550.54.14",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95  Release Build\n", "580.95"),
        ("", ""),
    ],
)
def test_driver_version_is_read_from_the_kernel_module(tmp_path: Path, text: str, version: str):
    (tmp_path / "version").write_text(text)
    assert gpu.driver_version(tmp_path / "version") == version


def test_driver_version_is_unknown_without_a_driver(tmp_path: Path):
    assert gpu.driver_version(tmp_path / "none") == ""


def test_machine_of_a_gpu_run_has_card_driver_and_capability(monkeypatch):
    monkeypatch.setattr(gpu, "current_card", lambda: CARD)
    record = gpu.machine_record("cuda")
    assert record == {"device": "cuda", "card": "NVIDIA L4", "driver": "550.54.14", "compute capability": "8.9"}
    assert gpu.describe_machine(record) == "NVIDIA L4 (driver 550.54.14)"


def test_machine_of_a_cpu_run_needs_no_card(monkeypatch):
    monkeypatch.setattr(gpu, "current_card", None)
    assert gpu.machine_record("cpu") == {"device": "cpu"}
    assert gpu.describe_machine({"device": "cpu"}) == "a CPU"


def test_gpu_runs_use_deterministic_algorithms_and_others_are_unchanged():
    with gpu.deterministic("cpu"):
        assert not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = True
    try:
        with gpu.deterministic("cuda"):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert not torch.backends.cudnn.benchmark
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False


@needs_cuda
def test_current_card_is_described():
    card = gpu.current_card()
    assert card.name
    assert card.memory_bytes >= gpu.free_bytes() > 0
    assert card.capability >= (5, 0)
