"""What a deployment allows: settings, read from the environment once."""

import difflib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from .artifact import Precision
from .imaging.preprocess import ImageLimits


class Limit(BaseModel):
    name: str
    value: int | float
    setting: str = Field(description="the environment variable that changes it")


PREFIX = "GRAFT_"
LATEST = Path("runs/latest/package")
PACKED = Path("runs/latest-package")  # the same, for builders, which follow no links
HOME = Path(__file__).parent.parent  # of the code
SHORTEST_KEY = 16  # characters; a shorter one can be guessed
_ELSEWHERE = {"GRAFT_CACHE"}  # training's; not a setting of a deployment


class SettingsError(ValueError):
    """A GRAFT_* variable is wrong; the text says which and how."""


def usual_package() -> Path:
    """What is served unless told: in a Bento the package that was built into it, elsewhere the newest run's."""
    in_a_bento = (HOME.parent / "bento.yaml").is_file()
    return HOME / PACKED if in_a_bento else LATEST


class Settings(BaseModel):
    """Every setting is the environment variable GRAFT_<NAME>, and `/v1/limits` shows them all."""

    model_config = ConfigDict(frozen=True)

    package: Path = Field(default_factory=usual_package, description="the package directory to serve")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the network runs")
    precision: Precision | Literal["auto"] = Field(
        default="auto", description="what the network computes in; auto: the fastest that changes no answer"
    )
    api_key: SecretStr | None = Field(
        default=None, description="what callers must send as a bearer token; none: anyone may ask"
    )
    api_key_file: Path | None = Field(default=None, description="a file that holds the key instead")
    tracing: bool = Field(default=False, description="whether requests pass BentoML's OpenTelemetry, as its configuration says")
    log_requests: bool = Field(default=True, description="whether every request gets a line in the log")

    max_body_bytes: int = Field(default=10 * 2**20, gt=0, description="bytes of one request")
    max_upload_bytes: int = Field(default=256 * 2**20, gt=0, description="bytes of all requests that are in memory together")
    max_header_bytes: int = Field(default=32 * 2**10, gt=0, description="bytes of one request's headers")
    max_pixels: int = Field(default=ImageLimits.max_pixels, gt=0, description="width times height of one image")
    max_side: int = Field(default=ImageLimits.max_side, gt=0, description="pixels of an image's longer side")
    max_aspect: int = Field(default=ImageLimits.max_aspect, ge=1, description="longer side over shorter side")
    max_scans: int = Field(default=ImageLimits.max_scans, ge=1, description="passes over the picture that one JPEG makes")
    max_decode_bytes: int = Field(default=2**30, ge=2**26, description="memory that decoding one image may take")
    max_waiting: int = Field(default=128, gt=0, description="images in the queue before callers are sent away")
    max_explanations: int = Field(default=4, gt=0, description="explanations waiting or being made")
    max_batch_images: int = Field(default=16, gt=0, description="images of one request to /v1/classify/batch")
    header_deadline_s: float = Field(
        default=10, gt=0, allow_inf_nan=False, description="seconds until a request's headers are in"
    )
    read_deadline_s: float = Field(default=20, gt=0, allow_inf_nan=False, description="seconds an upload may take")
    queue_deadline_s: float = Field(default=5, gt=0, allow_inf_nan=False, description="seconds an image may wait")
    decode_deadline_s: float = Field(
        default=5, gt=0, allow_inf_nan=False, description="seconds that decoding one image may take"
    )
    answer_deadline_s: float = Field(default=15, gt=0, allow_inf_nan=False, description="seconds from upload to answer")
    drain_deadline_s: float = Field(
        default=15, gt=0, allow_inf_nan=False, description="seconds that what was accepted gets at a stop"
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """The settings in an environment. Raises SettingsError for an unknown name or an impossible value."""
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and name not in _ELSEWHERE
        }
        for name in given:
            if name not in cls.model_fields:
                close = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f" Did you mean {PREFIX}{close[0].upper()}?" if close else ""
                raise SettingsError(f"{PREFIX}{name.upper()} is not a setting of Graft.{hint}")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # about several settings at once, such as the key's, whose values are not to be shown
                raise SettingsError(f"{first['msg'].removeprefix('Value error, ')}.") from None
            name = f"{PREFIX}{str(first['loc'][0]).upper()}"
            raise SettingsError(f"{name}={first['input']}: {first['msg']}.") from None

    @model_validator(mode="after")
    def _one_key(self) -> "Settings":
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("GRAFT_API_KEY and GRAFT_API_KEY_FILE are both set; which one counts")
        if self.key is not None and len(self.key) < SHORTEST_KEY:
            raise ValueError(f"the key must have at least {SHORTEST_KEY} characters; try: openssl rand -hex 32")
        return self

    @cached_property
    def key(self) -> str | None:
        """What callers must send; None if anyone may ask. Raises ValueError if its file cannot be read."""
        if self.api_key_file is None:
            return self.api_key.get_secret_value() if self.api_key is not None else None
        try:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.api_key_file} cannot be read: {error}") from None

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, self.max_side, self.max_aspect, self.max_scans)

    def limit(self, name: str) -> Limit:
        """One limit as a caller is shown it."""
        return Limit(name=name, value=getattr(self, name), setting=f"{PREFIX}{name.upper()}")

    def limits(self) -> list[Limit]:
        """Every limit that a request can run into."""
        return [self.limit(name) for name in type(self).model_fields if re.match("max_|.*_deadline_s$", name)]
