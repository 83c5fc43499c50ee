"""What a network is told it got wrong: cross-entropy for one label an image, yes-or-no questions for several."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graft.training.config.finetune_config import Plan


class Loss(nn.Module):
    """The loss, rare labels made up for as the plan says.

    In training, logits are adjusted (Menon et al. 2021), rare labels weigh more, or they are shown more often. Judged is
    by the weights in each case: what all three aim at is the error where labels are equally common.
    """

    prior: Tensor
    weight: Tensor

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        counts = torch.tensor(plan.counts, dtype=torch.float32).clamp(min=1)
        self.register_buffer("prior", (counts / counts.sum()).log(), persistent=False)
        self.register_buffer("weight", _weights(counts, plan), persistent=False)
        self._plan = plan

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """While learning: with smoothed labels.

        Args:
            logits: float (N, C).
            targets: int64 (N,) or float (N, C); rows of shares where images were mixed, of zeros and ones for several labels.
        """
        smoothing = self._plan.label_smoothing
        if self._plan.multilabel:
            smooth = targets * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.weight)
        adjusted = logits + self.prior if self._plan.balance == "logits" else logits
        weight = self.weight if self._plan.balance == "weights" else None
        return F.cross_entropy(adjusted, targets, weight=weight, label_smoothing=smoothing)

    def judged(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Each image's loss on validation, float (N,): unsmoothed, and rare labels weigh more if the plan says so."""
        if self._plan.multilabel:
            asked = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=self.weight)
            return asked.mean(dim=1)
        return F.cross_entropy(logits, targets, reduction="none") * self.weight[targets]


def _weights(counts: Tensor, plan: Plan) -> Tensor:
    """float (C,): what an image of each label weighs, 1 on average over the images; or of several labels, what a yes weighs."""
    if plan.balance == "none" or (plan.multilabel and plan.balance != "weights"):
        return torch.ones_like(counts)
    if plan.multilabel:
        # The root, and a limit: a yes that weighs a thousand noes makes every answer a yes.
        return ((plan.n_images - counts).clamp(min=1) / counts).sqrt().clamp(1, 10)
    return counts.sum() / (len(counts) * counts)
