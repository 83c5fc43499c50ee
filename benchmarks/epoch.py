"""Fine-tuning epochs after the first, against a bare torch loop over ready tensors: same network, batches and optimizer.

    .venv/bin/python benchmarks/epoch.py [DATA] [--backbone NAME] [--input-size 128] [--batches 12] [--epochs 7]

The road is the real one: kept pixels, random changes in loader processes, the Lightning module and its trainer, averaging
included. The bare loop has its batches in memory, and does forward, backward, clipping and a step, nothing else. In turns,
an epoch of each; medians, the ratio first: on a shared machine only that means something.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import CSVLogger

from service.network import Network
from training import backbones, graphs
from training.batches import Batches
from training.dataset import scan
from training.extractor import load_headless
from training.finetune import FineTune, make_optimizer
from training.layers import settle
from training.looks import examine
from training.plan import Facts, Plan, plan
from training.recipe import Recipe
from training.sample import SAMPLE
from training.splits import split


class Bare:
    """The loop that there is nothing to take away from."""

    def __init__(self, network: Network, chosen: Plan, batches: list[tuple[torch.Tensor, torch.Tensor]], device: str) -> None:
        self._network, self._batches, self._clip = copy.deepcopy(network).to(device).train(), batches, chosen.clip
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


class Turns(Callback):
    """Times each epoch of the trainer, and runs one of the bare loop after it."""

    def __init__(self, bare: Bare, device: str) -> None:
        self._bare, self._device = bare, device
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: FineTune) -> None:
        self._begun = now(self._device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: FineTune) -> None:
        self.ours.append(now(self._device) - self._begun)
        self.theirs.append(self._bare.epoch())


def now(device: str) -> float:
    """The time when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def measure(arguments: argparse.Namespace, run: Path) -> None:
    """Prints a Markdown table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = examine(scan(arguments.data))[0]
    splits = split(dataset, 0)
    exported = graphs.export(backbones.choose(arguments.backbone), arguments.input_size, 0, "crop")
    counts = dataset.counts(splits.train)
    recipe = Recipe(strategy="finetune", epochs=arguments.epochs, batch_size=arguments.batch_size)
    chosen = plan(recipe, Facts(len(splits.train), counts, gpu=device == "cuda"))
    n_batches = min(arguments.batches, chosen.steps)

    loader = Batches(dataset, splits, exported.preprocessing, chosen, device == "cuda").train_dataloader()
    ready = [tuple(tensor.to(device) for tensor in batch) for batch, _ in zip(loader, range(n_batches), strict=False)]
    network = load_headless(exported, len(dataset.labels)).to(memory_format=torch.channels_last)
    turns = Turns(Bare(network, chosen, ready, device), device)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if device == "cuda" else "32-true",
        max_epochs=arguments.epochs,
        limit_train_batches=n_batches,
        limit_val_batches=0,
        gradient_clip_val=chosen.clip,
        callbacks=[turns],
        logger=CSVLogger(run, name=None, version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(FineTune(network, chosen), loader)

    n_images = n_batches * chosen.batch_size
    pairs = list(zip(turns.ours, turns.theirs, strict=True))[1:]  # the first epochs pay for what is made only once
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    speeds = [n_images / statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    print(
        f"{arguments.backbone} at {exported.preprocessing.crop} pixels, {n_batches} batches of {chosen.batch_size}, {device}\n"
    )
    print("| what | images/s | of the bare loop |\n|---|---|---|")
    print(f"| an epoch of fine-tuning | {speeds[0]:.1f} | **{ratio:.3f}** |\n| a bare torch loop | {speeds[1]:.1f} | 1 |")
    print(f"\nratios of the {len(pairs)} pairs: {', '.join(f'{theirs / ours:.3f}' for ours, theirs in pairs)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=7)
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric)")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GRAFT_CACHE", folder)
        measure(parser.parse_args(), Path(folder))


if __name__ == "__main__":
    main()
