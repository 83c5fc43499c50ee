"""Post-training quantization of a backbone to int8 with NNCF. Runs only on request."""

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from graft.service.inference.engine import Pixels
from graft.service.manifest import GRAPH, WEIGHTS
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.backbones.registry import BackboneError
from graft.training.runtime.progress import step

if TYPE_CHECKING:
    import onnx

MAX_CALIBRATION_IMAGES = 300  # images that determine the ranges of the activations; more do not change them
# The first convolutions stay in f32: they see the most of the image in the fewest channels. Quantized too, a network is 7 %
# faster, and heads on its features lose twice as much.
N_EXACT_CONVOLUTIONS = 2
ATTENTION = {"Softmax", "LayerNormalization"}  # operators of transformers, which need other ranges
REQUIRED = ("nncf", "onnxruntime")  # NNCF computes the ranges of an ONNX file with ONNX Runtime


def require_nncf(int8: bool) -> None:
    """Checks that NNCF is installed if int8 is requested.

    Raises:
        ValueError: if it is not.
    """
    if int8 and (missing := [name for name in REQUIRED if find_spec(name) is None]):
        raise ValueError(f"--int8: {missing[0]} is not installed. Try: pip install 'graft-vision[int8]'")


def disable_telemetry() -> None:
    """Keeps NNCF and ONNX Runtime from calling their makers. Call it before either is imported."""
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@step("quantizing to int8")
def quantize_backbone(exported: ExportedBackbone, pixels: Sequence[Pixels], folder: Path) -> ExportedBackbone:
    """Writes the backbone with int8 convolutions and linear layers to a folder, as an ONNX file with QuantizeLinear nodes.

    Activations get asymmetric ranges where they have both signs (NNCF's preset "mixed"), and biases are corrected.

    Args:
        pixels: calibration images, each uint8 (S, S, 3).

    Raises:
        BackboneError: if NNCF cannot quantize the network.
    """
    disable_telemetry()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # NNCF imports it; it warns without a GPU
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws progress bars
        import nncf
        import onnx

        nncf.set_log_level(logging.ERROR)
        model = onnx.load(exported.graph)
        remove_casts_to_outputs(model.graph)
        nodes, calibration_images = model.graph.node, pixels[:MAX_CALIBRATION_IMAGES]
        [source] = [tensor.name for tensor in model.graph.input]
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset([{source: image[None]} for image in calibration_images]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(calibration_images),
                model_type=nncf.ModelType.TRANSFORMER if ATTENTION & {node.op_type for node in nodes} else None,
                ignored_scope=nncf.IgnoredScope(
                    [node.name for node in nodes if node.op_type == "Conv"][:N_EXACT_CONVOLUTIONS], validate=False
                ),
            )
        except Exception as error:  # noqa: BLE001 - NNCF raises all kinds for networks that it does not know
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            raise BackboneError(f"{exported.backbone.name} cannot be quantized to int8: {reason}") from None
    merge_quantizers(quantized.graph)
    onnx.checker.check_model(quantized)
    folder.mkdir(parents=True)
    onnx.save(quantized, folder / GRAPH)
    shutil.copyfile(exported.weights, folder / WEIGHTS)
    return exported.model_copy(update={"folder": folder})


def remove_casts_to_outputs(graph: "onnx.GraphProto") -> None:
    """Removes the exporter's casts from float32 to float32 in front of outputs, which NNCF fails on."""
    producers = {output: node for node in graph.node for output in node.output}
    outputs = {output.name for output in graph.output}
    for cast in [node for node in graph.node if node.op_type == "Cast" and node.output[0] in outputs]:
        [source], [name] = cast.input, cast.output
        for node in graph.node:
            node.input[:] = [name if tensor == source else tensor for tensor in node.input]
        producer = producers[source]
        producer.output[:] = [name if tensor == source else tensor for tensor in producer.output]
        graph.node.remove(cast)
        for value in [value for value in graph.value_info if value.name in (source, name)]:
            graph.value_info.remove(value)


def merge_quantizers(graph: "onnx.GraphProto") -> None:
    """Lets all consumers of a tensor share one QuantizeLinear and DequantizeLinear, where NNCF gives each its own.

    OpenVINO fuses the one into the layer before, and computes the others apart from it: with the pooling of every stage beside
    the next layer, the default network takes 40 % longer.
    """
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    parameters = {name: (array.dtype.str, array.tobytes()) for name, array in arrays.items()}
    kept: dict[tuple[object, ...], str] = {}  # the output of the first node for each operator and inputs
    renamed: dict[str, str] = {}
    for node in list(graph.node):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        key = (node.op_type, node.input[0], *(parameters.get(name, name) for name in node.input[1:]))
        [output] = node.output
        if kept.setdefault(key, output) != output:
            renamed[output] = kept[key]
            graph.node.remove(node)
