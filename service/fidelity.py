"""The precisions of inference, and how much each changes the predictions of a model.

A precision is the numeric type of a network's products: f32 is IEEE single precision; tf32 rounds the inputs of products to 10
bits, as NVIDIA's tensor cores do, and is never called f32 here; bf16 and f16 store weights and activations in 16 bits. int8 is
a model of its own: its network is quantized to 8 bits, and its head has learned from that network's features.
"""

from typing import Literal, get_args

from pydantic import Field

from .records import Probability, Record

Precision = Literal["f32", "tf32", "bf16", "f16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MAX_PROBABILITY_SHIFT = 0.01  # a smaller change of a probability is not visible to users
# What an equivalent precision may change; 0.2 points is less than any interval of an accuracy here.
MIN_AGREEMENT, MAX_ACCURACY_LOSS, MAX_LOG_LOSS_RISE = 0.995, 0.002, 0.01


class Fidelity(Record):
    """How much the predictions change at a precision other than f32.

    Of int8, the numbers are measured on the predictions of both models, and its golden answers are its own.
    """

    n_images: int = Field(gt=0, description="number of validation images for which the following numbers hold")
    agreement: Probability = Field(description="expected share with the same prediction as in f32")
    accuracy_change: float = Field(ge=-1, le=1, description="expected accuracy, less that in f32")
    log_loss_change: float = Field(description="expected log-loss in nats, less that in f32; higher is worse")
    max_probability_shift: float = Field(
        ge=0, le=1, description="largest shift of a probability near 0.5; of int8, between two ways to compute it"
    )

    @property
    def is_equivalent(self) -> bool:
        """Whether neither accuracy, log-loss nor the labels change by more than noise: at most 0.5 % of the labels change."""
        return self.is_as_good and self.agreement >= MIN_AGREEMENT

    @property
    def is_as_good(self) -> bool:
        """Whether the accuracy falls by at most 0.2 points or one image, and the log-loss rises by at most 0.01 nats."""
        return (
            self.accuracy_change >= -max(MAX_ACCURACY_LOSS, 1.5 / self.n_images)  # 1.5: one image, whatever is rounded
            and self.log_loss_change <= MAX_LOG_LOSS_RISE
        )
