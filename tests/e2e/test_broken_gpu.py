"""Machines with a GPU that cannot be used: `auto` uses the CPU and says why; asked for by name, it is a one-line error."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fake_gpu import FakeGpu, make_gpu
from server_process import TIMEOUT_S, bentoml_server

from graft.training.pipelines.serve import command, environment
from graft.training.runtime.import_root import IMPORT_ROOT

WARNING = "warning: the CPU is used, not the GPU: "
FULL = "the memory of NVIDIA Stub is full"


@pytest.fixture(scope="module")
def gpu(tmp_path_factory) -> FakeGpu:
    return make_gpu(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(autouse=True)
def visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def graft(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [variables.pop("PYTHONPATH", ""), root]))
    environment = os.environ | {"PYTHONPATH": paths} | variables
    program = [sys.executable, "-m", "graft", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("card", "torch", "reason"), [("full", True, FULL), ("works", False, "torch is not installed")])
def test_service_with_auto_serves_on_the_cpu_and_says_why(fitted, shirt, gpu, card, torch, reason):
    with bentoml_server(fitted.artifact.path, **gpu.variables(card, torch)) as server:
        answer = httpx.post(f"{server.url}/v1/classify", content=shirt, timeout=TIMEOUT_S)
        described = httpx.get(f"{server.url}/v1/model").json()
        log = server.log_text()
    assert answer.status_code == 200
    assert described["device"] == "cpu"
    assert [line for line in log.splitlines() if "GPU" in line] == [f"{WARNING}{reason}"]


@pytest.mark.slow
@pytest.mark.parametrize(("card", "torch", "reason"), [("full", True, FULL), ("works", False, "torch is not installed")])
def test_service_that_insists_on_the_gpu_does_not_start(fitted, gpu, card, torch, reason):
    variables = environment(fitted.artifact.path, 0, "cuda") | gpu.variables(card, torch)
    result = subprocess.run(
        command("127.0.0.1", 0), cwd=IMPORT_ROOT, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if "GPU" in line or line.startswith("error")]
    assert errors == [f"error: device cuda: {reason}. Use auto or cpu."]
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_service_refuses_the_stub_with_the_installed_torch(fitted, shirt, gpu):
    pytest.importorskip("torch")
    with bentoml_server(fitted.artifact.path, **gpu.variables("real torch")) as server:
        assert httpx.post(f"{server.url}/v1/classify", content=shirt, timeout=TIMEOUT_S).status_code == 200
        log = server.log_text()
    assert log.count(WARNING) == 1
    assert f"{WARNING}torch cannot use NVIDIA Stub" in log or f"{WARNING}the installed torch is a build without CUDA" in log


@pytest.mark.parametrize("verb", [["verify"], ["predict", "x.png"], ["locate", "x.png"]])
def test_command_that_asks_for_a_broken_gpu_is_refused_before_any_work(gpu, verb):
    result = graft(verb[0], "no-package", *verb[1:], "--device", "cuda", **gpu.variables("wrong"))
    message = "error: device cuda: a convolution on NVIDIA Stub gives wrong numbers. Use auto or cpu.\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)


def test_commands_with_auto_work_on_the_cpu_with_one_warning(fitted, gpu, tmp_path, shirt):
    (tmp_path / "shirt.png").write_bytes(shirt)
    predicted = graft("predict", fitted.package, tmp_path / "shirt.png", "--quiet", **gpu.variables("crashes"))
    assert (predicted.returncode, predicted.stderr) == (0, f"{WARNING}the check of NVIDIA Stub ended by SIGSEGV\n")
    verified = graft("verify", fitted.package, "--device", "cpu", **gpu.variables("crashes"))
    assert (verified.returncode, WARNING in verified.stderr) == (0, False)


@pytest.mark.slow
def test_fine_tuning_on_the_cpu_leaves_a_full_gpu_alone(make_folder, tmp_path, monkeypatch):
    import torch

    from graft.training.config.recipe import Recipe
    from graft.training.pipelines import fit

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", fail)
    recipe = Recipe(strategy="finetune-last", device="cpu", backbone="lenet5", weights="none", epochs=1, lr_find=True)
    result = fit.fit(make_folder({"cat": 12, "dog": 12}), tmp_path / "run", recipe)
    assert result.artifact.manifest.strategy == "finetune-last"


def test_info_shows_the_card_and_why_it_is_not_used(gpu):
    lines = dict(line.split(None, 1) for line in graft("info", **gpu.variables("full")).stdout.splitlines())
    assert lines["GPU"].startswith("NVIDIA Stub, compute capability 8.6, 8.0 GiB, driver ")
    assert lines["GPU"].endswith(f"CUDA 12.8): {FULL}") or lines["GPU"].endswith(f"CUDA 12.8: {FULL}")
    assert lines["inference"].startswith("OpenVINO on cpu")
