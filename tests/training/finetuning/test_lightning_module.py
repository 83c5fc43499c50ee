"""Fine-tuning starts from the probe and never ends below it."""

import copy
import csv
import dataclasses
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.openvino import OpenVinoEngine, OpenVinoModel
from graft.service.manifest import MAPS_OUTPUT
from graft.service.networks.network import Network
from graft.training.audit.image_scan import scan_images
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.backbones.onnx_export import export_backbone, export_network
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, scan
from graft.training.data.splits import Splits, split
from graft.training.features.extraction import Features
from graft.training.features.lightning_extractor import load_with_random_head
from graft.training.finetuning import batch_size_finder, checkpoints, param_groups, speed
from graft.training.finetuning.datamodule import DataModule
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.lightning_module import Diverged, FineTune, set_head
from graft.training.finetuning.trainer import train
from graft.training.inference import torch_engine
from graft.training.inference.torch_engine import TorchEngine
from graft.training.runs.run_folder import RunFolder
from graft.training.runtime import gpu
from graft.training.runtime.gpu import Card
from graft.training.sample import SAMPLE
from graft.training.strategies import finetune, kernel
from graft.training.strategies import probe as probe_module
from graft.training.strategies.context import TrainingContext, extract_or_exclude
from graft.training.strategies.probe import ProbeResult
from graft.training.strategies.trained_model import TrainedModel

pytestmark = pytest.mark.slow

RECIPE = Recipe(
    strategy="finetune", input_size=64, batch_size=8, device="cpu", label_smoothing=0, head_lr=1e-3, backbone_lr=2e-4
)


def planned(epochs: int = 5, **choices: object) -> FineTuneConfig:
    """Configuration for three labels with 21 training images each."""
    recipe = RECIPE.model_copy(update={"epochs": epochs, **choices})
    return resolve_config(recipe, DataStats(n_images=63, counts=(21, 21, 21)))


@dataclasses.dataclass(frozen=True)
class Start:
    """Inputs of fine-tuning, for three kinds of clothes."""

    dataset: Dataset
    splits: Splits
    exported: ExportedBackbone
    probed: ProbeResult
    features: Features

    def network(self) -> Network:
        """New network with the probe head."""
        network = load_with_random_head(self.exported, 3)
        set_head(network, self.probed.train_head)
        return network.eval()

    def batches(self, plan: FineTuneConfig) -> DataModule:
        return DataModule(self.dataset, self.splits, self.exported.preprocessing, plan, device="cpu")

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, labels = zip(*self.batches(planned()).val_dataloader(), strict=True)
        return torch.cat(pixels), torch.cat(labels)


@dataclasses.dataclass(frozen=True)
class Learned:
    """Network before and after training, and the run folder."""

    before: dict[str, torch.Tensor]
    network: Network
    run: Path

    def metrics(self, name: str) -> list[float]:
        with (self.run / "metrics.csv").open(newline="") as file:
            return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


@pytest.fixture(scope="module")
def start(cache: Path, tmp_path_factory) -> Start:
    folder = tmp_path_factory.mktemp("clothes")
    with zipfile.ZipFile(SAMPLE) as archive:
        for label in ("pullover", "coat", "shirt"):  # similar labels, so that there is room for improvement
            (folder / label).mkdir()
            for number in range(1, 31):
                (folder / label / f"{number}.png").write_bytes(archive.read(f"train/{label}/{number:03d}.png"))
    dataset = scan_images(scan(folder))[0]
    choice = registry.resolve("tf_efficientnet_lite0")
    (cache / "backbones").mkdir(exist_ok=True)
    export_backbone(choice, cache / "backbones" / onnx_cache._cache_key(choice), 64, 28)  # here, to save a child's imports
    exported = onnx_cache.load_or_export(choice, 64, 28, "crop")
    features, splits, _ = extract_or_exclude(dataset, split(dataset, 0), exported, RECIPE)
    context = TrainingContext(dataset, splits, exported, features, RECIPE, RunFolder(folder))
    return Start(dataset, splits, exported, probe_module.fit_probe(context), features)


def trained(network: Network, start: Start, run: Path, **choices: object) -> Learned:
    chosen = planned(**choices)
    before = copy.deepcopy(network.state_dict())
    train(network, start.batches(chosen), chosen, EpochPlan(5), run, device="cpu")
    return Learned(before, network, run)


def misled(start: Start, run: Path) -> Learned:
    """A run whose best epoch is neither the first nor the last.

    It starts certain of one label, so that any learning helps at first; but validation's labels are swapped, so that
    learning too well hurts in the end.
    """
    swapped = tuple(dataclasses.replace(sample, labels=((sample.label + 1) % 3,)) for sample in start.splits.validation)
    start = dataclasses.replace(start, splits=dataclasses.replace(start.splits, validation=swapped))
    network = start.network()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([8.0, 0.0, 0.0]))
    return trained(network, start, run, head_lr=1e-2, backbone_lr=1e-4)


@pytest.fixture(scope="module")
def learned(start: Start, tmp_path_factory) -> Learned:
    return misled(start, tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def diverged_run(start: Start, tmp_path_factory) -> Learned:
    """A run with learning rates so high that every epoch is worse than the probe."""
    return trained(start.network(), start, tmp_path_factory.mktemp("diverged_run"), backbone_lr=0.5, head_lr=5.0, patience=2)


def test_missing_metrics_of_a_killed_run_are_written_on_resume(start: Start, tmp_path: Path, monkeypatch):
    save = checkpoints.save

    def killed_at_the_end(state: checkpoints.State, path: Path) -> None:
        if path.name == checkpoints.BEST:
            raise SystemExit(137)
        save(state, path)

    chosen = planned(epochs=1)
    monkeypatch.setattr(checkpoints, "save", killed_at_the_end)
    with pytest.raises(SystemExit):
        train(start.network(), start.batches(chosen), chosen, EpochPlan(1), tmp_path, device="cpu")
    monkeypatch.undo()
    (tmp_path / "metrics.csv").unlink()
    train(start.network(), start.batches(chosen), chosen, EpochPlan(1), tmp_path, device="cpu")
    assert [row.partition(",")[0] for row in (tmp_path / "metrics.csv").read_text().splitlines()] == ["epoch", "0", "1"]


def changed(learned: Learned) -> set[str]:
    after = learned.network.state_dict()
    return {key for key, tensor in learned.before.items() if not torch.equal(tensor, after[key])}


def test_network_with_the_probe_head_predicts_like_the_probe(start: Start):
    with torch.inference_mode():
        logits, _ = start.network()(start.validation()[0])
    np.testing.assert_allclose(logits.numpy(), start.probed.validation_logits, atol=2e-2)


def test_epoch_0_has_the_metrics_of_the_probe(start: Start, diverged_run: Learned):
    right = start.probed.validation_logits.argmax(axis=1) == start.validation()[1].numpy()
    assert diverged_run.metrics("val/accuracy")[0] == pytest.approx(right.mean(), abs=1e-6)


def test_every_epoch_logs_losses_and_accuracy(learned: Learned):
    assert len(learned.metrics("train/loss")) == 5
    assert len(learned.metrics("val/loss")) == len(learned.metrics("val/accuracy")) == 6  # including epoch 0


def test_training_changes_backbone_and_head(learned: Learned):
    assert {"backbone.conv_stem.weight", "backbone.bn1.weight", "head.weight", "head.bias"} <= changed(learned)


def test_network_has_the_weights_of_the_best_epoch(start: Start, learned: Learned):
    before, *_, last = losses = learned.metrics("val/loss")
    pixels, labels = start.validation()
    with torch.inference_mode():
        loss = F.cross_entropy(learned.network(pixels)[0], (labels + 1) % 3).item()
    assert loss == pytest.approx(min(losses), abs=1e-3)
    assert loss < min(before, last) - 0.05


def test_excessive_learning_rates_make_every_epoch_worse_than_the_probe(diverged_run: Learned):
    probe, *epochs = diverged_run.metrics("val/loss")
    assert min(epochs) > probe


def test_network_without_improvement_equals_the_probe(diverged_run: Learned):
    assert changed(diverged_run) == set()


def test_pretrained_batchnorm_statistics_are_kept(learned: Learned):
    statistics = {key for key in learned.before if "running_" in key or "num_batches" in key}
    assert len(statistics) == 147
    assert statistics & changed(learned) == set()


def test_network_is_in_eval_mode_after_training(learned: Learned):
    assert not any(module.training for module in learned.network.modules())


def test_only_metrics_and_the_best_checkpoint_remain(learned: Learned):
    files = {path.relative_to(learned.run).as_posix() for path in learned.run.rglob("*") if path.is_file()}
    assert files == {"metrics.csv", "checkpoints/best.ckpt", "checkpoints/best.ckpt.sha256"}


def test_same_seed_gives_the_same_weights(start: Start, learned: Learned, tmp_path: Path):
    again = misled(start, tmp_path)
    assert again.metrics("val/loss") == pytest.approx(learned.metrics("val/loss"), abs=1e-4)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_non_finite_loss_stops_at_that_step(start: Start, tmp_path: Path, number: float):
    network = start.network()
    with torch.no_grad():
        network.head.weight[0, 0] = number
    named = r"The batch: (\w+/\d+\.png, ){5}…\.$"
    with pytest.raises(Diverged, match=rf"The loss became nan at step 0, learning rates \[.+\]; try lower ones\. {named}"):
        train(network, start.batches(planned()), planned(), EpochPlan(1), tmp_path, device="cpu")


def groups(start: Start) -> list[dict]:
    return param_groups.param_groups(start.network(), planned(layer_decay=1.0))


def test_every_parameter_is_in_exactly_one_group(start: Start):
    listed = [parameter for group in groups(start) for parameter in group["params"]]
    assert len(listed) == len({id(parameter) for parameter in listed}) == 149


def test_backbone_has_a_lower_learning_rate_than_the_head(start: Start):
    rates = {parameter.shape: group["lr"] for group in groups(start) for parameter in group["params"]}
    assert rates[torch.Size([3, 1280])] == 1e-3
    assert rates[torch.Size([32, 3, 3, 3])] == 2e-4


def test_only_matrices_and_filters_have_weight_decay(start: Start):
    decays = {(parameter.ndim > 1, group["weight_decay"]) for group in groups(start) for parameter in group["params"]}
    assert decays == {(True, 0.02), (False, 0.0)}


def test_module_checkpoint_contains_only_the_network(start: Start):
    assert {key.partition(".")[0] for key in FineTune(start.network(), planned()).state_dict()} == {"network"}


def test_exported_graph_predicts_like_the_trained_network(start: Start, learned: Learned, tmp_path: Path):
    export_network(learned.network, 64, tmp_path / "model.onnx")
    pixels, _ = start.validation()
    with torch.inference_mode():
        logits, vectors = learned.network(pixels)
    found = OpenVinoModel(tmp_path / "model.onnx", streams=1)(pixels.numpy())
    np.testing.assert_allclose(found[LOGITS], logits.numpy(), atol=1e-3)
    np.testing.assert_allclose(found[VECTORS], vectors.numpy(), atol=1e-3)
    np.testing.assert_allclose(found[MAPS_OUTPUT].mean(axis=(2, 3)), vectors.numpy(), atol=1e-3)


def assert_positions_add_up(result: TrainedModel, folder: Path, pixels: np.ndarray) -> None:
    """The logits are what the packaged head makes of the packaged graph's map, position by position."""
    (folder / "packaged.onnx").write_bytes(result.graph)
    found = OpenVinoModel(folder / "packaged.onnx", streams=1)(pixels[:4])
    by_position = np.einsum("cd,ndhw->nchw", result.weights["head.weight"], found[MAPS_OUTPUT])
    assert by_position.shape[2:] == (2, 2)
    np.testing.assert_allclose(by_position.mean(axis=(2, 3)) + result.weights["head.bias"], found[LOGITS], atol=1e-4)


def test_network_is_scored_by_the_device_that_trained_it_and_checked_by_the_engine_that_serves_it(
    start: Start, tmp_path: Path, monkeypatch
):
    devices, checked = [], []

    @contextmanager
    def on_device(network: Network, device: str, cpu_engine: OpenVinoEngine) -> Iterator[TorchEngine]:
        devices.append(device)
        yield TorchEngine(network, "cpu")

    monkeypatch.setattr(torch_engine, "scoring_engine", on_device)
    monkeypatch.setattr(kernel, "add_to_network", lambda *_: None)
    check_scores = torch_engine.check_scores
    monkeypatch.setattr(torch_engine, "check_scores", lambda *call: checked.append(call) or check_scores(*call))
    recipe = RECIPE.model_copy(update={"epochs": 1})
    context = TrainingContext(start.dataset, start.splits, start.exported, start.features, recipe, RunFolder(tmp_path))
    result = finetune.finetune(context, start.probed, "finetune", EpochPlan(recipe.epochs))
    [(cpu_engine, predictions, samples, *_)] = checked
    assert (devices, samples) == (["cpu"], start.splits.validation)
    assert isinstance(cpu_engine, OpenVinoEngine)
    assert predictions is result.validation
    np.testing.assert_allclose(result.validation.logits, result.network(start.validation()[0].numpy()).logits, atol=1e-4)


def test_training_precision_is_decided_once(start: Start, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(TrainingContext, "device", "cuda")
    context = TrainingContext(start.dataset, start.splits, start.exported, start.features, RECIPE, RunFolder(tmp_path))
    cards = {"T4": Card("T4", "", (7, 5), 16 * 2**30), "L4": Card("L4", "", (8, 9), 24 * 2**30)}
    found = []
    for card in ("T4", "L4"):
        monkeypatch.setattr(gpu, "current_card", lambda card=card: cards[card])
        found.append(finetune.default_config(context, "finetune").training_precision)
    assert found == ["16-mixed", "16-mixed"]


def test_speed_is_measured_with_the_configuration_of_the_strategy(start: Start, tmp_path: Path, monkeypatch):
    measured = []
    monkeypatch.setattr(speed, "images_per_second", lambda *call: measured.append(call) or 7.0)
    monkeypatch.setattr(
        batch_size_finder, "fit_batch_size", lambda network, config, *_: batch_size_finder.halve_batch_size(config)
    )
    context = TrainingContext(start.dataset, start.splits, start.exported, start.features, RECIPE, RunFolder(tmp_path))
    assert finetune.images_per_second(context, "finetune-last") == 7.0
    [(_, config, side, device)] = measured
    assert (config.unfreeze, config.batch_size, side, device) == ("last", 4, 64, "cpu")


def test_fine_tuned_network_is_compared_with_its_probe(start: Start, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(kernel, "add_to_network", lambda *_: None)
    recipe = RECIPE.model_copy(update={"epochs": 1})
    context = TrainingContext(start.dataset, start.splits, start.exported, start.features, recipe, RunFolder(tmp_path))
    result = finetune.finetune(context, start.probed, "finetune", EpochPlan(recipe.epochs))
    difference, low, high = result.gain_over_probe
    assert result.strategy == "finetune"
    assert_positions_add_up(result, tmp_path, start.validation()[0].numpy())
    assert low <= difference <= high
    assert "finetune: tf_efficientnet_lite0 at 64 pixels for up to 1 epochs\n" in capsys.readouterr().err
