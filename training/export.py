"""A torch network -> an ONNX graph; run as a program, a backbone -> the folder of its graph and weights.

`python -m training.export NAME WEIGHTS BASE CROP MEDIAN_SIDE` is what `training.graphs.export` starts as a child process.
"""

import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.artifact import GRAPH, WEIGHTS
from service.engine import VECTORS, Graph
from service.network import Network
from training import pretrained
from training.backbones import BackboneError, Choice
from training.graphs import CARD, graph_folder, size_file
from training.recipe import input_size

PIXELS = "pixels"
OPSET = 17  # the first with LayerNormalization as one operation
AGREEMENT = 1e-3  # how far a graph's vectors may be from torch's, relative to their own size


def to_onnx(network: nn.Module, crop: int, path: Path, outputs: list[str]) -> None:
    """Writes a network that takes uint8 (N, crop, crop, 3) as a graph with a free N and the named outputs.

    By tracing: torch's newer exporter says the same in 7 s instead of 1. Tracing would miss a branch that depends on
    the data, so whatever is exported must be compared with the network afterwards, as all callers do.
    """
    batch = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    free = {name: {0: "N"} for name in [PIXELS, *outputs]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the tracer's own insides
        torch.onnx.export(
            network.eval(),
            (batch,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[PIXELS],
            output_names=outputs,
            dynamic_axes=free,
        )


class _Headless(nn.Module):
    """A network's vectors only."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> Tensor:
        return self.network.vectors(batch)


def export_backbone(choice: Choice, base: Path, crop: int | None, median_side: int) -> None:
    """Leaves a backbone's graph, weights and facts in a folder, whole or not at all.

    Raises:
        BackboneError: if the weights cannot be had, or the graph does not say what torch says.
    """
    network = pretrained.load(choice)
    own = pretrained.preprocessing(network, None, "crop").crop
    side = crop or input_size(median_side, own)
    if side != own:
        network = pretrained.load(choice, side)
    folder, preprocessing = graph_folder(base, side), pretrained.preprocessing(network, side, "crop")
    network.reset_classifier(0)
    tensors = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    card = pretrained.describe(choice, network, tensors)
    headless = _Headless(Network(network, card.width, 2, preprocessing)).eval()
    beside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        to_onnx(headless, preprocessing.crop, beside / GRAPH, [VECTORS])
        _check_agreement(headless, beside / GRAPH, preprocessing.crop)
        save_file({key: value.contiguous() for key, value in tensors.items()}, beside / WEIGHTS)
        facts = {"backbone": card.model_dump(), "preprocessing": preprocessing.model_dump()}
        (beside / CARD).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        try:
            _remember(size_file(base), str(own))
            os.rename(beside, folder)
        except OSError:  # another process was faster, with the same result
            if not (folder / CARD).is_file():
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _remember(path: Path, text: str) -> None:
    """Writes a small file, whole or not at all."""
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _check_agreement(headless: nn.Module, graph: Path, crop: int) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, crop, crop, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = headless(torch.from_numpy(batch)).numpy()
    difference = np.abs(Graph(graph, lanes=1)(batch)[VECTORS] - expected).max()
    if not difference <= AGREEMENT * max(1.0, float(np.abs(expected).max())):
        raise BackboneError(f"The exported graph's vectors differ from torch's by {difference:.2g}.")


if __name__ == "__main__":
    name, weights, base, side, median_side = sys.argv[1:]
    try:
        export_backbone(Choice(name, weights), Path(base), int(side) or None, int(median_side))
    except BackboneError as error:
        sys.exit(f"BackboneError: {error}")
