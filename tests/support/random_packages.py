"""Packages of other backbones than the sample's, with random weights and random heads, for the tests of what is seen."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from other_predictions import answering
from safetensors.numpy import load_file

from graft.service.inference import model
from graft.service.inference.engine import Outputs
from graft.service.inference.openvino import Graph
from graft.training.backbones import onnx_cache
from graft.training.backbones.onnx_export import export_backbone
from graft.training.backbones.registry import Choice
from graft.training.data.dataset import scan
from graft.training.data.splits import Splits
from graft.training.evaluation import calibration
from graft.training.features import linear_probe
from graft.training.packaging import writer
from graft.training.pipelines.fit import Result
from graft.training.sample import SAMPLE

Pack = Callable[[str, str], model.Model]


def packer(fitted: Result, folder: Path) -> Pack:
    """Makes them, each once, from what a run on the sample left: `pack("resnet18", "all")`."""
    dataset = scan(SAMPLE)

    @cache
    def packed(name: str, sees: str) -> model.Model:
        if not (folder / f"{name}-64").exists():
            export_backbone(Choice(name, "none"), folder / name, 64, 64)
        card = json.loads((folder / f"{name}-64" / onnx_cache.CARD).read_text())
        exported = onnx_cache.Exported(folder=folder / f"{name}-64", **card)
        facts, random = exported.backbone.model_copy(update={"sees": sees}), np.random.default_rng(0)
        width = onnx_cache.columns(facts)[sees].stop - onnx_cache.columns(facts)[sees].start
        weight, bias = random.normal(size=(10, width)) / 10, random.normal(size=10)
        head = linear_probe.Head(weight.astype(np.float32), bias.astype(np.float32), 1.0)
        graph = Graph(exported.graph, lanes=1)

        def network(batch: np.ndarray) -> Outputs:
            said = graph(batch)
            seen = [said[onnx_cache.STAGES], said["vectors"]] if sees == "all" else [said["vectors"]]
            return Outputs(head(np.concatenate(seen, axis=1)), said["vectors"])

        trained = dataclasses.replace(
            fitted.trained,
            backbone=facts,
            preprocessing=exported.preprocessing,
            network=network,
            graph=linear_probe.with_head(exported.graph, head, sees),
            weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
            neighbours=calibration.neighbours_of(dataset.samples[:40], random.normal(size=(40, facts.width))),
        )
        splits = Splits(*[dataset.samples[:8]] * 3)
        written = writer.write(answering(trained, dataset, splits), dataset, splits, name, folder / f"{name}-{sees}")
        return model.load(written.path, "cpu", precision="f32")

    return packed
