"""Fine-tuning epochs after the first, against a bare torch loop over ready tensors: same network, batches and optimizer.

    .venv/bin/python benchmarks/epoch.py [DATA] [--backbone NAME] [--input-size 128] [--batches 12] [--epochs 7] [--json]

The road is the real one, `graft.training.finetuning.trainer.learn`: kept pixels, random changes in loader processes, the Lightning module,
its trainer with all that watches it, averaging included. An epoch is all batches up to validation, which the bare loop does
not have; what comes between two epochs beside validation, above all the checkpoint, has a line of its own. The bare loop has
its batches in memory, and does forward, backward, clipping and a step, nothing else. In turns, an epoch of each; medians,
the ratio first: on a shared machine only that means something.
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
from graft.training.audit.image_scan import examine
from graft.training.backbones import onnx_cache, registry
from graft.training.config.finetune_config import Facts, Plan, plan
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import Splits, split
from graft.training.features.lightning_extractor import load_headless
from graft.training.finetuning import trainer as learning
from graft.training.finetuning.datamodule import Batch, Batches
from graft.training.finetuning.lightning_module import FineTune, make_optimizer
from graft.training.finetuning.param_groups import freeze, settle
from graft.training.sample import SAMPLE


class Bare:
    """The loop that there is nothing to take away from."""

    def __init__(self, network: Network, chosen: Plan, batches: list[Batch], device: str) -> None:
        self._network, self._batches, self._clip = copy.deepcopy(network).to(device).train(), batches, chosen.clip
        freeze(self._network, chosen)
        settle(self._network, chosen.frozen_norm)
        self._optimizer = make_optimizer(self._network, chosen)
        self._device, self._smoothing = device, chosen.label_smoothing

    def epoch(self) -> float:
        """Seconds of one pass over all batches."""
        begun = now(self._device)
        for images, labels in self._batches:
            with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
                logits, _vectors = self._network(images)
                loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=self._smoothing)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._clip)
            self._optimizer.step()
        return now(self._device) - begun


class Turns(learning.Told):
    """Times each epoch of the trainer, runs one of the bare loop after it, and times what else there is until the next."""

    def __init__(self, bare: Bare, batch_size: int, device: str) -> None:
        super().__init__(batch_size)
        self._bare, self._device = bare, device
        self._since = 0.0
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.between: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: FineTune) -> None:
        if self.theirs:
            self.between.append(now(self._device) - self._since)
        self._since = now(self._device)
        super().on_train_epoch_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: FineTune) -> None:
        if len(self.ours) == len(self.theirs) and self._since:  # not the look at the start
            self.ours.append(now(self._device) - self._since)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: FineTune) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.theirs.append(self._bare.epoch())
        self._since = now(self._device)


def now(device: str) -> float:
    """The time when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def measure(arguments: argparse.Namespace, run: Path) -> None:
    """Learns in turns, and prints a Markdown table, or the seconds of each epoch as JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = examine(scan(arguments.data))[0]
    splits = split(dataset, 0)
    exported = onnx_cache.export(registry.choose(arguments.backbone), arguments.input_size, 0, "crop")
    recipe = Recipe(
        strategy="finetune", epochs=arguments.epochs, batch_size=arguments.batch_size, patience=arguments.epochs, averaging=True
    )
    facts = Facts(len(splits.train), dataset.counts(splits.train), dataset.multilabel, gpu=device == "cuda")
    chosen = plan(recipe, facts)
    # A whole epoch of fewer images: cut short instead, the loader would go on while the bare loop is timed.
    n_images = min(arguments.batches, chosen.steps) * chosen.batch_size
    splits = Splits(splits.train[:n_images], splits.validation[: chosen.batch_size], splits.test)

    batches = Batches(dataset, splits, exported.preprocessing, chosen, device == "cuda")
    ready = [tuple(tensor.to(device) for tensor in batch) for batch in batches.train_dataloader()]
    network = load_headless(exported, len(dataset.labels)).to(memory_format=torch.channels_last)
    turns = Turns(Bare(network, chosen, ready, device), chosen.batch_size, device)
    learning.Told = lambda *_: turns  # in its place among all the others that watch the trainer
    learning.learn(network, batches, chosen, chosen.epochs, run, device == "cuda")
    what = (
        f"{arguments.backbone} at {exported.preprocessing.crop} pixels, {len(ready)} batches of {chosen.batch_size}, {device}"
    )
    facts = {"what": what, "n_images": n_images, "ours": turns.ours[1:], "theirs": turns.theirs[1:], "between": turns.between}
    print(json.dumps(facts) if arguments.json else f"{what}\n\n{table(turns, n_images)}")


def table(turns: Turns, n_images: int) -> str:
    """Both speeds and their ratio, epoch by epoch in pairs; the first pays for what is made only once, and is left out."""
    pairs = list(zip(turns.ours, turns.theirs, strict=True))[1:]
    ratios = [theirs / ours for ours, theirs in pairs]
    ours, theirs = (n_images / statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    between = statistics.median(turns.between)
    return "\n".join(
        [
            "| what | images/s | of the bare loop |",
            "|---|---|---|",
            f"| an epoch of fine-tuning | {ours:.1f} | **{statistics.median(ratios):.3f}** |",
            f"| a bare torch loop | {theirs:.1f} | 1 |",
            "",
            f"ratios of the {len(pairs)} pairs: {', '.join(f'{ratio:.3f}' for ratio in ratios)}",
            f"between two epochs, above all for the checkpoint, however long they are: {between:.2f} s",
        ]
    )


def at_least(fewest: int) -> type:
    """What reads a whole number from `fewest` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < fewest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {fewest} on")
        return int(text)

    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--epochs", type=at_least(2), default=7, help="the first is left out (default: 7)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GRAFT_CACHE", folder)
        measure(arguments, Path(folder, "run"))


if __name__ == "__main__":
    main()
