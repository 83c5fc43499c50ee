"""Training and validation loss: cross-entropy for multiclass data, binary cross-entropy for multilabel data."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.recipe import EQUAL_FREQUENCY_METRICS


class Loss(nn.Module):
    """Training loss with optional correction for class imbalance, and the validation loss of the metric.

    Training uses logit adjustment (Menon et al. 2021), class weights, or balanced sampling: all three learn as if labels were
    equally frequent. Validation moves the logits from the label frequencies of the training to those that the metric assumes.
    """

    prior: Tensor
    weight: Tensor
    val_shift: Tensor
    val_weight: Tensor

    def __init__(self, config: FineTuneConfig) -> None:
        super().__init__()
        counts = torch.tensor(config.counts, dtype=torch.float32).clamp(min=1)
        prior = (counts / counts.sum()).log()
        self.register_buffer("prior", prior, persistent=False)
        self.register_buffer("weight", _class_weights(counts, config), persistent=False)
        learns_equal, assumes_equal = config.balance != "none", config.metric in EQUAL_FREQUENCY_METRICS
        self.register_buffer("val_shift", prior * (int(learns_equal) - int(assumes_equal)), persistent=False)
        val_weight = _inverse_frequencies(counts) if assumes_equal else torch.ones_like(counts)
        self.register_buffer("val_weight", val_weight, persistent=False)
        self._config = config

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Training loss, with label smoothing.

        Args:
            logits: float (N, C).
            targets: int64 (N,), or float (N, C): soft targets of mixed images, or zeros and ones for multilabel data.
        """
        smoothing = self._config.label_smoothing
        if self._config.multilabel:
            smoothed = targets * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.weight)
        adjusted = logits + self.prior if self._config.balance == "logits" else logits
        weight = self.weight if self._config.balance == "weights" else None
        return F.cross_entropy(adjusted, targets, weight=weight, label_smoothing=smoothing)

    def val_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Validation loss of each image, float (N,): the metric's log-loss, without label smoothing.

        No metric has the share of errors: on a few hundred images, many epochs tie and the rest differ by luck, while every
        image tells something by its probability.
        """
        if self._config.multilabel:
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=self.weight)
            return losses.mean(dim=1)
        return F.cross_entropy(logits + self.val_shift, targets, reduction="none") * self.val_weight[targets]


def _class_weights(counts: Tensor, config: FineTuneConfig) -> Tensor:
    """float (C,): class weights with mean 1 over the images; for multilabel data, weights of the positive targets."""
    if config.balance != "weights":
        return torch.ones_like(counts)
    if config.multilabel:
        # Square root and upper limit: with a weight of 1,000, the model would predict every label as positive.
        return ((config.n_images - counts).clamp(min=1) / counts).sqrt().clamp(1, 10)
    return _inverse_frequencies(counts)


def _inverse_frequencies(counts: Tensor) -> Tensor:
    """float (C,): class weights with mean 1 over the images."""
    return counts.sum() / (len(counts) * counts)
