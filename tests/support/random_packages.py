"""Packages of other backbones with random weights and random heads, for tests of explanations and feature maps."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from other_predictions import with_predictions
from safetensors.numpy import load_file

from graft.service.inference import model
from graft.service.inference.engine import Outputs
from graft.service.inference.head import Head, Kernel
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import KernelShape
from graft.training.backbones import onnx_cache
from graft.training.backbones.onnx_export import export_backbone
from graft.training.backbones.registry import BackboneSpec
from graft.training.data.dataset import scan
from graft.training.data.seen_images import NO_IMAGES
from graft.training.data.splits import Splits
from graft.training.evaluation import outliers
from graft.training.features import onnx_head
from graft.training.packaging import writer
from graft.training.pipelines.fit import FitResult
from graft.training.sample import SAMPLE

CreatePackage = Callable[..., model.Model]  # name, head input, number of centers


def package_factory(fitted: FitResult, folder: Path) -> CreatePackage:
    """Return a cached function that creates packages, based on a run on the sample: `pack("resnet18", "all")`."""
    dataset = scan(SAMPLE)

    @cache
    def create_package(name: str, head_input: str, n_centers: int = 0) -> model.Model:
        if not (folder / f"{name}-64").exists():
            export_backbone(BackboneSpec(name, "none"), folder / name, 64, 64)
        metadata = json.loads((folder / f"{name}-64" / onnx_cache.METADATA).read_text())
        exported = onnx_cache.ExportedBackbone(folder=folder / f"{name}-64", **metadata)
        backbone, rng = exported.backbone.model_copy(update={"head_input": head_input}), np.random.default_rng(0)
        width = onnx_cache.feature_slices(backbone)[head_input].stop - onnx_cache.feature_slices(backbone)[head_input].start
        weight, bias = rng.normal(size=(10, width)) / 10, rng.normal(size=10)
        head = Head(weight.astype(np.float32), bias.astype(np.float32), random_kernel(rng, width, n_centers))
        if n_centers:
            backbone = backbone.model_copy(update={"kernel": KernelShape(axes=4, centers=n_centers)})
        graph = OpenVinoModel(exported.graph, streams=1)

        def network(batch: np.ndarray) -> Outputs:
            outputs = graph(batch)
            features = [outputs[onnx_cache.STAGES], outputs["vectors"]] if head_input == "all" else [outputs["vectors"]]
            return Outputs(head(np.concatenate(features, axis=1)), outputs["vectors"])

        trained = dataclasses.replace(
            fitted.trained,
            backbone=backbone,
            preprocessing=exported.preprocessing,
            network=network,
            graph=onnx_head.append_head(exported.graph, head, head_input),
            weights=load_file(exported.weights) | head.to_tensors(),
            neighbors=outliers.build_neighbors(dataset.samples[:40], rng.normal(size=(40, backbone.width))),
        )
        splits = Splits(*[dataset.samples[:8]] * 3)
        package = folder / f"{name}-{head_input}-{n_centers}"
        artifact = writer.write(with_predictions(trained, dataset, splits), dataset, splits, NO_IMAGES, name, package)
        return model.load(artifact.path, "cpu", precision="f32")

    return create_package


def random_kernel(random: np.random.Generator, width: int, n_centers: int) -> Kernel | None:
    """A kernel machine of four axes for features of about 1; None without centers."""
    if not n_centers:
        return None
    arrays = (
        random.uniform(0.1, 1, width),
        random.normal(size=(4, width)) / width**0.5,
        random.normal(size=4),
        random.normal(size=(n_centers, 4)),
        3 * random.normal(size=(10, n_centers)),
    )
    return Kernel(*(array.astype(np.float32) for array in arrays))
