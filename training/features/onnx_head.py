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
    linear = LOGITS if head.kernel is None else f"{HEAD_PREFIX}linear"
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

    def node(operator: str, inputs: list[str], output: str, **attributes: int) -> "onnx.NodeProto":
        name = output if output == LOGITS else f"{HEAD_PREFIX}{output}"
        names = [one if one in (features, linear) or one.startswith("head.") else f"{HEAD_PREFIX}{one}" for one in inputs]
        return helper.make_node(operator, names, [name], name, **attributes)

    return [
        node("Sign", [features], "signs"),
        node("Abs", [features], "sizes"),
        node("Add", ["sizes", "head.offset"], "lifted"),
        node("Sqrt", ["lifted"], "lifted_roots"),
        node("Sub", ["lifted_roots", "head.sqrt_offset"], "unsigned_roots"),
        node("Mul", ["signs", "unsigned_roots"], "roots"),
        node("Gemm", ["roots", "head.projection", "head.shift"], "axes", transB=1),
        node("Mul", ["axes", "axes"], "squares"),
        node("ReduceSum", ["squares", "head.rows"], "squared_axes", keepdims=1),
        node("Gemm", ["axes", "head.minus_two_centers", "head.squared_centers"], "products", transB=1),
        node("Add", ["products", "squared_axes"], "rough_distances"),
        node("Max", ["rough_distances", "head.zero"], "distances"),
        node("Neg", ["distances"], "exponents"),
        node("Exp", ["exponents"], "similarities"),
        node("Gemm", ["similarities", "head.coefficients", linear], LOGITS, transB=1),
    ]


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
