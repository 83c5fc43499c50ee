"""Fine-tuning does not undo the probe that it starts from."""

import csv
import math
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from graft.service.manifest import Backbone, Preprocessing
from graft.service.networks.network import Network
from graft.training.audit.image_scan import scan_images
from graft.training.backbones import onnx_cache, registry
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import split
from graft.training.finetuning.head_temperature import soften_head
from graft.training.runs.run_folder import RunFolder
from graft.training.sample import SAMPLE
from graft.training.strategies import finetune, probe
from graft.training.strategies.context import TrainingContext, extract_or_exclude

PREPROCESSING = Preprocessing(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class MeanColor(nn.Module):
    """A backbone whose vector is the mean color."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * images.mean(dim=(2, 3))


def network_of(size: float) -> Network:
    """A network whose logits are the mean color, multiplied by `size`."""
    info = Backbone(name="own", weights="none", license="none", sha256="", width=3)
    network = Network(MeanColor(), info, 3, PREPROCESSING)
    with torch.no_grad():
        network.head.weight.copy_(size * torch.eye(3))
        network.head.bias.fill_(size)
    return network


def batches(n_wrong: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches of pure red, green and blue; some with a wrong label."""
    targets = torch.arange(64) % 3
    images = (255 * torch.eye(3)[targets]).to(torch.uint8).view(64, 1, 1, 3).expand(64, 8, 8, 3)
    targets[:n_wrong] = (targets[:n_wrong] + 1) % 3
    return [(images[:32], targets[:32]), (images[32:], targets[32:])]


def config(**choices: object) -> FineTuneConfig:
    recipe = Recipe(strategy="finetune", batch_size=32, **choices)
    return resolve_config(recipe, DataStats(n_images=64, counts=(22, 21, 21)))


def test_a_head_that_is_sure_and_often_wrong_is_softened_below_guessing():
    network, chosen = network_of(30), config(label_smoothing=0)
    before = network.head.weight.detach().clone()
    temperature = soften_head(network, batches(n_wrong=20), chosen, "cpu")
    assert temperature > 20
    torch.testing.assert_close(network.head.weight, before / temperature)
    images, targets = (torch.cat(parts) for parts in zip(*batches(n_wrong=20), strict=True))
    assert nn.functional.cross_entropy(network(images)[0], targets) < math.log(3)
    assert network.head.weight.requires_grad


def test_label_smoothing_softens_a_head_that_is_sure_and_right():
    assert soften_head(network_of(100), batches(n_wrong=0), config(label_smoothing=0), "cpu") == 1
    assert soften_head(network_of(100), batches(n_wrong=0), config(label_smoothing=0.1), "cpu") > 10


def test_a_soft_head_is_not_sharpened():
    network = network_of(0.1)
    before = network.head.weight.detach().clone()
    assert soften_head(network, batches(n_wrong=0), config(), "cpu") == 1
    assert torch.equal(network.head.weight, before)


@pytest.fixture(scope="module")
def imbalanced(cache: Path, tmp_path_factory) -> TrainingContext:
    """Small pictures of three similar labels, 12 times as many of the first."""
    folder = tmp_path_factory.mktemp("imbalanced")
    with zipfile.ZipFile(SAMPLE) as archive:
        for label, n_images in {"pullover": 96, "coat": 8, "shirt": 8}.items():
            (folder / label).mkdir()
            for number in range(1, n_images + 1):
                (folder / label / f"{number}.png").write_bytes(archive.read(f"train/{label}/{number:03d}.png"))
    dataset = scan_images(scan(folder))[0]
    recipe = Recipe(strategy="finetune", input_size=96, device="cpu")
    exported = onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), 96, 28, "crop")
    features, splits, _ = extract_or_exclude(dataset, split(dataset, 0), exported, recipe)
    return TrainingContext(dataset, splits, exported, features, recipe, RunFolder(tmp_path_factory.mktemp("run")))


@pytest.mark.slow
def test_no_epoch_on_a_small_imbalanced_set_undoes_the_probe(imbalanced, tmp_path):
    network, chosen = finetune.build_network(imbalanced, probe.fit_probe(imbalanced), "finetune", 4)
    finetune.run_trainer(imbalanced, network, chosen, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    start, losses = float(rows[0]["val/loss"]), [float(row["val/loss"]) for row in rows[1:]]
    assert all(float(row["train/loss"]) < math.log(3) for row in rows[1:])
    assert all(loss < start + 0.02 for loss in losses)
