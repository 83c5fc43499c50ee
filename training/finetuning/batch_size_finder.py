"""Finds the batch size that fits into memory, from the memory use of a few images; uses gradient accumulation if needed."""

from pathlib import Path

import torch
from torch import Tensor

from graft.service.inference.devices import Device
from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.hyperparameters import TrainingPrecision
from graft.training.runtime import gpu

USABLE_FRACTION = 0.7  # of the free memory; the rest is for the data loader, temporary gradients, and other processes
COPIES_PER_PARAMETER = 5  # per parameter, in float32: weight, gradient, two AdamW moments, and EMA weight
PROBE_BATCH_SIZES = (2, 3)  # images in the two test batches, whose difference is one image


def fit_batch_size(network: Network, config: FineTuneConfig, side: int, free_bytes: int) -> FineTuneConfig:
    """Halves the batch size and doubles the gradient accumulation until a batch fits into memory.

    Args:
        network: on the CPU.
        side: input size in pixels.
        free_bytes: free memory of the training device.

    Raises:
        MemoryError: if a single image does not fit.
    """
    weights = COPIES_PER_PARAMETER * sum(parameter.nbytes for parameter in network.parameters())
    if config.training_precision != "32-true":
        weights += sum(2 * parameter.numel() for parameter in network.parameters())  # copies in 16 bits
    image = bytes_per_image(network, side, config.training_precision)
    while weights + config.batch_size * image > USABLE_FRACTION * free_bytes:
        if config.batch_size == 1:
            raise MemoryError(
                f"Training needs {(weights + image) / 2**30:.1f} GiB at {side} pixels; {free_bytes / 2**30:.1f} GiB are free."
                " Try a smaller --input-size or --backbone."
            )
        config = halve_batch_size(config)
    return config


def halve_batch_size(config: FineTuneConfig) -> FineTuneConfig:
    """Halves the batch size and doubles the gradient accumulation, so that the optimizer steps stay the same."""
    return config.model_copy(
        update={"batch_size": max(1, config.batch_size // 2), "accumulate_grad_batches": 2 * config.accumulate_grad_batches}
    )


def bytes_per_image(network: Network, side: int, precision: TrainingPrecision = "32-true") -> int:
    """Bytes of activations per image that a forward pass in this precision saves for the backward pass.

    Copies of weights in 16 bits are saved too, but do not grow with the batch: therefore the difference of two batches.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()  # a black image must not change the BatchNorm statistics; eval mode saves the same tensors
    # All CPUs compute bfloat16, and float16 takes as many bytes.
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
        fewer, more = (_saved_bytes(network, side, n_images) for n_images in PROBE_BATCH_SIZES)
    for module, training in modes.items():
        module.training = training
    return (more - fewer) // (PROBE_BATCH_SIZES[1] - PROBE_BATCH_SIZES[0])


def _saved_bytes(network: Network, side: int, n_images: int) -> int:
    """Bytes that a forward pass of black images saves for the backward pass, without the weights themselves."""
    saved: dict[int, int] = {}
    weight_pointers = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weight_pointers:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = torch.zeros(n_images, side, side, 3, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        logits, _vectors = network(batch)
    del logits
    return sum(saved.values())


def free_memory(device: Device) -> int:
    """Free memory of the GPU or of the machine in bytes, within the container's limit."""
    if device == "cuda":
        return gpu.free_bytes()
    return min(_available_bytes(Path("/proc/meminfo")), _cgroup_free_bytes(Path("/sys/fs/cgroup")))


def _available_bytes(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 2**63  # not Linux: unknown
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] if available else 2**63


def _cgroup_free_bytes(cgroup: Path) -> int:
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**63
    return max(0, int(limit) - used) if limit.isdecimal() else 2**63
