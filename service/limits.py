"""What a deployment allows: settings, read from the environment once."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from service.preprocess import ImageLimits
from service.schemas import Limit

PREFIX = "GRAFT_"
LATEST = Path("runs/latest/package")
_ELSEWHERE = {"GRAFT_CACHE"}  # training's; not a setting of a deployment


class SettingsError(ValueError):
    """A GRAFT_* variable is wrong; the text says which and how."""


class Settings(BaseModel):
    """Every setting is the environment variable GRAFT_<NAME>, and `/v1/limits` shows them all."""

    model_config = ConfigDict(frozen=True)

    package: Path = Field(default=LATEST, description="the package directory to serve")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the network runs")
    api_key: SecretStr | None = Field(
        default=None, description="what callers must send as a bearer token; none: anyone may ask"
    )
    api_key_file: Path | None = Field(default=None, description="a file that holds the key instead")

    max_body_bytes: int = Field(default=10 * 2**20, gt=0, description="bytes of one request")
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
            name = f"{PREFIX}{str(first['loc'][0]).upper()}"
            raise SettingsError(f"{name}={first['input']}: {first['msg']}.") from None

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, self.max_side, self.max_aspect, self.max_scans)

    def limit(self, name: str) -> Limit:
        """One limit as a caller is shown it."""
        return Limit(name=name, value=getattr(self, name), setting=f"{PREFIX}{name.upper()}")

    def limits(self) -> list[Limit]:
        """Every limit that a request can run into."""
        return [self.limit(name) for name in type(self).model_fields if re.match("max_|.*_deadline_s$", name)]
