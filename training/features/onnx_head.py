"""Appends a linear head to a backbone's ONNX graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.manifest import MAPS_OUTPUT
from graft.training.backbones.onnx_cache import STAGES
from graft.training.features.linear_probe import Head

if TYPE_CHECKING:
    import onnx


def append_head(graph: Path, head: Head, head_input: Literal["last", "all"] = "last") -> bytes:
    """Appends the head to a backbone's ONNX file; keeps the outputs `logits`, `vectors` and the head's feature maps.

    Args:
        graph: ONNX file with the output `vectors`, optionally `stages` and feature maps.
        head_input: the head's input: "last" for the vectors, "all" for the stages followed by the vectors.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph)
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in tensors.items())
    features, names = VECTORS, [output.name for output in model.graph.output]
    if head_input == "all" and STAGES in names:
        features = "head_input"
        model.graph.node.append(helper.make_node("Concat", [STAGES, VECTORS], [features], axis=1))
    model.graph.node.append(helper.make_node("Gemm", [features, *tensors], [LOGITS], transB=1))
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", len(head.bias)])
    maps = [name for name in names if name == MAPS_OUTPUT or (head_input == "all" and name.endswith(MAPS_OUTPUT))]
    outputs = [output for output in model.graph.output if output.name in (VECTORS, *maps)]
    del model.graph.output[:]
    model.graph.output.extend([logits, *outputs])
    _remove_unused(model.graph)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _remove_unused(graph: "onnx.GraphProto") -> None:
    """Removes nodes and tensors that no output needs, such as the pooling of unused stages."""
    needed, nodes = {output.name for output in graph.output}, []
    for node in reversed(graph.node):  # nodes are in topological order
        if needed & set(node.output):
            nodes.append(node)
            needed |= _input_names(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(tensors)


def _input_names(node: "onnx.NodeProto") -> set[str]:
    """The names of a node's inputs, including those of its subgraphs."""
    subgraph_inputs = (_input_names(inner) for attribute in node.attribute for inner in attribute.g.node)
    return set(node.input).union(*subgraph_inputs)
