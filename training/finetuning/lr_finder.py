"""How fast this network can learn from these images: a short trial on a copy, the rates rising until the loss explodes.

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
LOWEST, HIGHEST, TRIALS = 0.01, 100.0, 60  # times the plan's own rates
SAFETY = 10.0  # how far below the rate at which the loss was lowest; there it is about to explode
EXPLODED = 3.0  # times the lowest loss


def found_rates(network: Network, batches: Batches, plan: Plan, gpu: bool) -> Plan:
    """The plan with its rates scaled by what a trial says; neither the network nor torch's random state is touched.

    Args:
        batches: training batches; the trial ends with them if they are fewer than it wants.
    """
    device = "cuda" if gpu else "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        module = FineTune(copy.deepcopy(network), plan).to(device)
        scale = suggested(*_trial(module, batches, plan, device))
    rates = {name: float(f"{scale * getattr(plan, name):.2g}") for name in ("head_rate", "backbone_rate")}
    return plan.model_copy(update=rates)


def suggested(scales: list[float], losses: list[float]) -> float:
    """The factor for the rates, from 0.1 to 10: a safe distance below where the smoothed loss was lowest; 1 if unclear.

    Args:
        scales: rising factors that were tried.
        losses: what came of each.
    """
    if len(losses) < TRIALS // 4:
        return 1.0
    smooth = _smoothed(losses)
    lowest = scales[min(range(len(smooth)), key=lambda trial: smooth[trial])]
    return max(0.1, min(10.0, lowest / SAFETY))


def _trial(module: FineTune, batches: Batches, plan: Plan, device: str) -> tuple[list[float], list[float]]:
    """The factors that were tried, and the loss of each step."""
    module.network.train()
    settle(module.network, plan.frozen_norm)
    optimizer = make_optimizer(module.network, plan)
    peaks = [group["lr"] for group in optimizer.param_groups]
    scales: list[float] = []
    losses: list[float] = []
    for trial, (images, targets) in zip(range(TRIALS), batches, strict=False):
        scale = LOWEST * (HIGHEST / LOWEST) ** (trial / (TRIALS - 1))
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
    """Each with its two neighbours: one lucky batch must not decide."""
    padded = [losses[0], *losses, losses[-1]]
    return [(before + here + after) / 3 for (before, here), after in zip(pairwise(padded), padded[2:], strict=False)]
