"""What the probe says about a card, with a fake torch; and what architectures a card can run."""

import warnings

import fake_torch
import pytest

from graft.service.inference.cuda_probe import _convolve, is_supported, torch_problem


def problem(card: str, monkeypatch) -> str:
    monkeypatch.setattr(fake_torch, "CARD", card)
    return torch_problem(fake_torch, "NVIDIA Stub", (8, 6))


def test_card_that_computes_has_no_problem(monkeypatch):
    assert problem("works", monkeypatch) == ""


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ("not available", "torch cannot use NVIDIA Stub"),
        (
            "old driver",
            "torch cannot use NVIDIA Stub: The NVIDIA driver on your system is too old (found version 11040)",
        ),
        (
            "unsupported",
            "NVIDIA Stub has compute capability 8.6, and the installed torch is built for 9.0 and 10.0",
        ),
        ("full", "the memory of NVIDIA Stub is full"),
        ("full for cuDNN", "the memory of NVIDIA Stub is full"),
        ("nearly full", "the memory of NVIDIA Stub is nearly full: 100 MiB are free"),
        ("wrong", "a convolution on NVIDIA Stub gives wrong numbers"),
        ("not finite", "a convolution on NVIDIA Stub gives wrong numbers"),
        ("broken", "a convolution on NVIDIA Stub fails: CUDA error: an illegal memory access was encountered"),
    ],
)
def test_every_failure_has_a_sentence(card, sentence, monkeypatch):
    assert problem(card, monkeypatch) == sentence


def test_warning_of_torch_is_not_printed_too(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert problem("old driver", monkeypatch) != ""


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((8, 6), ["sm_75", "sm_80", "sm_90"], True),  # code for 8.0 runs on 8.6
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_90", "sm_100"], False),
        ((12, 0), ["sm_90", "compute_100"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
        ((6, 1), ["compute_70"], False),
        ((3, 7), [], True),  # unknown: the convolution decides
        ((3, 7), ["gfx90a"], False),
    ],
)
def test_card_runs_code_for_its_generation(capability, architectures, expected):
    assert is_supported(capability, architectures) is expected


def test_convolution_of_whole_numbers_is_the_same_in_16_bits():
    import torch

    exact = _convolve(torch, "cpu")
    assert 100 < max(exact) < 10_000
    pixels = (torch.arange(8 * 16 * 16) % 11).reshape(1, 8, 16, 16).to(torch.bfloat16).float()
    assert torch.equal(pixels, (torch.arange(8 * 16 * 16) % 11).reshape(1, 8, 16, 16).float())  # no input is rounded
