"""Learning-rate range test: trains a copy of the network with rising learning rates until the loss diverges.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks".
"""

import copy
import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from graft.service.networks.network import Network
from graft.training.config.finetune_config import Plan
from graft.training.finetuning.lightning_module import FineTune, make_optimizer
from graft.training.finetuning.param_groups import settle

Batches = Iterable[tuple[Tensor, Tensor]]
LOWEST, HIGHEST, TRIALS = 0.01, 100.0, 60  # factors of the configured learning rates; number of steps
SAFETY = 10.0  # divides the learning rate of the lowest loss, where training is close to divergence
EXPLODED = 3.0  # the test ends when the loss exceeds this multiple of its minimum


def found_rates(network: Network, batches: Batches, plan: Plan, gpu: bool) -> Plan:
    """Scales the configured learning rates with a range test. Leaves the network and torch's random state unchanged.

    Args:
        batches: training batches; the test ends early if there are fewer than `N_STEPS`.
    """
    device = "cuda" if gpu else "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        module = FineTune(copy.deepcopy(network), plan).to(device)
        scale = suggested(*_trial(module, batches, plan, device))
    rates = {name: float(f"{scale * getattr(plan, name):.2g}") for name in ("head_rate", "backbone_rate")}
    return plan.model_copy(update=rates)


def suggested(scales: list[float], losses: list[float]) -> float:
    """Factor for the learning rates, in [0.1, 10]: `SAFETY` below the minimum of the smoothed loss; 1 if inconclusive.

    Args:
        scales: tested factors, rising.
        losses: loss of each.
    """
    if len(losses) < TRIALS // 4:
        return 1.0
    smoothed = _smoothed(losses)
    best = scales[min(range(len(smoothed)), key=lambda step: smoothed[step])]
    return max(0.1, min(10.0, best / SAFETY))


def _trial(module: FineTune, batches: Batches, plan: Plan, device: str) -> tuple[list[float], list[float]]:
    """Tested factors, and the loss of each."""
    module.network.train()
    settle(module.network, plan.frozen_norm)
    optimizer = make_optimizer(module.network, plan)
    peaks = [group["lr"] for group in optimizer.param_groups]
    scales: list[float] = []
    losses: list[float] = []
    for step, (images, targets) in zip(range(TRIALS), batches, strict=False):
        scale = LOWEST * (HIGHEST / LOWEST) ** (step / (TRIALS - 1))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = scale * peak
        optimizer.zero_grad()
        loss = module.learning_loss(images.to(device), targets.to(device))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(module.network.parameters(), plan.clip)
        optimizer.step()
        if not math.isfinite(loss.item()) or loss.item() > EXPLODED * min([*losses, loss.item()]):
            break
        scales.append(scale)
        losses.append(loss.item())
    return scales, losses


def _smoothed(losses: list[float]) -> list[float]:
    """Moving average over three losses, to reduce the noise of single batches."""
    padded = [losses[0], *losses, losses[-1]]
    return [
        (previous + current + following) / 3
        for (previous, current), following in zip(pairwise(padded), padded[2:], strict=False)
    ]
