"""Mixed precision of training: as a Lightning plugin, and for single optimizer steps outside of Lightning's loop."""

import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor

from graft.service.inference.devices import Device
from graft.training.config.hyperparameters import TrainingPrecision
from graft.training.finetuning.lightning_module import FineTune, make_optimizer
from graft.training.runtime.device import without_cuda

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def precision_plugin(precision: TrainingPrecision, device: Device) -> Precision:
    """Lightning's plugin for a precision; that of `16-mixed` scales the loss, and its scale is part of every checkpoint.

    Given only the name, Lightning would turn `16-mixed` on a CPU into `bf16-mixed`, and a run that a GPU has started would not
    go on as it began.
    """
    return Precision() if precision == "32-true" else MixedPrecision(precision, device)


def autocast(precision: TrainingPrecision, device: Device) -> torch.autocast:
    """The context in which the network runs in a precision."""
    return torch.autocast(device, DTYPES.get(precision), enabled=precision in DTYPES, cache_enabled=False)


class TrainingStep:
    """One optimizer step as Lightning runs it, for measurements before the training.

    Args:
        module: on `device`, in training mode.
    """

    def __init__(self, module: FineTune, device: Device) -> None:
        self._module, self._device, self._precision = module, device, module.config.training_precision
        self.optimizer = make_optimizer(module.network, module.config)
        self._scaler = torch.amp.GradScaler(device, enabled=self._precision == "16-mixed")

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Trains on one batch, which is on the device; returns its loss."""
        self.optimizer.zero_grad()
        with autocast(self._precision, self._device):
            loss = self._module.train_loss(images, targets)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self._module.network.parameters(), self._module.config.clip_grad)
        with without_cuda(self._device):
            self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach()
