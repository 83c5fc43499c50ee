"""How many images fit into memory, measured on two of them; and the same step in smaller batches where they do not."""

from pathlib import Path

import torch
from torch import Tensor

from graft.service.networks.network import Network
from graft.training.config.finetune_config import Plan

SHARE = 0.7  # of the free memory; the rest is for the loader, for gradients on their way, and for other people
COPIES = 5  # of each weight: itself, its gradient, AdamW's two moments, and its average
TRIED = 2  # images; with one, BatchNorm has nothing to normalise by


def fitting(network: Network, plan: Plan, side: int, free_bytes: int) -> Plan:
    """The plan with its batches halved, and twice as many of them to a step, until one fits into memory.

    Args:
        network: on a CPU.
        side: of its input, in pixels.
        free_bytes: of the device that it will learn on.

    Raises:
        MemoryError: if not even one image fits.
    """
    weights = COPIES * sum(parameter.nbytes for parameter in network.parameters())
    image = bytes_per_image(network, side)
    while weights + plan.batch_size * image > SHARE * free_bytes:
        if plan.batch_size == 1:
            raise MemoryError(
                f"Learning needs {(weights + image) / 2**30:.1f} GiB at {side} pixels; {free_bytes / 2**30:.1f} GiB are free."
                " Try a smaller --input-size or --backbone."
            )
        plan = halved(plan)
    return plan


def halved(plan: Plan) -> Plan:
    """The same steps, each from two batches of half the size where there was one."""
    return plan.model_copy(update={"batch_size": max(1, plan.batch_size // 2), "accumulate": 2 * plan.accumulate})


def bytes_per_image(network: Network, side: int) -> int:
    """What a forward pass keeps of each image for the way back."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = torch.zeros(TRIED, side, side, 3, dtype=torch.uint8)
    modes = {module: module.training for module in network.modules()}
    network.eval()  # batch statistics must not follow a black picture; eval keeps the same tensors
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, _vectors = network(batch)
    del logits
    for module, training in modes.items():
        module.training = training
    return sum(kept.values()) // TRIED


def free_memory(gpu: bool) -> int:
    """Bytes that this process may still take of the GPU's memory or of the machine's, a container's limit minded."""
    if gpu:
        return int(torch.cuda.mem_get_info()[0])
    return min(_available(Path("/proc/meminfo")), _left_in_group(Path("/sys/fs/cgroup")))


def _available(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 2**63  # no Linux: nobody to ask
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 2**63


def _left_in_group(group: Path) -> int:
    try:
        most, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**63
    return max(0, int(most) - used) if most.isdecimal() else 2**63
