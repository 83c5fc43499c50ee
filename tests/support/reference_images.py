"""Samples of labels, as references for outlier scores."""

from graft.training.data.dataset import Sample


def reference_images(counts: dict[int, int]) -> list[Sample]:
    """Samples with the given number of images per label."""
    return [
        Sample(f"{label}/{number}", (label,), digest=bytes([label, number % 256, number // 256]))
        for label, count in counts.items()
        for number in range(count)
    ]
