"""How fine-tuning's choices follow from the size of the data: pure functions of a few numbers, each a rule of thumb.

In the spirit of BiT's HyperRule (Kolesnikov et al. 2020): few rules, one look each, overridable one by one.
`fresh` means that the network starts from random weights.
"""

import math

SIDE_STEP = 32  # every backbone here halves its input five times


def input_size(median_side: int, pretrained: int) -> int:
    """The side of the square to train on, in pixels, for images whose shorter side is typically `median_side`.

    Enlarging a small picture to the pretrained size adds no information and costs time by its square; enlarging it
    fourfold keeps the features' scale usable. Photos get the size that the weights were trained with.
    """
    enough = SIDE_STEP * math.ceil(4 * median_side / SIDE_STEP)
    return min(pretrained, max(3 * SIDE_STEP, enough))


def epochs(n_images: int) -> int:
    """How many times fine-tuning sees every image: about 40,000 image-steps, from 5 epochs to 20."""
    return max(5, min(20, round(40_000 / max(1, n_images))))


def folds(smallest_class: int, n_images: int) -> int:
    """How many parts cross-validation cuts the training images into; each must hold an image of every class."""
    return max(2, min(5 if n_images < 2_000 else 3, smallest_class))


def mirrored(flips: bool, n_images: int) -> bool:
    """Whether a probe also learns from every image's mirror image: it doubles the pass, and pays where images are few."""
    return flips and n_images <= 5_000


def lr_scale(step: int, total_steps: int, warmup: float = 0.1) -> float:
    """Linear warm-up, then cosine to 0; the factor in [0, 1] that multiplies every base rate."""
    warm = max(1, round(warmup * total_steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total_steps - warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


SMALLEST_BATCH, LARGEST_BATCH, LARGEST_BATCH_GPU = 16, 32, 128
REFERENCE_BATCH = 32  # what the learning rates below were chosen at
LABEL_SMOOTHING = 0.1
BALANCED = 3.0  # the largest label may have this many times the images of the smallest before anything is done about it


def batch_size(n_images: int, gpu: bool) -> int:
    """Images of one step: a power of two that leaves at least eight steps an epoch, within limits."""
    most = LARGEST_BATCH_GPU if gpu else LARGEST_BATCH
    wanted = 1 << math.floor(math.log2(max(1, n_images / 8)))
    return max(SMALLEST_BATCH, min(most, wanted))


def steps(n_images: int, batch_size: int) -> int:
    """Batches of an epoch: a last, smaller one is left out, unless it is the only one."""
    return max(1, n_images // batch_size)


def fresh_epochs(epochs: int) -> int:
    """A network that knows nothing yet looks at everything four times as often."""
    return 4 * epochs


def rates(optimizer: str, scratch: bool, fresh: bool, batch_size: int) -> tuple[float, float]:
    """Peak learning rates of the head and of the backbone's last layer.

    Larger batches have less noise, and bear larger steps: by the root for AdamW, in proportion for SGD.
    """
    adamw, sgd = {
        (False, False): ((1e-3, 2e-4), (1e-2, 3e-3)),
        (True, False): ((5e-4, 5e-4), (2e-2, 2e-2)),
        (True, True): ((1e-3, 1e-3), (5e-2, 5e-2)),
    }[scratch, fresh]
    ratio = batch_size / REFERENCE_BATCH
    scale, (head, backbone) = (math.sqrt(ratio), adamw) if optimizer == "adamw" else (ratio, sgd)
    return _rounded(scale * head), _rounded(scale * backbone)


def bottom_ratio(n_images: int, scratch: bool) -> float:
    """The first layer's learning rate as a share of the last's: edges and colours look alike everywhere."""
    if scratch or n_images >= 50_000:
        return 1.0
    return 0.1 if n_images < 1_000 else 0.3


def weight_decay(optimizer: str, fresh: bool) -> float:
    """AdamW's is multiplied by the learning rate alone, SGD's acts through the gradient: hence the two scales."""
    if optimizer == "adamw":
        return 0.05 if fresh else 0.02
    return 5e-4 if fresh else 1e-4


def dropout(n_images: int) -> float:
    """Share of the features that the head does without at each step; many images need no such help."""
    return 0.2 if n_images < 5_000 else 0.0


def frozen_norm(n_images: int, scratch: bool) -> bool:
    """Whether BatchNorm keeps its pretrained statistics: small data, and the small batches they make, estimate poor ones."""
    return not scratch and n_images < 50_000


def mixup(fresh: bool, epochs: int) -> float:
    """Alpha of blending pairs of images: it pays in long runs from random weights, and slows short ones down."""
    return 0.2 if fresh and epochs >= 20 else 0.0


def augment(n_images: int, fresh: bool) -> str:
    """How much training images are changed: the fewer there are, and the more often each is seen, the more."""
    if n_images >= 100_000:
        return "light"
    return "strong" if fresh or n_images < 500 else "medium"


def balance(counts: tuple[int, ...], multilabel: bool) -> str:
    """How rare labels are made up for: by logit adjustment (Menon et al. 2021) once they are three times rarer.

    Several labels an image are several yes-or-no questions, each mostly answered no; nothing is done about that.
    """
    return "none" if multilabel or imbalance(counts) < BALANCED else "logits"


def imbalance(counts: tuple[int, ...]) -> float:
    """How many images the largest label has for one of the smallest."""
    return max(counts) / max(1, min(counts))


def averaging(total_steps: int, always: bool = False) -> tuple[float, int]:
    """Of the averaged weights: their decay, and after how many steps they are brought up to date.

    They look back over a tenth of the run, whatever its length; a fixed 0.999 would keep 87 % of the first weights in a
    run of 140 steps. Five hundred updates are as good as any number. A decay of 0 means: no averaging, too few steps; in
    a run as short as that, `always` averages the last two.
    """
    every = max(1, total_steps // 500)
    horizon = total_steps / every / 10
    if horizon < 5:
        return (max(0.5, _rounded(1 - 1 / max(1.0, horizon))), 1) if always else (0.0, 1)
    return _rounded(1 - 1 / horizon), every


def layer_rates(top: float, bottom_ratio: float, n_layers: int) -> list[float]:
    """The learning rate of each layer, from the first to the last: a geometric row that ends at `top`."""
    return [top * bottom_ratio ** ((n_layers - 1 - layer) / max(1, n_layers - 1)) for layer in range(n_layers)]


def open_layers(n_layers: int, unfreeze: str) -> int:
    """How many layers from the end may change."""
    return n_layers if unfreeze == "all" else max(1, round(n_layers / 4))


def _rounded(value: float) -> float:
    """Two digits are all that a rule of thumb has."""
    return float(f"{value:.2g}") if value < 0.9 else round(value, 4)
