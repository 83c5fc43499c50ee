"""Which engine runs a package on this machine."""

from pathlib import Path

from ..artifact import Artifact, ArtifactError, Precision
from .devices import cuda_devices
from .engine import Engine
from .openvino import CpuEngine, core


def load(artifact: Artifact, device: str = "auto", precision: Precision = "f32") -> Engine:
    """The engine for this machine: CUDA where there is one, else the CPU.

    Raises:
        ArtifactError: if the package has no network in that precision.
    """
    if resolved(device) == "cuda":
        from .cuda import CudaEngine

        return CudaEngine(artifact, precision)
    return CpuEngine(graph_of(artifact, precision), precision=precision)


def graph_of(artifact: Artifact, precision: Precision) -> Path:
    """The file with the network for the CPU in a precision. Raises ArtifactError if the package has none."""
    if precision != "int8":
        return artifact.graph
    if "int8" not in artifact.manifest.fidelity:
        raise ArtifactError(f"{artifact.path} has no int8 network. Make one with: graft fit DIR --int8")
    return artifact.int8_graph


def resolved(device: str) -> str:
    """The device that "auto" means on this machine."""
    return device if device != "auto" else "cuda" if cuda_devices() else "cpu"


def native(device: str) -> tuple[Precision, ...]:
    """What a device computes in by itself, without imitating it by something wider: f32 and perhaps more."""
    if device == "cuda":
        from . import cuda

        return cuda.native()
    able = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", *(name for name in ("bf16", "int8") if name.upper() in able))
