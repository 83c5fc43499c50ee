"""Moves a trained model to the label frequencies that its metric assumes, by a shift of the head's bias.

The shift is part of the model wherever it is stored, so that nothing has to be added where it is served: the weights, the ONNX
graph, the network in memory and all predictions. See `graft.training.evaluation.label_frequencies`.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import LOGITS, Outputs, Pixels
from graft.service.inference.head import Head
from graft.training.evaluation.predictions import Predictions

Network = Callable[[Pixels], Outputs]
Weights = dict[str, NDArray[np.generic]]
Shift = NDArray[np.float32]  # (C,), added to the logits

BIAS = "head.bias"  # in the weights file


def shift_head(head: Head, shift: NDArray[np.floating]) -> Head:
    """The head with a shift (C,) of its logits."""
    return replace(head, bias=head.bias + shift.astype(head.bias.dtype))


def shift_predictions(predictions: Predictions, shift: Shift) -> Predictions:
    return replace(predictions, logits=predictions.logits + shift)


def shift_network(network: Network, shift: Shift) -> Network:
    def shifted(batch: Pixels) -> Outputs:
        outputs = network(batch)
        return Outputs(outputs.logits + shift, outputs.vectors)

    return shifted


def shift_weights(weights: Weights, shift: Shift) -> Weights:
    return weights | {BIAS: weights[BIAS].astype(np.float32) + shift}


def shift_graph(graph: bytes, shift: Shift) -> bytes:
    """The ONNX file with a shift of the head's bias, which has other names in other exports.

    Raises:
        ValueError: if the logits are not those of a linear layer with a bias.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    name = LOGITS
    while name not in tensors:  # a kernel machine adds its logits to those of the linear layer
        node = producers.get(name)
        if node is None or node.op_type != "Gemm" or len(node.input) != 3:
            raise ValueError(f"The ONNX graph has no bias of its logits: {name} is not the output of a Gemm with three inputs.")
        name = node.input[2]
    bias = numpy_helper.to_array(tensors[name])
    tensors[name].CopyFrom(numpy_helper.from_array(bias + shift, name))
    content: bytes = model.SerializeToString()
    return content
