"""Softens the head that fine-tuning starts from.

A probe that has learned a few hundred images by heart is sure of each of them, and wildly wrong on a random crop of it. The
first steps through such a head change the backbone more than all later ones, and it does not recover.
"""

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from graft.service.inference.devices import Device
from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.finetuning.loss import Loss

N_IMAGES = 256
TEMPERATURES = np.geomspace(1, 64, 61)


@torch.no_grad()
def soften_head(network: Network, batches: Iterable[tuple[Tensor, Tensor]], config: FineTuneConfig, device: Device) -> float:
    """Divides the logits of the head by the temperature with the lowest training loss; returns the temperature.

    It is at least 1: a head that is sharpened to fit augmented images makes the first steps larger, not smaller.

    Args:
        network: on the CPU, with a linear head.
        batches: augmented training images uint8 (N, S, S, 3) with their targets; about 256 images are used.
    """
    assert isinstance(network.head, nn.Linear), "fine-tuning starts from a linear head"
    loss = Loss(config).to(device)
    network.eval().to(device)
    logits, targets = _predict(network, islice(batches, -(-N_IMAGES // config.batch_size)), device)
    losses = [loss(logits / temperature, targets).item() for temperature in TEMPERATURES]
    temperature = float(TEMPERATURES[int(np.argmin(losses))])
    network.to("cpu")
    for parameter in network.head.parameters():
        parameter.div_(temperature)
    return temperature


def _predict(network: Network, batches: Iterable[tuple[Tensor, Tensor]], device: Device) -> tuple[Tensor, Tensor]:
    predicted = [(network(images.to(device))[0], targets.to(device)) for images, targets in batches]
    logits, targets = (torch.cat(parts) for parts in zip(*predicted, strict=True))
    return logits, targets
