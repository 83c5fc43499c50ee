"""A torch network -> an ONNX graph; run as a program, a backbone -> the folder of its graph and weights.

`python -m graft.training.backbones.onnx_export NAME WEIGHTS BASE CROP MEDIAN_SIDE` is what `graft.training.backbones.onnx_cache.export` starts as a child process.
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
from torch.onnx import symbolic_helper

from graft.service.artifact import GRAPH, WEIGHTS, Backbone, Preprocessing
from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.openvino import Graph
from graft.service.networks.network import Network
from graft.training.backbones import pretrained
from graft.training.backbones.onnx_cache import CARD, STAGES, graph_folder, size_file
from graft.training.backbones.registry import BackboneError, Choice
from graft.training.config.hyperparameters import input_size


@symbolic_helper.parse_args("v", "is")
def written(graph: Any, maps: Any, wanted: list[int]) -> Any:
    """The operations that make maps (N, C, h, w), h and w known, maps of the wanted size.

    Args:
        graph: torch's, that is being made.
        maps: a value of it.
    """
    *_, height, width = maps.type().varyingSizes()
    if [height, width] == wanted:
        return maps
    if wanted == [1, 1]:
        return graph.op("GlobalAveragePool", maps)
    down, across = means(height, wanted[0]), means(width, wanted[1]).T.contiguous()
    rows = graph.op("MatMul", graph.op("Constant", value_t=down), maps)
    return graph.op("MatMul", rows, graph.op("Constant", value_t=across))


def means(n: int, wanted: int) -> Tensor:
    """The matrix float (wanted, n) that makes `n` cells `wanted` means of neighbours; some cells may count twice."""
    ends = [(place * n // wanted, -(-(place + 1) * n // wanted)) for place in range(wanted)]
    cells = torch.arange(n)
    return torch.stack([((cells >= start) & (cells < end)) / (end - start) for start, end in ends])


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
    torch.onnx.register_custom_op_symbolic("aten::adaptive_avg_pool2d", written, OPSET)  # type: ignore[attr-defined]
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


def export_network(network: Network, crop: int, path: Path) -> None:
    """Writes a whole network as a graph: its logits, its vectors and, where it is pooled, the maps behind them."""
    to_onnx(_Whole(network), crop, path, [LOGITS, VECTORS, *network.facts.maps])


class _Whole(nn.Module):
    """A network's outputs by name, its maps among them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        facts = self.network.facts
        if not facts.maps:
            logits, vectors = self.network(batch)
            return {LOGITS: logits, VECTORS: vectors}
        stages, last, vectors = self.network.maps(batch)
        kept, seen = [], vectors
        if facts.sees == "all":
            kept, seen = stages, torch.cat([*(stage.mean(dim=(2, 3)) for stage in stages), vectors], dim=1)
        maps = dict(zip(facts.maps, [*kept, channels_first(last, facts.width)], strict=True))
        return {LOGITS: self.network.head(seen), VECTORS: vectors, **maps}


def channels_first(last: Tensor, width: int) -> Tensor:
    """What a body ends with as (N, D, h, w); most networks' is, Swin's is (N, h, w, D)."""
    return last if last.shape[1] == width else last.permute(0, 3, 1, 2)


class _Headless(nn.Module):
    """What any head may ask for: a network's vectors, its stages' means, and the maps behind all of these."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.maps = network.facts.model_copy(update={"sees": "all"}).maps
        self.outputs = [VECTORS, *([STAGES] if network.facts.stages else []), *self.maps]

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        facts = self.network.facts
        if not facts.stages:
            return {VECTORS: self.network.vectors(batch)}
        stages, last, vectors = self.network.maps(batch)
        said = {VECTORS: vectors, STAGES: torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1)}
        maps = [*stages, channels_first(last, facts.width)] if facts.pooled else []
        return said | dict(zip(self.maps, maps, strict=True))


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
    """The graph with all that `_Headless` says if it can be had, else with the vectors alone; the facts tell which.

    Raises:
        BackboneError: if the vectors cannot be had either.
    """
    try:
        full = card.model_copy(update=_shown(body, preprocessing.crop))
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
    to_onnx(headless, crop, path, headless.outputs)
    _check_agreement(headless, path, crop)


def _shown(body: nn.Module, crop: int) -> dict[str, object]:
    """What torch shows of a network's insides: the `stages` worth keeping, and whether it is `pooled`.

    At most five stages, evenly spread, each with its width. One that is the vector itself, as the last of a ResNet, says
    nothing new.
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
    return {"stages": kept, "pooled": bool(kept) and is_mean(vectors, last)}


def is_mean(vectors: Tensor, last: Tensor) -> bool:
    """Whether vectors (N, D) are the means over several positions of what a body ends with.

    They are not where something follows the mean, as ConvNeXt's norm, or where a token of its own answers, as a ViT's.
    """
    if last.ndim != 4 or vectors.shape[1] not in (last.shape[1], last.shape[3]):
        return False
    maps = channels_first(last, vectors.shape[1])
    # Relative to their own size: random weights may leave so little that any two vectors look alike.
    scale = float(vectors.abs().max())
    apart = float((maps.mean(dim=(2, 3)) - vectors).abs().max())
    return maps[0, 0].numel() > 1 and scale > 0 and apart <= 1e-4 * scale


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
    torch.manual_seed(0)  # so that random weights are the same ones on every machine
    try:
        export_backbone(Choice(name, weights), Path(base), int(side) or None, int(median_side))
    except BackboneError as error:
        sys.exit(f"BackboneError: {error}")
