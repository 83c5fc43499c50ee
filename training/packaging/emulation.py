"""Computes what a network gives in tf32, bf16 or f16 on a GPU, on any CPU: in f32, and rounded as a GPU rounds.

Tensor cores multiply rounded numbers, sum the products in f32, and round the sum to the type in which it is stored. So it
suffices to round the inputs of products (tf32), or whatever an operation returns (bf16 and f16). The roundings are added to the
graph, which then takes half as long again: torch's own 16-bit types on a CPU without them take a hundred times as long.
"""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graft.service.fidelity import Precision
from graft.service.inference.engine import LOGITS, VECTORS, Floats, Pixels
from graft.service.inference.openvino import OpenVinoModel

if TYPE_CHECKING:
    import openvino

EMULATED: tuple[Precision, ...] = ("tf32", "bf16", "f16")
FRACTION_BITS: dict[Precision, int] = {"tf32": 10, "bf16": 7, "f16": 10}
F32_FRACTION_BITS = 23
F16_MAX = float(np.finfo(np.float16).max)
PEAK = "peak"  # output of an emulated f16 network: its largest absolute value
PRODUCTS = frozenset({"Convolution", "GroupConvolution", "MatMul"})
# Operations that return values which they got, and so are rounded already.
EXACT = frozenset(
    {
        *("Broadcast", "Clamp", "Concat", "Constant", "Convert", "Gather", "MaxPool", "Maximum", "Minimum", "Pad"),
        *("Parameter", "ReduceMax", "Relu", "Reshape", "Result", "Select", "ShapeOf", "Slice", "Split", "Squeeze"),
        *("StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"),
    }
)


class EmulatedNetwork:
    """A network in the precision of a GPU. Normalization and head stay in f32 where the engine of GPUs leaves them so.

    Args:
        graph: the f32 network, an ONNX file.
        precision: one of `EMULATED`.
    """

    def __init__(self, graph: Path, precision: Precision) -> None:
        self._precision = precision
        self._model = OpenVinoModel(graph, transform=lambda model: add_rounding(model, precision))
        self.streams = self._model.streams

    def __call__(self, pixels: Pixels) -> Floats:
        """The logits, float32 (N, C), of pixels uint8 (N, S, S, 3); infinite if a value exceeds the range of f16."""
        outputs = self._model(pixels)
        if self._precision == "f16" and outputs[PEAK].max() > F16_MAX:
            return np.full_like(outputs[LOGITS], np.inf)
        return outputs[LOGITS]


def add_rounding(model: "openvino.Model", precision: Precision) -> None:
    """Rounds the numbers of a graph as a GPU does, in place."""
    from openvino import opset13 as operations

    bits = F32_FRACTION_BITS - FRACTION_BITS[precision]
    nodes, head = model.get_ordered_ops(), set(_after(model, VECTORS))
    constant, after_product = _classify(nodes)  # before the graph is changed
    rounded: list[Any] = []
    for node in nodes:
        kind, name = node.get_type_name(), node.get_friendly_name()
        if precision != "tf32" and name in head:
            continue
        if kind in PRODUCTS:
            for value in node.inputs():
                source = value.get_source_output().get_node().get_friendly_name()
                if precision == "tf32" or source in constant or source not in after_product:
                    value.replace_source_output(_round(value.get_source_output(), bits))
        if precision != "tf32" and name in after_product and kind not in EXACT:
            rounded += [_round_output(output, bits) for output in node.outputs() if _stays(output, constant)]
    if precision == "f16":
        axes = [operations.constant(np.arange(len(value.get_partial_shape())), np.int64) for value in rounded]
        pairs = zip(rounded, axes, strict=True)
        peaks = [operations.reduce_max(operations.abs(value), axis, keep_dims=False) for value, axis in pairs]
        peak = operations.reduce_max(
            operations.concat([operations.reshape(value, [1], False) for value in peaks], 0), operations.constant([0]), True
        )
        peak.output(0).set_names({PEAK})
        model.add_results([operations.result(peak)])


def _round(output: Any, bits: int) -> Any:
    """The output, rounded to a number with fewer bits of fraction by the last steps of Dekker's splitting (Dekker 1971)."""
    from openvino import opset13 as operations

    scaled = operations.multiply(output, operations.constant(np.float32(2**bits + 1)))
    return operations.subtract(scaled, operations.subtract(scaled, output)).output(0)


def _round_output(output: Any, bits: int) -> Any:
    """Gives the rounded output to whatever uses the output."""
    targets = list(output.get_target_inputs())
    rounded = _round(output, bits)
    for target in targets:
        target.replace_source_output(rounded)
    return rounded


def _classify(nodes: Sequence[Any]) -> tuple[set[str], set[str]]:
    """The names of the operations that depend on no image, and of those that depend on a product.

    Args:
        nodes: all operations of a graph, each after those whose outputs it takes.
    """
    constant: set[str] = set()
    after_product: set[str] = set()
    for node in nodes:
        kind, name = node.get_type_name(), node.get_friendly_name()
        sources = {value.get_source_output().get_node().get_friendly_name() for value in node.inputs()}
        if kind == "Constant" or (sources and sources <= constant):
            constant.add(name)
        elif kind in PRODUCTS or sources & after_product:
            after_product.add(name)
    return constant, after_product


def _stays(output: Any, constant: Container[str]) -> bool:
    """Whether a value is stored as it is: a convolution with a bias is one kernel, which stores only the sum."""
    targets = list(output.get_target_inputs())
    is_biased = (
        output.get_node().get_type_name() in PRODUCTS
        and len(targets) == 1
        and targets[0].get_node().get_type_name() == "Add"
        and any(
            value.get_source_output().get_node().get_friendly_name() in constant for value in targets[0].get_node().inputs()
        )
    )
    return output.get_element_type().get_type_name() == "f32" and not is_biased


def _after(model: "openvino.Model", name: str) -> Iterator[str]:
    """The names of all operations that use an output of the graph."""
    [source] = [
        result.input_value(0)
        for result in model.get_results()
        if name in result.output(0).get_names() | result.input_value(0).get_names()
    ]
    waiting, seen = [source], set()
    while waiting:
        for target in waiting.pop().get_target_inputs():
            node = target.get_node()
            if (found := node.get_friendly_name()) not in seen:
                seen.add(found)
                yield found
                waiting += node.outputs()
