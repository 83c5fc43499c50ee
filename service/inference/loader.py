"""Selects and loads the engine for a package on this machine."""

from pathlib import Path

from ..artifact import Artifact, ArtifactError, Precision
from .devices import Device
from .engine import Engine
from .openvino import OpenVinoEngine, openvino_core


def load(artifact: Artifact, device: Device, precision: Precision = "f32") -> Engine:
    """Loads the engine for a device.

    Raises:
        ArtifactError: if the package or the device does not support the precision.
    """
    if device == "cuda":
        from .cuda import CudaEngine

        return CudaEngine(artifact, precision)
    graph, weights = graph_paths(artifact, precision)
    return OpenVinoEngine(graph, precision=precision, weights=weights)


def graph_paths(artifact: Artifact, precision: Precision) -> tuple[Path, Path | None]:
    """The CPU graph file for a precision, and its weights file if it has one. Raises ArtifactError if the package has none."""
    if precision != "int8":
        return artifact.graph, None
    if "int8" not in artifact.manifest.fidelity:
        raise ArtifactError(f"{artifact.path} has no int8 network. Create one with: graft fit DIR --int8")
    return artifact.int8_graph, artifact.int8_weights


def supported_precisions(device: Device) -> tuple[Precision, ...]:
    """The precisions that a device supports natively, without emulation; always includes f32."""
    if device == "cuda":
        from . import cuda

        return cuda.supported_precisions()
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", *(name for name in ("bf16", "int8") if name.upper() in capabilities))
