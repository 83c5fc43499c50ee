"""Training throughput compared with a plain torch loop over preloaded tensors: same network, batches and optimizer.

    .venv/bin/python benchmarks/epoch.py [DATA] [--backbone NAME] [--input-size 128] [--batches 12] [--epochs 7] [--json]

Measures the real training, `graft.training.finetuning.trainer.train`: pixel cache, augmentation in DataLoader workers, the
Lightning module, its Trainer with all callbacks, EMA included. An epoch here is all training batches, without validation,
which the plain loop does not have. The time between two epochs, mostly checkpointing, is reported separately. The plain loop
keeps its batches in memory and only runs forward, backward, gradient clipping and the optimizer step. Epochs of both
alternate; medians are reported. On a shared machine only the ratio means something. The first epoch is not counted.
"""

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from pytorch_lightning import Trainer

from graft.service.networks.network import Network
from graft.training.audit.image_scan import scan_images
from graft.training.backbones import onnx_cache, registry
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.hyperparameters import TrainingPrecision
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import Splits, split
from graft.training.features.lightning_extractor import load_with_random_head
from graft.training.finetuning import trainer as learning
from graft.training.finetuning.datamodule import Batch, DataModule
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.finetuning.lightning_module import FineTune, make_optimizer
from graft.training.finetuning.param_groups import freeze_layers, set_eval_modules
from graft.training.sample import SAMPLE


class PlainLoop:
    """A minimal training loop."""

    def __init__(self, network: Network, config: FineTuneConfig, batches: list[Batch], device: str) -> None:
        self._network, self._batches, self._clip = copy.deepcopy(network).to(device).train(), batches, config.clip_grad
        freeze_layers(self._network, config)
        set_eval_modules(self._network, config.freeze_bn)
        self._optimizer = make_optimizer(self._network, config)
        self._device, self._smoothing_matrix = device, config.label_smoothing

    def epoch(self) -> float:
        """Train for one epoch; return the seconds."""
        started = synchronized_time(self._device)
        for images, labels in self._batches:
            with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
                logits, _vectors = self._network(images)
                loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=self._smoothing_matrix)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._clip)
            self._optimizer.step()
        return synchronized_time(self._device) - started


class EpochTimer(learning.ProgressCallback):
    """Times each epoch of the Trainer, then one epoch of the plain loop, and the time between epochs."""

    def __init__(self, plain_loop: PlainLoop, batch_size: int, device: str) -> None:
        super().__init__(batch_size)
        self._plain_loop, self._device = plain_loop, device
        self._started_at = 0.0
        self.graft_s: list[float] = []
        self.plain_s: list[float] = []
        self.between_s: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: FineTune) -> None:
        if self.plain_s:
            self.between_s.append(synchronized_time(self._device) - self._started_at)
        self._started_at = synchronized_time(self._device)
        super().on_train_epoch_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: FineTune) -> None:
        if len(self.graft_s) == len(self.plain_s) and self._started_at:  # not the validation before training
            self.graft_s.append(synchronized_time(self._device) - self._started_at)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: FineTune) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.plain_s.append(self._plain_loop.epoch())
        self._started_at = synchronized_time(self._device)


def synchronized_time(device: str) -> float:
    """Synchronize the device and return the current time."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def measure(arguments: argparse.Namespace, run: Path) -> None:
    """Train both in alternation; print a Markdown table or the seconds of each epoch as JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = scan_images(scan(arguments.data))[0]
    splits = split(dataset, 0)
    backbone = onnx_cache.load_or_export(registry.resolve(arguments.backbone), arguments.input_size, 0, "crop")
    recipe = Recipe(
        strategy="finetune", epochs=arguments.epochs, batch_size=arguments.batch_size, patience=arguments.epochs, ema=True
    )
    precision: TrainingPrecision = "bf16-mixed" if device == "cuda" else "32-true"  # that of the plain loop
    counts = dataset.counts(splits.train)
    stats = DataStats(len(splits.train), counts, dataset.multilabel, device=device, training_precision=precision)
    config = resolve_config(recipe, stats)
    # Fewer images and complete epochs: with limited batches, the workers would keep loading while the plain loop is timed.
    n_images = min(arguments.batches, config.steps_per_epoch) * config.batch_size
    splits = Splits(splits.train[:n_images], splits.validation[: config.batch_size], splits.test)

    datamodule = DataModule(dataset, splits, backbone.preprocessing, config, device)
    batches = [tuple(tensor.to(device) for tensor in batch) for batch in datamodule.train_dataloader()]
    network = load_with_random_head(backbone, len(dataset.labels)).to(memory_format=torch.channels_last)
    timer = EpochTimer(PlainLoop(network, config, batches, device), config.batch_size, device)
    learning.ProgressCallback = lambda *_: timer  # takes its place among the callbacks of the Trainer
    learning.train(network, datamodule, config, EpochPlan(config.epochs), run, device)
    setup = (
        f"{arguments.backbone} at {backbone.preprocessing.crop} pixels, {len(batches)} batches of {config.batch_size}, {device}"
    )
    record = {
        "what": setup,
        "n_images": n_images,
        "graft": timer.graft_s[1:],
        "plain": timer.plain_s[1:],
        "between": timer.between_s,
    }
    print(json.dumps(record) if arguments.json else f"{setup}\n\n{table(timer, n_images)}")


def table(timer: EpochTimer, n_images: int) -> str:
    """Throughput of both and the ratio per pair of epochs; the first pair includes one-time costs and is left out."""
    pairs = list(zip(timer.graft_s, timer.plain_s, strict=True))[1:]
    ratios = [plain_s / graft_s for graft_s, plain_s in pairs]
    graft_rate, plain_rate = (n_images / statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    between_s = statistics.median(timer.between_s)
    return "\n".join(
        [
            "| loop | images/s | ratio to plain loop |",
            "|---|---|---|",
            f"| fine-tuning epoch | {graft_rate:.1f} | **{statistics.median(ratios):.3f}** |",
            f"| plain torch loop | {plain_rate:.1f} | 1 |",
            "",
            f"ratios of {len(pairs)} pairs: {', '.join(f'{ratio:.3f}' for ratio in ratios)}",
            f"between two epochs, mostly for the checkpoint, independent of their length: {between_s:.2f} s",
        ]
    )


def int_at_least(minimum: int) -> type:
    """Argument type: an integer of at least `minimum`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
        return int(text)

    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--epochs", type=int_at_least(2), default=7, help="the first is not counted (default: 7)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GRAFT_CACHE", folder)
        measure(arguments, Path(folder, "run"))


if __name__ == "__main__":
    main()
