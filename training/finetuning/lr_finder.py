"""Learning-rate range test: trains a copy of the network with rising learning rates until the loss diverges.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks".
"""

import copy
import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from graft.service.inference.devices import Device
from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.hyperparameters import round_to_two_digits
from graft.training.finetuning.lightning_module import FineTune
from graft.training.finetuning.param_groups import set_eval_modules
from graft.training.finetuning.precision import TrainingStep

Batches = Iterable[tuple[Tensor, Tensor]]
MIN_SCALE, MAX_SCALE, N_STEPS = 0.01, 100.0, 60  # factors of the configured learning rates; number of steps
SAFETY = 10.0  # divides the learning rate of the lowest loss, where training is close to divergence
DIVERGENCE_FACTOR = 3.0  # the test ends when the loss exceeds this multiple of its minimum


def lr_find(network: Network, batches: Batches, config: FineTuneConfig, device: Device) -> FineTuneConfig:
    """Scales the configured learning rates with a range test. Leaves the network and torch's random state unchanged.

    Args:
        batches: training batches; the test ends early if there are fewer than `N_STEPS`.
    """
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):  # else it asks a GPU that may be full or broken
        torch.manual_seed(config.seed)
        module = FineTune(copy.deepcopy(network), config).to(device)
        scale = suggest_lr_scale(*_range_test(module, batches, config, device))
    rates = {name: round_to_two_digits(scale * getattr(config, name)) for name in ("head_lr", "backbone_lr")}
    return config.model_copy(update=rates)


def suggest_lr_scale(scales: list[float], losses: list[float]) -> float:
    """Factor for the learning rates, in [0.1, 10]: `SAFETY` below the minimum of the smoothed loss; 1 if inconclusive.

    Args:
        scales: tested factors, rising.
        losses: loss of each.
    """
    if len(losses) < N_STEPS // 4:
        return 1.0
    smoothed = _smooth(losses)
    best = scales[min(range(len(smoothed)), key=lambda step: smoothed[step])]
    return max(0.1, min(10.0, best / SAFETY))


def _range_test(module: FineTune, batches: Batches, config: FineTuneConfig, device: Device) -> tuple[list[float], list[float]]:
    """Tested factors, and the loss of each."""
    module.network.train()
    set_eval_modules(module.network, config.freeze_bn)
    train_step = TrainingStep(module, device)
    groups = train_step.optimizer.param_groups
    peaks = [group["lr"] for group in groups]
    scales: list[float] = []
    losses: list[float] = []
    for step, (images, targets) in zip(range(N_STEPS), batches, strict=False):
        scale = MIN_SCALE * (MAX_SCALE / MIN_SCALE) ** (step / (N_STEPS - 1))
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = scale * peak
        loss = train_step(images.to(device), targets.to(device)).item()
        if not math.isfinite(loss) or loss > DIVERGENCE_FACTOR * min([*losses, loss]):
            break
        scales.append(scale)
        losses.append(loss)
    return scales, losses


def _smooth(losses: list[float]) -> list[float]:
    """Moving average over three losses, to reduce the noise of single batches."""
    padded = [losses[0], *losses, losses[-1]]
    return [
        (previous + current + following) / 3
        for (previous, current), following in zip(pairwise(padded), padded[2:], strict=False)
    ]
