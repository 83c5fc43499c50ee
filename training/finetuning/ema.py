"""The running average of the weights: what is validated and kept instead of the last step's, which is noisier."""

from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from graft.training.config.finetune_config import Plan


class Averaged(WeightAveraging):
    """Lightning's averaging, with a decay and a pace that fit the length of the run."""

    def __init__(self, decay: float, every: int) -> None:
        # All tensors at once: one by one, a GPU would wait for a hundred small calls.
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self._every = every

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self._every == 0


def averaging(plan: Plan) -> list[Averaged]:
    """The callback, if the plan averages."""
    return [Averaged(plan.averaging, plan.average_every)] if plan.averaging else []
