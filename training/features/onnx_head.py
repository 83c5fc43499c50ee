"""Appends a head to a backbone's ONNX graph."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.head import Head
from graft.service.manifest import MAPS_OUTPUT
from graft.training.backbones.onnx_cache import STAGES

if TYPE_CHECKING:
    import onnx


HEAD_PREFIX = "head/"  # of the names of a head's nodes


def append_head(graph: Path, head: Head, head_input: Literal["last", "all"] = "last") -> bytes:
    """Appends the head to a backbone's ONNX file; keeps the outputs `logits`, `vectors` and the head's feature maps.

    Args:
        graph: ONNX file with the output `vectors`, optionally `stages` and feature maps.
        head_input: the head's input: "last" for the vectors, "all" for the stages followed by the vectors.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(graph)
    model.graph.initializer.extend(numpy_helper.from_array(tensor, name) for name, tensor in _initializers(head).items())
    features, names = VECTORS, [output.name for output in model.graph.output]
    if head_input == "all" and STAGES in names:
        features = "head_input"
        model.graph.node.append(helper.make_node("Concat", [STAGES, VECTORS], [features], axis=1))
    linear = LOGITS if head.kernel is None else "head/linear"
    model.graph.node.append(helper.make_node("Gemm", [features, "head.weight", "head.bias"], [linear], linear, transB=1))
    if head.kernel is not None:
        model.graph.node.extend(_kernel_nodes(features, linear))
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", len(head.bias)])
    maps = [name for name in names if name == MAPS_OUTPUT or (head_input == "all" and name.endswith(MAPS_OUTPUT))]
    outputs = [output for output in model.graph.output if output.name in (VECTORS, *maps)]
    del model.graph.output[:]
    model.graph.output.extend([logits, *outputs])
    _remove_unused(model.graph)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _initializers(head: Head) -> dict[str, NDArray[np.float32]]:
    """The tensors of the head in the graph. What depends on them alone is computed here."""
    kernel = head.kernel
    if kernel is None:
        return head.to_tensors()
    return {
        "head.weight": head.weight,
        "head.bias": head.bias,
        "head.offset": kernel.offset,
        "head.sqrt_offset": np.sqrt(kernel.offset),
        "head.projection": kernel.projection,
        "head.shift": kernel.shift,
        "head.minus_two_centers": -2 * kernel.centers,
        "head.squared_centers": (kernel.centers * kernel.centers).sum(axis=1),
        "head.coefficients": kernel.coefficients,
        "head.zero": np.zeros((), np.float32),
        "head.rows": np.array([1], np.int64),
    }


def _kernel_nodes(features: str, linear: str) -> list["onnx.NodeProto"]:
    """`graft.service.inference.head.Kernel` as nodes, which add their logits to those of the linear head."""
    from onnx import helper

    nodes: list[onnx.NodeProto] = []

    def add(output: str, operator: str, *inputs: str, **attributes: int) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    signs, sizes = add("head/signs", "Sign", features), add("head/sizes", "Abs", features)
    lifted_roots = add("head/lifted_roots", "Sqrt", add("head/lifted", "Add", sizes, "head.offset"))
    roots = add("head/roots", "Mul", signs, add("head/unsigned_roots", "Sub", lifted_roots, "head.sqrt_offset"))
    axes = add("head/axes", "Gemm", roots, "head.projection", "head.shift", transB=1)
    squared_axes = add("head/squared_axes", "ReduceSum", add("head/squares", "Mul", axes, axes), "head.rows", keepdims=1)
    products = add("head/products", "Gemm", axes, "head.minus_two_centers", "head.squared_centers", transB=1)
    distances = add("head/distances", "Max", add("head/rough_distances", "Add", products, squared_axes), "head.zero")
    similarities = add("head/similarities", "Exp", add("head/exponents", "Neg", distances))
    add(LOGITS, "Gemm", similarities, "head.coefficients", linear, transB=1)
    return nodes


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
