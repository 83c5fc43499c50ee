"""Selects and loads the engine for a package on this machine."""

import re
from pathlib import Path

from ..artifact import Artifact, ArtifactError
from ..fidelity import Precision
from ..manifest import GRAPH, WEIGHTS
from .devices import Device
from .engine import LOGITS, VECTORS, DeviceFailed, Engine
from .openvino import OpenVinoEngine, openvino_core


def load(artifact: Artifact, device: Device, precision: Precision = "f32") -> Engine:
    """Loads the engine for a device.

    Args:
        artifact: the int8 model of a package for precision "int8".

    Raises:
        ArtifactError: if the device does not support the precision, or the network does not fit the manifest.
        DeviceFailed: if the GPU fails, or is full.
    """
    if device == "cuda":
        return _load_cuda(artifact, precision)
    path = artifact.location(GRAPH)
    try:
        engine = OpenVinoEngine(artifact.graph, precision=precision)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:  # the bindings raise all of them
        if "alloc" in str(error):
            raise  # the memory is full
        raise ArtifactError(f"{path} cannot be loaded: it is not a network from uint8 pixels to logits and vectors.") from None
    _check_shapes(artifact, path, engine)
    return engine


def _load_cuda(artifact: Artifact, precision: Precision) -> Engine:
    from .cuda import CudaEngine

    try:
        return CudaEngine(artifact, precision)
    except (RuntimeError, KeyError) as error:
        if isinstance(error, DeviceFailed) or not re.search("state_dict|Unknown model", str(error)):
            raise
        backbone = artifact.manifest.backbone.name
        raise ArtifactError(
            f"{artifact.path / WEIGHTS} does not have the weights of {backbone}, the manifest's network."
        ) from None


def _check_shapes(artifact: Artifact, path: Path, engine: OpenVinoEngine) -> None:
    """Checks the shapes of a graph against the manifest. Raises ArtifactError."""
    manifest, side = artifact.manifest, artifact.manifest.preprocessing.crop
    if engine.side != side:
        raise ArtifactError(f"{path} takes images of {engine.side} pixels; the manifest says {side}.")
    expected = {LOGITS: len(manifest.labels), VECTORS: manifest.backbone.width} | manifest.backbone.map_outputs
    for name, width in expected.items():
        if (found := engine.widths.get(name)) != width:
            reason = "has no output" if found is None else f"has {found:,} values in its output"
            raise ArtifactError(f"{path} {reason} {name}; the manifest needs {width:,} values.")


def supported_precisions(device: Device) -> tuple[Precision, ...]:
    """The precisions that a device supports natively, without emulation; always includes f32."""
    if device == "cuda":
        from . import cuda

        return cuda.supported_precisions()
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", *(name for name in ("bf16", "int8") if name.upper() in capabilities))
