"""Default hyperparameters, derived from the size of the dataset. Pure functions of a few numbers; no torch.

In the spirit of BiT's HyperRule (Kolesnikov et al. 2020): a few simple rules, each of which the recipe can override.
`from_scratch` means that no probe head is used and all layers train at the full rate; `random_init` means that the
backbone also starts from random weights.
"""

import math
from typing import Literal

from graft.service.inference.devices import Device
from graft.service.manifest import MAX_CENTERS

TrainingPrecision = Literal["32-true", "16-mixed", "bf16-mixed"]  # as Lightning spells them

N_FOLDS = 5
MAX_VIEWS = 8  # of each image, for a kernel machine: from 5 to 8 the log-loss still fell by 0 to 7 %
BACKBONE_STRIDE = 32  # every backbone here halves its input five times


def training_precision(capability: tuple[int, int] | None) -> TrainingPrecision:
    """Precision of fine-tuning. bfloat16 has the range of float32; float16 needs a scaled loss, but all GPUs compute it.

    Args:
        capability: compute capability of the GPU; None for a CPU, where mixed precision brings no speed.
    """
    if capability is None:
        return "32-true"
    return "bf16-mixed" if capability >= (8, 0) else "16-mixed"


def input_size(median_side: int, pretrained_size: int) -> int:
    """Side of the square network input, in pixels, for images with a median shorter side of `median_side`.

    Upscaling a small image to the pretrained size adds no information, and the cost grows with its square. Upscaling it
    fourfold keeps the scale of the features usable. Photos get the size that the weights were trained with.
    """
    upscaled = BACKBONE_STRIDE * math.ceil(4 * median_side / BACKBONE_STRIDE)
    return min(pretrained_size, max(3 * BACKBONE_STRIDE, upscaled))


def epochs(n_images: int) -> int:
    """Number of fine-tuning epochs: about 40,000 images in total, between 5 and 20 epochs."""
    return max(5, min(20, round(40_000 / max(1, n_images))))


def n_folds(smallest_class: int, n_images: int) -> int:
    """Number of cross-validation folds to select hyperparameters with; each needs an image of every class."""
    return max(2, min(N_FOLDS if n_images < 2_000 else 3, smallest_class))


def n_calibration_folds(smallest_class: int) -> int:
    """Number of folds to calibrate with: their heads should learn from nearly as many images as the final one."""
    return max(2, min(N_FOLDS, smallest_class))


def use_mirror_images(flips: bool, n_images: int) -> bool:
    """Whether a probe also trains on mirrored images. This doubles feature extraction, and helps if there are few images."""
    return flips and n_images <= 5_000


def crop_views(flips: bool, n_images: int) -> list[tuple[bool, int]]:
    """The random crops of each image that a kernel machine learns from: whether it is mirrored, and the number of the crop.

    As many as fit among the centers with the whole images and their mirror images.

    Args:
        n_images: training and validation images.
    """
    n_crops = min(MAX_VIEWS, MAX_CENTERS // n_images) - (2 if flips else 1)
    return [(flips and crop % 2 == 1, crop) for crop in range(1, n_crops + 1)]


def lr_scale(step: float, total_steps: int, warmup: float = 0.1) -> float:
    """Learning-rate factor in [0, 1]: linear warm-up, then cosine decay to 0."""
    warmup_steps = max(1, round(warmup * total_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


MIN_BATCH_SIZE, MAX_BATCH_SIZE, BATCH_SIZE_GPU = 16, 32, 128
REFERENCE_BATCH_SIZE = 32  # the learning rates below were tuned for this batch size
# 16 times the reference. The square-root rule of AdamW and the linear rule of SGD hold while the noise of the gradient
# dominates: Malladi et al. 2022 scale 16-fold in fine-tuning, Goyal et al. 2017 32-fold. Beyond that, nothing is known here.
MAX_BATCH_SIZE_GPU = 512
MIN_STEPS_LARGE_BATCH = 1_000  # optimizer steps that a run must keep; noise dominates early, and warm-up needs its steps
GPU_BYTES_PER_IMAGE = 80 * 2**20  # activations of common networks at 224 pixels, in 16 bits; a batch is fitted exactly later
LABEL_SMOOTHING = 0.1


def batch_size(n_images: int, device: Device, gpu_bytes: int = 0) -> int:
    """Batch size: a power of two, within limits, with at least eight steps per epoch.

    On a GPU more than 128 only with the memory for it, and with so many images that the run still has enough steps.

    Args:
        gpu_bytes: total memory of the GPU.
    """
    maximum = MAX_BATCH_SIZE
    if device == "cuda":
        by_memory = _power_of_two(gpu_bytes / GPU_BYTES_PER_IMAGE)
        by_steps = _power_of_two(epochs(n_images) * n_images / MIN_STEPS_LARGE_BATCH)
        maximum = max(BATCH_SIZE_GPU, min(MAX_BATCH_SIZE_GPU, by_memory, by_steps))
    return max(MIN_BATCH_SIZE, min(maximum, _power_of_two(n_images / 8)))


def _power_of_two(value: float) -> int:
    """The largest power of two that is not above the value; at least 1."""
    return 1 << math.floor(math.log2(max(1, value)))


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Batches per epoch: the last incomplete batch is dropped, unless it is the only one."""
    return max(1, n_images // batch_size)


def random_init_epochs(epochs: int) -> int:
    """Number of epochs for a randomly initialized network: four times as many."""
    return 4 * epochs


def learning_rates(optimizer: str, from_scratch: bool, random_init: bool, batch_size: int) -> tuple[float, float]:
    """Peak learning rates of the head and of the backbone's last layer.

    Larger batches have less gradient noise and allow larger steps: square-root scaling for AdamW, linear scaling for SGD.
    """
    adamw, sgd = {
        (False, False): ((1e-3, 2e-4), (1e-2, 3e-3)),
        (True, False): ((5e-4, 5e-4), (2e-2, 2e-2)),
        (True, True): ((1e-3, 1e-3), (5e-2, 5e-2)),
    }[from_scratch, random_init]
    ratio = batch_size / REFERENCE_BATCH_SIZE
    scale, (head, backbone) = (math.sqrt(ratio), adamw) if optimizer == "adamw" else (ratio, sgd)
    return round_to_two_digits(scale * head), round_to_two_digits(scale * backbone)


def layer_decay(n_images: int, from_scratch: bool) -> float:
    """Learning rate of the first layer as a fraction of the last layer's. Early features (edges, colors) transfer best."""
    if from_scratch or n_images >= 50_000:
        return 1.0
    return 0.1 if n_images < 1_000 else 0.3


def weight_decay(optimizer: str, random_init: bool) -> float:
    """AdamW decouples weight decay from the gradient and SGD adds it to the gradient, so their scales differ."""
    if optimizer == "adamw":
        return 0.05 if random_init else 0.02
    return 5e-4 if random_init else 1e-4


def dropout(n_images: int) -> float:
    """Dropout probability of the features before the head; none for large datasets."""
    return 0.2 if n_images < 5_000 else 0.0


def freeze_bn(n_images: int, from_scratch: bool) -> bool:
    """Whether BatchNorm keeps its pretrained statistics. Small datasets and small batches give poor estimates."""
    return not from_scratch and n_images < 50_000


def mixup(random_init: bool, epochs: int) -> float:
    """Alpha of mixup. It helps in long runs from random weights, and slows short runs down."""
    return 0.2 if random_init and epochs >= 20 else 0.0


def augment(n_images: int, random_init: bool) -> str:
    """Augmentation strength: the fewer images and the more epochs, the stronger."""
    if n_images >= 100_000:
        return "light"
    return "strong" if random_init or n_images < 500 else "medium"


def imbalance(counts: tuple[int, ...]) -> float:
    """Imbalance ratio: images of the largest label over images of the smallest."""
    return max(counts) / max(1, min(counts))


def ema_decay(total_steps: int, always: bool = False) -> tuple[float, int]:
    """Decay of the exponential moving average (EMA) of the weights, and the number of steps between its updates.

    The EMA covers the last tenth of the run at any length. A fixed decay of 0.999 would keep 87% of the initial weights in
    a run of 140 steps. More than 500 updates bring no gain. A decay of 0 means no EMA, because there are too few steps;
    with `always`, such a short run averages the last two steps.
    """
    every = max(1, total_steps // 500)
    horizon = total_steps / every / 10
    if horizon < 5:
        return (max(0.5, _round_decay(1 - 1 / max(1.0, horizon))), 1) if always else (0.0, 1)
    return _round_decay(1 - 1 / horizon), every


def layer_learning_rates(peak: float, layer_decay: float, n_layers: int) -> list[float]:
    """Learning rate of each layer, first to last: a geometric sequence that ends at `peak`."""
    return [peak * layer_decay ** ((n_layers - 1 - layer) / max(1, n_layers - 1)) for layer in range(n_layers)]


def n_trainable_layers(n_layers: int, unfreeze: str) -> int:
    """Number of layers to train, counted from the end."""
    return n_layers if unfreeze == "all" else max(1, round(n_layers / 4))


def round_to_two_digits(value: float) -> float:
    """Rounds to two significant digits; neither a heuristic nor a short search has more precision."""
    return float(f"{value:.2g}")


def _round_decay(value: float) -> float:
    """Rounds the decay of a moving average: near 1, its distance to 1 matters."""
    return round_to_two_digits(value) if value < 0.9 else round(value, 4)
