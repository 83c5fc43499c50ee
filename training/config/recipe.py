"""Options of a training run. No torch; reads and writes only YAML.

The command-line flags, the YAML file and `recipe.yaml` in the run folder all use this model. The defaults of fine-tuning
are derived in `graft.training.config.hyperparameters` and combined in `graft.training.config.finetune_config`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic.config import JsonDict

from graft.service.manifest import MetricName
from graft.service.settings import DeviceSetting
from graft.training.config import option_errors
from graft.training.config.corruptions import AUGMENTABLE_CORRUPTIONS, parse_corruption_names
from graft.training.config.read_options import DATA, ReadOptions
from graft.training.config.recipe_file import read_yaml

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600}

FINETUNE_STRATEGIES = ("finetune-last", "finetune", "scratch")  # strategies that always fine-tune

# The groups of the options in `--help`, besides DATA; an option without a group is an advanced one.
MODEL: JsonDict = {"group": "model"}
TRAINING: JsonDict = {"group": "training"}
AUGMENTATION: JsonDict = {"group": "augmentation"}
OUTPUT: JsonDict = {"group": "output"}

DEFAULT_SHARE = 0.15  # of the images, for validation and for test
Strategy = Literal["auto", "probe", "svm", "stages", "kernel", "finetune-last", "finetune", "scratch"]


EQUAL_FREQUENCY_METRICS = ("balanced-accuracy", "f1-macro")  # with them, a rare label counts as much as a frequent one


class Recipe(ReadOptions):
    """Options that a user can set. A value of None is derived from the data, printed, and saved."""

    strategy: Strategy = Field(
        "auto",
        description="training strategy; auto tries several from cheap to expensive, and keeps what is better on validation",
        json_schema_extra=TRAINING,
    )
    budget: str = Field(
        "10m",
        description="time budget, such as 90s, 10m or 1h30m; it limits what auto tries and how many epochs are trained",
        json_schema_extra=TRAINING,
    )
    metric: MetricName = Field(
        "log-loss",
        description="what models are judged by; balanced-accuracy and f1-macro count rare labels as much as frequent ones",
        json_schema_extra=TRAINING,
    )
    from_model: str | None = Field(
        None,
        min_length=1,
        description="start from an earlier run or package: its backbone as trained, with the same labels or others",
        json_schema_extra=MODEL | {"unset": "pretrained weights", "flag": "from", "metavar": "RUN|PACKAGE"},
    )
    backbone: str = Field(DEFAULT_BACKBONE, description="name of a timm model", json_schema_extra=MODEL)
    weights: str = Field(
        "pretrained",
        description="pretrained, a .safetensors file, local-dir:FOLDER, or none for random weights",
        json_schema_extra=MODEL,
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="initial weights of --strategy scratch", json_schema_extra=MODEL
    )
    input_size: int | None = Field(
        None, ge=32, le=1024, description="side of the square network input, in pixels", json_schema_extra=MODEL
    )
    fit: Literal["crop", "squash", "letterbox"] = Field(
        "crop", description="how an image is made square", json_schema_extra=MODEL
    )
    seed: int = Field(0, ge=0, lt=2**32, description="random seed", json_schema_extra=TRAINING)
    device: DeviceSetting = Field(
        "auto",
        description="device that runs the network; auto: a CUDA GPU that works, else the CPU",
        json_schema_extra=MODEL,
    )
    val_share: float = Field(
        DEFAULT_SHARE,
        gt=0,
        lt=0.5,
        description="share of the images for validation, if the data has no validation split",
        json_schema_extra=DATA,
    )
    test_share: float = Field(
        DEFAULT_SHARE,
        gt=0,
        lt=0.5,
        description="share of the images for the test, if the data has no test split",
        json_schema_extra=DATA,
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="folds of cross-validation",
        json_schema_extra=TRAINING | {"unset": "5; 3 to select hyperparameters from 2,000 images up"},
    )
    skip_bad: bool = Field(False, description="exclude unreadable images instead of stopping", json_schema_extra=DATA)
    drop_duplicates: bool = Field(
        False,
        description="exclude leaked images and images with conflicting labels instead of stopping",
        json_schema_extra=DATA,
    )
    precision: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="target precision per label; the report lists the probability thresholds",
        json_schema_extra=OUTPUT,
    )
    coverage: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="coverage of prediction sets: how often they contain the true label",
        json_schema_extra=OUTPUT,
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="largest share of wrong predictions among those that do not abstain",
        json_schema_extra=OUTPUT | {"unset": "the lowest, from 0.01 up, with which 80 % of the images are answered"},
    )
    thumbnails: bool = Field(
        True,
        description="store thumbnails of training images in the package, for the list of similar images",
        json_schema_extra=OUTPUT,
    )
    int8: bool = Field(
        False,
        description="also package a model on the network quantized to int8, with a head of its own, served where it is as good"
        " and faster; needs graft-vision[int8]",
        json_schema_extra=OUTPUT,
    )
    ten_crop: bool = Field(False, description="also evaluate with ten-crop test-time augmentation", json_schema_extra=OUTPUT)
    tracker: Literal["none", "tensorboard", "mlflow"] = Field(
        "none", description="experiment tracker, in addition to metrics.csv", json_schema_extra=OUTPUT
    )
    pixel_cache: float = Field(16, ge=0, le=10_000, description="disk space for cached decoded images, in GiB")

    epochs: int | None = Field(None, gt=0, le=10_000, description="fine-tuning epochs", json_schema_extra=TRAINING)
    search: int | None = Field(
        None,
        gt=0,
        le=10_000,
        description="number of hyperparameter search trials; the best configuration is trained",
        json_schema_extra=TRAINING | {"unset": "no search"},
    )
    batch_size: int | None = Field(None, gt=0, le=65_536, description="fine-tuning batch size", json_schema_extra=TRAINING)
    unfreeze: Literal["last", "all"] | None = Field(None, description="layers to fine-tune", json_schema_extra=TRAINING)
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="optimizer; sgd uses momentum 0.9", json_schema_extra=TRAINING
    )
    head_lr: float | None = Field(None, gt=0, le=10, description="peak learning rate of the head", json_schema_extra=TRAINING)
    backbone_lr: float | None = Field(
        None, gt=0, le=10, description="peak learning rate of the backbone's last layer", json_schema_extra=TRAINING
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="learning rate of the first layer, as a fraction of the last layer's"
    )
    lr_find: bool = Field(False, description="scale the learning rates with a learning-rate range test")
    schedule: Literal["cosine", "plateau"] = Field("cosine", description="learning-rate schedule after warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps used for learning-rate warm-up")
    weight_decay: float | None = Field(None, ge=0, le=10, description="weight decay")
    clip_grad: float = Field(1.0, gt=0, le=1e6, description="maximum gradient norm; larger gradients are clipped")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout probability of the features before the head")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="label smoothing", json_schema_extra={"unset": "0.1"})
    mixup: float | None = Field(None, ge=0, le=10, description="alpha of mixup; 0 turns it off", json_schema_extra=AUGMENTATION)
    cutmix: float | None = Field(
        None, ge=0, le=10, description="alpha of CutMix; 0 turns it off", json_schema_extra=AUGMENTATION
    )
    ema: bool | None = Field(None, description="use an exponential moving average of the weights")
    freeze_bn: bool | None = Field(None, description="freeze the pretrained BatchNorm statistics")
    patience: int = Field(
        4,
        gt=0,
        description="epochs without improvement of the validation loss before early stopping",
        json_schema_extra=TRAINING,
    )
    balance: Literal["none", "weights", "sampling", "logits"] | None = Field(
        None,
        description="learn as if labels were equally frequent; what the probabilities assume depends on --metric alone",
        json_schema_extra=TRAINING,
    )
    augment: Literal["none", "light", "medium", "strong"] | None = Field(
        None, description="augmentation strength", json_schema_extra=AUGMENTATION
    )
    flips: bool = Field(
        True, description="augment with horizontal flips; turn off for digits and text", json_schema_extra=AUGMENTATION
    )
    rotations: bool = Field(True, description="augment with small rotations", json_schema_extra=AUGMENTATION)
    augment_corruptions: tuple[str, ...] = Field(
        (),
        description=f"also augment with these corruptions, separated by commas: {', '.join(AUGMENTABLE_CORRUPTIONS)}",
        json_schema_extra=AUGMENTATION | {"unset": "none", "metavar": "A,B"},
    )

    @field_validator("from_model")
    @classmethod
    def _resolve_model(cls, path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().resolve())  # runs/latest may be another run later

    @field_validator("budget")
    @classmethod
    def _validate_budget(cls, budget: str) -> str:
        parse_duration(budget)
        return budget

    @field_validator("augment_corruptions", mode="before")
    @classmethod
    def _validate_corruptions(cls, names: Any) -> Any:
        if isinstance(names, str):
            return parse_corruption_names(filter(None, names.split(",")))
        return parse_corruption_names(map(str, names)) if isinstance(names, (list, tuple)) else names

    @property
    def budget_s(self) -> float:
        """The budget in seconds."""
        return parse_duration(self.budget)

    @classmethod
    def load(cls, path: Path, overrides: dict[str, Any]) -> "Recipe":
        """Reads a YAML file; options from the command line take precedence.

        Raises:
            ValueError: if the file is not a YAML mapping.
            OptionError: if an option is invalid or does not exist.
        """
        options = read_yaml(path)
        if not isinstance(options, dict):
            raise ValueError(f"{path} is not a recipe: expected lines such as `epochs: 8`.")
        return _validate(options | overrides, path, list(overrides))

    def to_yaml(self) -> str:
        """The recipe as YAML, for `load`."""
        document: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return document

    def save(self, path: Path) -> None:
        """Writes a YAML file for `load`."""
        path.write_text(self.to_yaml(), encoding="utf-8")


def _validate(options: Mapping[str, object], file: Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    try:
        return Recipe.model_validate(options)
    except ValidationError as error:
        raise option_errors.from_validation(error, list(Recipe.model_fields), file, overrides) from None


def option_flag(name: str) -> str:
    """The command-line flag of a field."""
    extra = Recipe.model_fields[name].json_schema_extra
    flag = extra.get("flag", name) if isinstance(extra, dict) else name
    return f"--{str(flag).replace('_', '-')}"


def parse_duration(text: str) -> float:
    """Parses a duration such as `90s`, `10m`, `1h30m` or `1.5h` into seconds.

    Raises:
        ValueError: if it is not a positive duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    total = sum(float(number) * SECONDS_PER_UNIT[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < total < math.inf:
        raise ValueError(f"{text!r} is not a duration; expected a value such as 90s, 10m or 1h30m")
    return total


def resolve_recipe(recipe: Recipe | str | PathLike[str] | None, options: Mapping[str, object]) -> Recipe:
    """A recipe or its YAML file with some options replaced.

    Raises:
        ValueError: if an option does not exist, with the nearest one that does.
        OptionError: if an option is invalid.
    """
    if unknown := next((name for name in options if name not in Recipe.model_fields), None):
        nearest = get_close_matches(unknown, Recipe.model_fields, 1)
        raise ValueError(f"There is no option {unknown!r}.{f' Did you mean {nearest[0]!r}?' if nearest else ''}")
    if recipe is None:
        return _validate(options)
    if isinstance(recipe, Recipe):
        return _validate(recipe.model_dump(exclude_unset=True) | dict(options))
    return Recipe.load(Path(recipe), dict(options))
