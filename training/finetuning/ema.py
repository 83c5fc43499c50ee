"""Exponential moving average (EMA) of the weights. It replaces the noisier raw weights in validation and checkpoints."""

from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from graft.training.config.finetune_config import FineTuneConfig


class EMACallback(WeightAveraging):
    """Lightning's weight averaging with a given decay and update interval."""

    def __init__(self, decay: float, interval: int) -> None:
        # The multi-tensor version avoids a hundred small GPU kernels.
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self._interval = interval

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self._interval == 0


def ema_callbacks(config: FineTuneConfig) -> list[EMACallback]:
    """The EMA callback, if the configuration uses one."""
    return [EMACallback(config.ema_decay, config.ema_interval)] if config.ema_decay else []
