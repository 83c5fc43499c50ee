"""Whether a GPU can be used: asked in a process of its own, once, and never at the cost of this process."""

import os

import pytest
from fake_gpu import FakeGpu, make_gpu

from graft.service.inference import cuda_check
from graft.service.inference.cuda_check import CudaCheck, adopt, check_cuda


@pytest.fixture(scope="module")
def gpu(tmp_path_factory) -> FakeGpu:
    return make_gpu(tmp_path_factory.mktemp("gpu"))


@pytest.fixture
def machine(gpu, monkeypatch):
    """Makes this process one on a machine with a GPU: `machine("full")`."""
    before = cuda_check.known_check()

    def install(card: str = "works", driver: str = "0") -> None:
        adopt(None)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(gpu.driver))  # of the probe: this process has read its own
        monkeypatch.setenv("FAKE_CARD", card)
        monkeypatch.setenv("STUB_DRIVER", driver)
        monkeypatch.syspath_prepend(gpu.torch)
        monkeypatch.setattr(cuda_check, "_has_driver", lambda: True)
        monkeypatch.setattr(cuda_check, "_torch_problem", lambda: "")

    yield install
    adopt(before)


def test_card_that_works_is_described(machine):
    machine()
    found = check_cuda()
    assert (found.problem, found.is_absent, found.n_devices) == ("", False, 1)
    assert (found.name, found.capability, found.memory_bytes) == ("NVIDIA Stub", "8.6", 8 * 2**30)
    assert "CUDA 12.8" in found.driver


@pytest.mark.parametrize(
    ("card", "driver", "problem"),
    [
        ("full", "0", "the memory of NVIDIA Stub is full"),
        ("crashes", "0", "the check of NVIDIA Stub ended by SIGSEGV"),
        (
            "cannot be imported",
            "0",
            "the installed torch cannot be imported: libcudart.so.13: cannot open shared object file",
        ),
        (
            "works",
            "803",
            "the NVIDIA driver does not start: system has unsupported display driver / cuda driver combination (error 803)",
        ),
        ("works", "crash", "the check of the GPU ended by SIGSEGV"),
    ],
)
def test_broken_card_or_driver_is_a_problem_and_no_crash(machine, card, driver, problem):
    machine(card, driver)
    found = check_cuda()
    assert (found.problem, found.is_absent) == (problem, False)


def test_card_that_never_answers_is_given_up(machine, monkeypatch):
    monkeypatch.setattr(cuda_check, "TIMEOUT_S", 1.0)
    machine("hangs")
    assert check_cuda().problem == "the check of the GPU did not end within 1 seconds"


@pytest.mark.parametrize("driver", ["none", "100", "34"])  # no device; CUDA_ERROR_NO_DEVICE; a toolkit's stub
def test_driver_without_a_device_is_no_gpu(machine, driver):
    machine(driver=driver)
    found = check_cuda()
    assert found.is_absent
    assert found.problem == "this machine has no CUDA device, or no NVIDIA driver; nvidia-smi lists them"


def test_wrong_number_in_the_variable_is_named(machine, monkeypatch):
    machine(driver="100")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert check_cuda() == CudaCheck("CUDA_VISIBLE_DEVICES=7 names no CUDA device of this machine", is_absent=True)


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpu_is_not_asked(machine, monkeypatch, value):
    machine("crashes")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert check_cuda() == CudaCheck("CUDA_VISIBLE_DEVICES hides all CUDA devices", is_absent=True)
    assert cuda_check.known_check() is None


def test_gpu_is_asked_once(machine, monkeypatch):
    machine()
    answers = iter([CudaCheck("first"), CudaCheck("second")])
    monkeypatch.setattr(cuda_check, "_probe", lambda with_torch: next(answers))
    assert [check_cuda().problem, check_cuda().problem] == ["first", "first"]
    adopt(None)
    assert check_cuda().problem == "second"


def test_card_is_named_without_torch(machine, monkeypatch):
    machine("crashes")  # nothing of torch may run
    monkeypatch.setattr(cuda_check, "_torch_problem", lambda: "torch is not installed")
    found = check_cuda()
    assert (found.problem, found.is_absent, found.name) == ("torch is not installed", False, "NVIDIA Stub")


def test_machine_without_a_driver_starts_no_process(machine, monkeypatch):
    machine()
    monkeypatch.setattr(cuda_check, "_has_driver", lambda: False)
    monkeypatch.setattr(cuda_check, "_probe", lambda with_torch: pytest.fail("the probe was started"))
    assert check_cuda().is_absent


@pytest.mark.parametrize(
    ("cuda", "problem"), [("'13.2'", ""), ("None", "the installed torch is a build without CUDA"), ("'12.8'", "")]
)
def test_build_of_torch_is_read_from_its_files(tmp_path, monkeypatch, cuda, problem):
    (tmp_path / "__init__.py").touch()
    (tmp_path / "version.py").write_text(f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(cuda_check, "find_spec", lambda name: spec)
    assert cuda_check._torch_problem() == problem


def test_torch_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(cuda_check, "find_spec", lambda name: None)
    assert cuda_check._torch_problem() == "torch is not installed"


@pytest.mark.slow
def test_real_torch_refuses_a_driver_that_only_pretends(machine, gpu, monkeypatch):
    pytest.importorskip("torch")
    machine()
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path != str(gpu.torch)])
    assert os.environ["FAKE_CARD"] == "works"
    assert check_cuda().problem.startswith("torch cannot use NVIDIA Stub")
