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
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.artifact import GRAPH, WEIGHTS, Backbone, Preprocessing
from service.engine import VECTORS, Graph
from service.network import Network
from training import pretrained
from training.backbones import BackboneError, Choice
from training.graphs import CARD, STAGES, graph_folder, size_file
from training.recipe import input_size

PIXELS = "pixels"
MOST_STAGES = 5
OPSET = 17  # the first with LayerNormalization as one operation
AGREEMENT = 1e-3  # how far a graph's outputs may be from torch's, relative to their own size


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
    """A network's vectors and, where it has stages, what they say."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        stages, vectors = self.network.features(batch)
        return {VECTORS: vectors, STAGES: stages} if self.network.facts.stages else {VECTORS: vectors}


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
    beside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        card = _write_graph(network, card, preprocessing, beside / GRAPH)
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


def _write_graph(body: nn.Module, card: Backbone, preprocessing: Preprocessing, path: Path) -> Backbone:
    """The graph with what every stage says if it can be had, else with the vectors alone; the facts tell which.

    Raises:
        BackboneError: if the vectors cannot be had either.
    """
    try:
        full = card.model_copy(update={"stages": _stages(body, preprocessing.crop)})
        _write_checked(Network(body, full, 2, preprocessing), preprocessing.crop, path)
        return full
    except Exception:  # noqa: BLE001 - of a thousand networks some show no stages, each for a reason of its own
        path.unlink(missing_ok=True)
    try:
        _write_checked(Network(body, card, 2, preprocessing), preprocessing.crop, path)
    except (RuntimeError, ValueError, NotImplementedError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).strip().partition("\n")[0]
        where = f"{card.name} at {preprocessing.crop} pixels"
        raise BackboneError(f"{where} cannot be made a graph: {reason} Another --input-size or --backbone may do.") from None
    return card


def _write_checked(network: Network, crop: int, path: Path) -> None:
    headless = _Headless(network).eval()
    to_onnx(headless, crop, path, [VECTORS, STAGES] if network.facts.stages else [VECTORS])
    _check_agreement(headless, path, crop)


def _stages(body: nn.Module, crop: int) -> dict[int, int]:
    """The stages worth keeping, each with its width: at most five, evenly spread.

    One that is the vector itself, as the last of a ResNet, says nothing new.
    """
    looking: Any = body.eval()
    with torch.inference_mode():
        last, maps = looking.forward_intermediates(torch.randn(2, 3, crop, crop), output_fmt="NCHW")
        vectors = looking.forward_head(last)
    kept = {}
    for number in spread(len(maps), MOST_STAGES):
        pooled = maps[number].mean(dim=(2, 3))
        if pooled.shape != vectors.shape or not torch.allclose(pooled, vectors, rtol=1e-4, atol=1e-5):
            kept[number] = pooled.shape[1]
    return kept


def spread(n_items: int, most: int) -> list[int]:
    """At most `most` of `n_items` positions, evenly spread and ending with the last: of 12 and 5, [1, 4, 6, 9, 11]."""
    n_kept = min(n_items, most)
    return [round(n_items * step / n_kept) - 1 for step in range(1, n_kept + 1)]


def _check_agreement(headless: nn.Module, graph: Path, crop: int) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, crop, crop, 3), dtype=np.uint8)
    with torch.inference_mode():
        said = headless(torch.from_numpy(batch))
    found = Graph(graph, lanes=1)(batch)
    for name, tensor in said.items():
        expected = tensor.numpy()
        difference = np.abs(found[name] - expected).max()
        if not difference <= AGREEMENT * max(1.0, float(np.abs(expected).max())):
            raise BackboneError(f"The exported graph's {name} differ from torch's by {difference:.2g}.")


if __name__ == "__main__":
    name, weights, base, side, median_side = sys.argv[1:]
    try:
        export_backbone(Choice(name, weights), Path(base), int(side) or None, int(median_side))
    except BackboneError as error:
        sys.exit(f"BackboneError: {error}")
