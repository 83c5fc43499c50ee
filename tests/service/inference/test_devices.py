"""Which device is used, and why a requested one cannot be."""

import pytest

from graft.service.inference import devices
from graft.service.inference.devices import DeviceError, resolve_device


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "cuda_device_count", lambda: 1)


def torch_build(folder, cuda: str, monkeypatch) -> None:
    """A torch whose version file says which CUDA it was built for."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").touch()
    (folder / "torch" / "version.py").write_text(f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n")
    spec = type("Spec", (), {"origin": str(folder / "torch" / "__init__.py")})
    monkeypatch.setattr(devices, "find_spec", lambda name: spec)


def test_gpu_is_used_if_torch_can_use_it(one_gpu, tmp_path, monkeypatch):
    torch_build(tmp_path, "'13.2'", monkeypatch)
    assert (resolve_device("auto"), resolve_device("cuda"), resolve_device("cpu")) == ("cuda", "cuda", "cpu")


def test_torch_without_cuda_means_the_cpu(one_gpu, tmp_path, monkeypatch):
    torch_build(tmp_path, "None", monkeypatch)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceError, match=r"^device cuda: the installed torch is a build without CUDA\. Use auto or cpu\.$"):
        resolve_device("cuda")


def test_service_without_torch_uses_the_cpu(one_gpu, monkeypatch):
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="torch is not installed"):
        resolve_device("cuda")


def test_hidden_gpu_is_named(one_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES hides all CUDA devices"):
        resolve_device("cuda")


def test_machine_without_a_gpu_is_named(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "cuda_device_count", lambda: 0)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="no CUDA device, or no NVIDIA driver"):
        resolve_device("cuda")
