"""Measures the speed of the training that will be run: its optimizer steps, and on a GPU also the input that feeds them."""

import numpy as np
import torch
from torch import Tensor

from graft.service.inference.devices import Device, available_cpus
from graft.service.inference.engine_speed import median_seconds
from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.finetuning.lightning_module import FineTune
from graft.training.finetuning.param_groups import set_eval_modules
from graft.training.finetuning.precision import TrainingStep
from graft.training.runtime import gpu

# Calls before the measurement, and in it. On a CPU a step takes seconds, and only the first one pays for allocations.
N_STEPS: dict[Device, tuple[int, int]] = {"cpu": (1, 2), "cuda": (3, 10)}
N_AUGMENTED = (5, 25)
MAX_IMAGES_CPU = 32  # images per step that are measured on a CPU: its speed hardly depends on the batch size


def images_per_second(network: Network, config: FineTuneConfig, side: int, device: Device) -> float:
    """Images that training processes per second.

    Trains the network on noise: pass one that is not needed any more.

    Args:
        config: with a batch size that fits into the memory.
        side: input size in pixels.
    """
    if device == "cpu":
        return _steps(network, config, side, device)
    from graft.training.finetuning.datamodule import planned_workers

    return min(_steps(network, config, side, device), planned_workers(device, available_cpus()) * augmentations(config, side))


def augmentations(config: FineTuneConfig, side: int) -> float:
    """Images that one data loader process augments per second, if they are in the pixel cache."""
    from graft.training.finetuning.augmentations import train_transforms

    transforms = train_transforms(side, config)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return 1 / median_seconds(lambda: transforms(image=image), *N_AUGMENTED)


def _steps(network: Network, config: FineTuneConfig, side: int, device: Device) -> float:
    """Images per second of optimizer steps with the configured batch size, precision, layers and optimizer."""
    module = FineTune(network.to(memory_format=torch.channels_last), config).to(device)
    network.train()
    set_eval_modules(network, config.freeze_bn)
    step = TrainingStep(module, device)
    images, targets = _noise(
        config.batch_size if device == "cuda" else min(config.batch_size, MAX_IMAGES_CPU), side, config, device
    )

    def run_step() -> None:
        step(images, targets)
        gpu.synchronize(device)

    with gpu.deterministic(device):
        return len(images) / median_seconds(run_step, *N_STEPS[device])


def _noise(n_images: int, side: int, config: FineTuneConfig, device: Device) -> tuple[Tensor, Tensor]:
    """A batch: uint8 (N, side, side, 3), and targets as in the data module."""
    images = torch.randint(0, 256, (n_images, side, side, 3), dtype=torch.uint8, device=device)
    if config.multilabel:
        return images, torch.zeros(n_images, len(config.counts), device=device)
    return images, torch.zeros(n_images, dtype=torch.int64, device=device)
