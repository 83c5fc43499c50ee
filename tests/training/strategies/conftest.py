"""Sixty small images of three labels with their features, a probe on them, and a network that is not the pretrained one."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graft.service.networks.network import Network
from graft.training.audit.image_scan import scan_images
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import split
from graft.training.features.lightning_extractor import load_with_random_head
from graft.training.finetuning.lightning_module import set_head
from graft.training.runs.run_folder import RunFolder
from graft.training.sample import SAMPLE
from graft.training.strategies import probe
from graft.training.strategies.context import TrainingContext, extract_or_exclude
from graft.training.strategies.probe import ProbeResult

LABELS = ("bag", "coat", "sandal")


@pytest.fixture(scope="module")
def clothes(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingContext:
    folder = tmp_path_factory.mktemp("clothes")
    with zipfile.ZipFile(SAMPLE) as archive:
        for label in LABELS:
            (folder / label).mkdir()
            for number in range(1, 21):
                (folder / label / f"{number}.png").write_bytes(archive.read(f"train/{label}/{number:03d}.png"))
    dataset = scan_images(scan(folder))[0]
    exported = onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), None, 28, "crop")
    features, splits, _ = extract_or_exclude(dataset, split(dataset, 0), exported, Recipe())
    return TrainingContext(dataset, splits, exported, features, Recipe(), RunFolder(folder.with_name("run")))


@pytest.fixture
def context(clothes: TrainingContext, tmp_path: Path) -> TrainingContext:
    return replace(clothes, folder=RunFolder(tmp_path))


@pytest.fixture(scope="module")
def probed(clothes: TrainingContext) -> ProbeResult:
    return probe.fit_probe(clothes)


@pytest.fixture(scope="module")
def network(clothes: TrainingContext, probed: ProbeResult) -> Network:
    """A network that is not the pretrained one any more, as after training."""
    network = load_with_random_head(clothes.exported, len(LABELS))
    set_head(network, probed.train_head)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.backbone.parameters():
            parameter.mul_(1 + 0.02 * torch.randn_like(parameter))
    return network.eval()
