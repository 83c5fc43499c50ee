"""Exports torch networks to ONNX; as a program, exports a backbone to a folder with its graph and weights.

`graft.training.backbones.onnx_cache.load_or_export` starts it as a child process:
`python -m graft.training.backbones.onnx_export NAME WEIGHTS BASE CROP MEDIAN_SIDE`.
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

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import GRAPH, WEIGHTS, Backbone, Preprocessing
from graft.service.networks.network import Network
from graft.training.backbones import pretrained
from graft.training.backbones.onnx_cache import METADATA, STAGES, ExportedBackbone, graph_folder, input_size_file
from graft.training.backbones.registry import BackboneError, BackboneSpec
from graft.training.config.hyperparameters import input_size
from graft.training.runtime import atomic_files


@symbolic_helper.parse_args("v", "is")
def adaptive_avg_pool2d_symbolic(graph: Any, maps: Any, output_size: list[int]) -> Any:
    """ONNX symbolic for adaptive average pooling of maps (N, C, h, w), with static h and w, to `output_size`.

    Args:
        graph: the torch graph that is being exported.
        maps: a value of that graph.
    """
    *_, height, width = maps.type().varyingSizes()
    if [height, width] == output_size:
        return maps
    if output_size == [1, 1]:
        return graph.op("GlobalAveragePool", maps)
    vertical, horizontal = pooling_matrix(height, output_size[0]), pooling_matrix(width, output_size[1]).T.contiguous()
    rows = graph.op("MatMul", graph.op("Constant", value_t=vertical), maps)
    return graph.op("MatMul", rows, graph.op("Constant", value_t=horizontal))


def pooling_matrix(n_cells: int, n_bins: int) -> Tensor:
    """The matrix float (n_bins, n_cells) of adaptive average pooling along one axis; a cell may belong to two bins."""
    bins = [(index * n_cells // n_bins, -(-(index + 1) * n_cells // n_bins)) for index in range(n_bins)]
    cells = torch.arange(n_cells)
    return torch.stack([((cells >= start) & (cells < end)) / (end - start) for start, end in bins])


PIXELS = "pixels"
MAX_STAGES = 5
OPSET = 17  # the first opset with LayerNormalization as one operator
TOLERANCE = 1e-3  # maximum difference between the outputs of ONNX and torch, relative to their magnitude


def to_onnx(network: nn.Module, crop: int, path: Path, outputs: list[str]) -> None:
    """Exports a network with input uint8 (N, crop, crop, 3) to ONNX, with a dynamic N and the named outputs.

    By tracing: torch's newer exporter gives the same result in 7 s instead of 1 s. Tracing ignores branches that depend on
    the data, so the outputs must be compared with the network's afterwards, as all callers do.
    """
    batch = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    torch.onnx.register_custom_op_symbolic("aten::adaptive_avg_pool2d", adaptive_avg_pool2d_symbolic, OPSET)  # type: ignore[attr-defined]
    dynamic_axes = {name: {0: "N"} for name in [PIXELS, *outputs]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about internals of the tracer
        torch.onnx.export(
            network.eval(),
            (batch,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[PIXELS],
            output_names=outputs,
            dynamic_axes=dynamic_axes,
        )


def export_network(network: Network, crop: int, path: Path) -> None:
    """Exports a classifier to ONNX: its logits, its vectors and, if it is globally pooled, its feature maps."""
    to_onnx(_ExportWrapper(network), crop, path, [LOGITS, VECTORS, *network.backbone_info.map_outputs])


class _ExportWrapper(nn.Module):
    """Returns a classifier's outputs by name, including its feature maps."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        facts = self.network.backbone_info
        if not facts.map_outputs:
            logits, vectors = self.network(batch)
            return {LOGITS: logits, VECTORS: vectors}
        stages, last, vectors = self.network.stage_maps(batch)
        used_stages, features = [], vectors
        if facts.head_input == "all":
            used_stages, features = stages, torch.cat([*(stage.mean(dim=(2, 3)) for stage in stages), vectors], dim=1)
        maps = dict(zip(facts.map_outputs, [*used_stages, channels_first(last, facts.width)], strict=True))
        return {LOGITS: self.network.head(features), VECTORS: vectors, **maps}


def channels_first(last: Tensor, width: int) -> Tensor:
    """The final feature map as (N, D, h, w); most networks return that, Swin returns (N, h, w, D)."""
    return last if last.shape[1] == width else last.permute(0, 3, 1, 2)


class _FeatureExportWrapper(nn.Module):
    """Returns all features that a head can use: the vectors, the pooled stages, and the feature maps of both."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.maps = network.backbone_info.model_copy(update={"head_input": "all"}).map_outputs
        self.outputs = [VECTORS, *([STAGES] if network.backbone_info.stages else []), *self.maps]

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        facts = self.network.backbone_info
        if not facts.stages:
            return {VECTORS: self.network.vectors(batch)}
        stages, last, vectors = self.network.stage_maps(batch)
        outputs = {VECTORS: vectors, STAGES: torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1)}
        maps = [*stages, channels_first(last, facts.width)] if facts.pooled else []
        return outputs | dict(zip(self.maps, maps, strict=True))


def export_backbone(spec: BackboneSpec, base: Path, crop: int | None, median_side: int) -> None:
    """Writes a backbone's graph, weights and metadata to a folder, atomically.

    Raises:
        BackboneError: if the weights are not available, or the graph's outputs differ from torch's.
    """
    network = pretrained.load(spec)
    pretrained_side = pretrained.preprocessing(network, None, "crop").crop
    side = crop or input_size(median_side, pretrained_side)
    if side != pretrained_side:
        network = pretrained.load(spec, side)
    folder, preprocessing = graph_folder(base, side), pretrained.preprocessing(network, side, "crop")
    network.reset_classifier(0)
    tensors = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    backbone = pretrained.describe(spec, network, tensors)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        backbone = _write_graph(network, backbone, preprocessing, temporary / GRAPH)
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary / WEIGHTS)
        metadata = {"backbone": backbone.model_dump(), "preprocessing": preprocessing.model_dump()}
        (temporary / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
        try:
            atomic_files.write_text(input_size_file(base), str(pretrained_side))
            os.rename(temporary, folder)
        except OSError:  # another process was faster, with the same result
            if not (folder / METADATA).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def export_trained(network: Network, preprocessing: Preprocessing, folder: Path) -> ExportedBackbone:
    """Writes the graph and the weights of a fine-tuned network's backbone to a folder, without its head.

    Raises:
        BackboneError: if the graph's outputs differ from torch's.
    """
    _write_verified(network.eval(), preprocessing.crop, folder / GRAPH)
    tensors = {key: value.contiguous() for key, value in network.state_dict().items() if key.startswith("backbone.")}
    save_file(tensors, folder / WEIGHTS)
    return ExportedBackbone(folder=folder, backbone=network.backbone_info, preprocessing=preprocessing)


def _write_graph(body: nn.Module, backbone: Backbone, preprocessing: Preprocessing, path: Path) -> Backbone:
    """Exports all outputs of `_FeatureExportWrapper` if possible, else the vectors alone; returns the matching metadata.

    Raises:
        BackboneError: if the vectors cannot be exported either.
    """
    try:
        full = backbone.model_copy(update=_probe_stages(body, preprocessing.crop))
        _write_verified(Network(body, full, 2, preprocessing), preprocessing.crop, path)
        return full
    except Exception:  # noqa: BLE001 - some of timm's networks give no access to their stages, for various reasons
        path.unlink(missing_ok=True)
    try:
        _write_verified(Network(body, backbone, 2, preprocessing), preprocessing.crop, path)
    except (RuntimeError, ValueError, NotImplementedError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).strip().partition("\n")[0]
        name = f"{backbone.name} at {preprocessing.crop} pixels"
        raise BackboneError(f"{name} cannot be exported: {reason} Try another --input-size or --backbone.") from None
    return backbone


def _write_verified(network: Network, crop: int, path: Path) -> None:
    wrapper = _FeatureExportWrapper(network).eval()
    to_onnx(wrapper, crop, path, wrapper.outputs)
    _check_outputs(wrapper, path, crop)


def _probe_stages(body: nn.Module, crop: int) -> dict[str, object]:
    """Runs a network once to find the `stages` to export, and whether it is globally `pooled`.

    At most five stages, evenly spaced, each with its width. A stage that equals the vectors when pooled, as the last one of a
    ResNet does, is left out.
    """
    network: Any = body.eval()
    with torch.inference_mode():
        last, maps = network.forward_intermediates(torch.randn(2, 3, crop, crop), output_fmt="NCHW")
        vectors = network.forward_head(last)
    stages = {}
    for number in evenly_spaced(len(maps), MAX_STAGES):
        pooled = maps[number].mean(dim=(2, 3))
        if pooled.shape != vectors.shape or not torch.allclose(pooled, vectors, rtol=1e-4, atol=1e-5):
            stages[number] = pooled.shape[1]
    return {"stages": stages, "pooled": bool(stages) and is_global_average(vectors, last)}


def is_global_average(vectors: Tensor, last: Tensor) -> bool:
    """Whether vectors (N, D) are the global average pooling of the final feature map.

    They are not if a layer follows the pooling, such as ConvNeXt's norm, or if a class token is used, as in a ViT.
    """
    if last.ndim != 4 or vectors.shape[1] not in (last.shape[1], last.shape[3]):
        return False
    maps = channels_first(last, vectors.shape[1])
    # Relative to their magnitude: with random weights all values may be so small that any two vectors are close.
    scale = float(vectors.abs().max())
    difference = float((maps.mean(dim=(2, 3)) - vectors).abs().max())
    return maps[0, 0].numel() > 1 and scale > 0 and difference <= 1e-4 * scale


def evenly_spaced(n_items: int, max_items: int) -> list[int]:
    """At most `max_items` of `n_items` indices, evenly spaced and ending with the last: for 12 and 5, [1, 4, 6, 9, 11]."""
    n_selected = min(n_items, max_items)
    return [round(n_items * step / n_selected) - 1 for step in range(1, n_selected + 1)]


def _check_outputs(wrapper: nn.Module, graph: Path, crop: int) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, crop, crop, 3), dtype=np.uint8)
    with torch.inference_mode():
        torch_outputs = wrapper(torch.from_numpy(batch))
    onnx_outputs = OpenVinoModel(graph, streams=1)(batch)
    for name, tensor in torch_outputs.items():
        expected = tensor.numpy()
        difference = np.abs(onnx_outputs[name] - expected).max()
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise BackboneError(f"The exported graph's {name} differ from torch's by {difference:.2g}.")


if __name__ == "__main__":
    name, weights, base, side, median_side = sys.argv[1:]
    torch.manual_seed(0)  # so that random weights are the same on every machine
    try:
        export_backbone(BackboneSpec(name, weights), Path(base), int(side) or None, int(median_side))
    except BackboneError as error:
        sys.exit(f"BackboneError: {error}")
