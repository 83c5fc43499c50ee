"""Every choice of a run, and the pure rules that derive the rest from the size of the data. No torch, no files but YAML.

The command line's flags, the YAML file and the run folder's `recipe.yaml` are all this one model. How fine-tuning's own
choices are derived stands in `graft.training.config.hyperparameters`, and what came of it in `graft.training.config.finetune_config`.
"""

import math
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from graft.training.config.corruptions import HARDENING, hardening

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
SECONDS = {"s": 1, "m": 60, "h": 3600}

FINE_TUNINGS = ("last", "finetune", "scratch")  # the strategies that surely come to fine-tuning

Strategy = Literal["auto", "probe", "svm", "stages", "last", "finetune", "scratch"]


class Recipe(BaseModel):
    """What a person may choose. What is left at None is derived from the data, printed, and recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Strategy = Field("auto", description="how to learn; auto climbs from the cheapest while it pays")
    budget: str = Field("10m", description="time that auto may take, such as 90s, 10m or 1h30m")
    backbone: str = Field(DEFAULT_BACKBONE, description="any timm network")
    weights: str = Field("pretrained", description="or a .safetensors file, local-dir:FOLDER, or none for random ones")
    start: Literal["pretrained", "random"] = Field("pretrained", description="the weights that scratch starts from")
    input_size: int | None = Field(None, ge=32, le=1024, description="pixels of the square that the network sees")
    fit: Literal["crop", "squash", "letterbox"] = Field("crop", description="how an image is made square")
    seed: int = Field(0, ge=0, lt=2**32, description="of every random choice")
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="where the network runs while it learns")
    group_by: str | None = Field(
        None,
        min_length=1,
        description="what no split may tear apart: a CSV column, or a regular expression on the path",
        json_schema_extra={"unset": "each image by itself"},
    )
    follow_links: bool = Field(False, description="follow symbolic links that lead out of the folder")
    skip_bad: bool = Field(False, description="leave unreadable images out instead of stopping")
    drop_duplicates: bool = Field(False, description="leave out leaked and doubly labelled images instead of stopping")
    precision: float = Field(0.95, gt=0, lt=1, description="wanted of each label; the report says from which probability on")
    coverage: float = Field(0.9, gt=0, lt=1, description="how often a prediction set shall hold the right label")
    thumbnails: bool = Field(True, description="keep small pictures of training images in the package, to be shown as similar")
    int8: bool = Field(False, description="package an int8 network too, for GRAFT_PRECISION=int8; needs graft-vision[int8]")
    ten_crop: bool = Field(False, description="also look at each test image ten times, and report what that gains")
    tracker: Literal["none", "tensorboard", "mlflow"] = Field("none", description="where the curves go besides metrics.csv")
    pixel_cache: float = Field(16, ge=0, le=10_000, description="GiB of disk for decoded images")

    epochs: int | None = Field(None, gt=0, le=10_000, description="of fine-tuning")
    search: int | None = Field(
        None,
        gt=0,
        le=10_000,
        description="trials of fine-tuning's choices; it learns with the best",
        json_schema_extra={"unset": "no search"},
    )
    batch_size: int | None = Field(None, gt=0, le=65_536, description="images of one fine-tuning step")
    unfreeze: Literal["last", "all"] | None = Field(None, description="how much of the network fine-tuning changes")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum")
    head_rate: float | None = Field(None, gt=0, le=10, description="peak learning rate of the head")
    backbone_rate: float | None = Field(None, gt=0, le=10, description="peak learning rate of the backbone's last layer")
    bottom_ratio: float | None = Field(
        None, gt=0, le=1, description="the first layer's learning rate, as a share of the last's"
    )
    find_rates: bool = Field(False, description="scale the learning rates by what a short trial says")
    schedule: Literal["cosine", "plateau"] = Field("cosine", description="how the rates fall: steadily, or when stuck")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rates rise")
    weight_decay: float | None = Field(None, ge=0, le=10, description="how much the weights shrink")
    clip: float = Field(1.0, gt=0, le=1e6, description="the largest norm that a gradient keeps")
    dropout: float | None = Field(None, ge=0, lt=1, description="share of the features hidden from the head while it learns")
    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description="share of certainty spread over the other labels", json_schema_extra={"unset": "0.1"}
    )
    mixup: float | None = Field(None, ge=0, le=10, description="alpha of blending two images; 0: never")
    cutmix: float | None = Field(None, ge=0, le=10, description="alpha of pasting one image into another; 0: never")
    averaging: bool | None = Field(None, description="keep the running average of the weights")
    frozen_norm: bool | None = Field(None, description="keep BatchNorm's pretrained statistics")
    patience: int = Field(4, gt=0, description="epochs without progress on validation before fine-tuning ends")
    balance: Literal["none", "weights", "sampling", "logits"] | None = Field(None, description="what is done for rare labels")
    augment: Literal["none", "light", "medium", "strong"] | None = Field(None, description="how much images are changed")
    flips: bool = Field(True, description="learn from mirror images too; rule them out for digits and text")
    rotations: bool = Field(True, description="learn from slightly turned images too")
    harden: tuple[str, ...] = Field(
        (),
        description=f"what fine-tuning's images suffer too, joined by commas, of {', '.join(HARDENING)}",
        json_schema_extra={"unset": "none", "metavar": "A,B"},
    )

    @field_validator("budget")
    @classmethod
    def _is_a_time(cls, budget: str) -> str:
        seconds(budget)
        return budget

    @field_validator("harden", mode="before")
    @classmethod
    def _is_known(cls, harden: Any) -> tuple[str, ...]:
        return hardening(filter(None, harden.split(","))) if isinstance(harden, str) else hardening(map(str, harden))

    @property
    def budget_s(self) -> float:
        """The budget in seconds."""
        return seconds(self.budget)

    @classmethod
    def load(cls, path: Path, overrides: dict[str, Any]) -> "Recipe":
        """The recipe in a YAML file, with the choices of the command line on top.

        Raises:
            ValueError: if the file is no YAML mapping, or a choice is impossible (pydantic's ValidationError).
        """
        try:
            choices = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} cannot be read as a recipe: {error}") from None
        if not isinstance(choices, dict):
            raise ValueError(f"{path} is not a recipe: expected lines such as `epochs: 8`.")
        return cls.model_validate(choices | overrides)

    def text(self) -> str:
        """The YAML that `load` reads."""
        written: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return written

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads."""
        path.write_text(self.text(), encoding="utf-8")


def seconds(text: str) -> float:
    """A span of time such as `90s`, `10m`, `1h30m` or `1.5h` in seconds.

    Raises:
        ValueError: if it is none, or no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    total = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < total < math.inf:
        raise ValueError(f"{text!r} is no span of time; expected one such as 90s, 10m or 1h30m")
    return total
