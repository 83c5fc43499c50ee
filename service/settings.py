"""Deployment settings, read from the environment once."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from .fidelity import Precision
from .imaging.formats import ALWAYS_SERVED, FORMATS, INSTALLED, ImageFormat
from .imaging.headers import ImageLimits
from .key_file import check_key, read_keys
from .validation_errors import problems


class Limit(BaseModel):
    name: str
    value: int | float
    setting: str = Field(description="the environment variable that sets it")


ENV_PREFIX = "GRAFT_"
DeviceSetting = Literal["auto", "cpu", "cuda"]
LATEST_PACKAGE = Path("runs/latest/package")
BENTO_PACKAGE = Path("runs/latest-package")  # the same package in a Bento: the Bento builder does not follow links
PROJECT_ROOT = Path(__file__).parent.parent  # the directory that contains the code
_NON_SERVICE_VARIABLES = {"GRAFT_CACHE"}  # used by training, not by a deployment
ANY = "*"
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class SettingsError(ValueError):
    """A GRAFT_* variable is invalid; the message names it and the reason."""


def _split_list(value: object) -> object:
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


def _to_origin(text: str) -> str:
    """An origin as browsers write it: lower case, without the default port or a final slash."""
    if text == ANY:
        return text
    if text == "null":
        raise ValueError("null stands for local files and for every sandboxed page; allow all origins with *")
    origin = text.lower().removesuffix("/")
    if not (match := _ORIGIN.fullmatch(origin)):
        raise ValueError(f"{text!r} is not an origin, such as https://app.example.com or http://localhost:5173")
    return origin.removesuffix(_DEFAULT_PORTS.get(match["scheme"], "/"))


def _to_host(text: str) -> str:
    if text != ANY and not re.fullmatch(r"[a-z0-9_.-]{1,253}", text.lower()):
        raise ValueError(f"{text!r} is not a host name without a scheme and a port, such as birds.example.com")
    return text.lower()


def _to_root_path(text: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+){0,20}/?", text) or "/." in text:
        raise ValueError("must be a path, such as /models/birds")
    return text.removesuffix("/")


def _to_sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", digest := text.strip().lower()):
        raise ValueError("must be 64 hexadecimal digits, as `graft verify` prints them")
    return digest


Origins = Annotated[tuple[Annotated[str, AfterValidator(_to_origin)], ...], BeforeValidator(_split_list)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_to_host)], ...], BeforeValidator(_split_list)]
PackageSha256 = Annotated[str, AfterValidator(_to_sha256)]
RootPath = Annotated[str, AfterValidator(_to_root_path)]


def default_package() -> Path:
    """The package to serve by default: in a Bento, the bundled one; elsewhere, the latest run's."""
    is_bento = (PROJECT_ROOT.parent / "bento.yaml").is_file()
    return PROJECT_ROOT / BENTO_PACKAGE if is_bento else LATEST_PACKAGE


class Settings(BaseModel):
    """Each field is read from the environment variable GRAFT_<NAME>. `/v1/limits` lists the limits."""

    model_config = ConfigDict(frozen=True)

    package: Path = Field(default_factory=default_package, description="the package directory to serve")
    package_sha256: PackageSha256 | None = Field(
        default=None,
        description="the sha256 that the package must have, as `graft verify` prints it; not set: any package is served",
        json_schema_extra={"unset": "any"},
    )
    device: DeviceSetting = Field(default="auto", description="device for inference")
    precision: Precision | Literal["auto"] = Field(
        default="auto", description="precision of inference; auto: the fastest that predicts as well as f32"
    )
    api_key: SecretStr | None = Field(
        default=None, description="bearer token that clients must send; not set: no authentication"
    )
    api_key_file: Path | None = Field(
        default=None,
        description="file of API keys, one on each line, instead of GRAFT_API_KEY; read again when it changes",
    )
    metrics_key_file: Path | None = Field(
        default=None, description="the same for keys that open only /metrics, which the API keys open too"
    )
    metrics_public: bool = Field(default=False, description="whether /metrics needs no key")
    cors_origins: Origins = Field(
        default=(),
        description="origins whose web pages may call the service: https://app.example.com; several with commas; *: any",
        json_schema_extra={"unset": "none"},
    )
    allowed_hosts: Hosts = Field(
        default=(),
        description="host names by which a service without a key can be called on a loopback address, besides localhost, IP"
        " addresses and names without a dot; several with commas; *: any",
        json_schema_extra={"unset": "none"},
    )
    root_path: RootPath | None = Field(
        default=None,
        description="path prefix that a proxy leaves on the requests, such as /models/birds",
        json_schema_extra={"unset": "none"},
    )
    tracing: bool = Field(
        default=False, description="whether to trace requests with BentoML's OpenTelemetry integration, as configured there"
    )
    log_requests: bool = Field(default=True, description="whether to log every request")

    formats: str = Field(
        default="auto",
        description="image formats to accept, such as jpeg,png,tiff; auto: JPEG, PNG, WebP, GIF, BMP, and those of the training"
        " images",
    )
    max_body_bytes: int = Field(default=10 * 2**20, gt=0, description="bytes in the body of one request")
    max_upload_bytes: int = Field(default=256 * 2**20, gt=0, description="bytes of all request bodies in memory at one time")
    max_header_bytes: int = Field(
        default=32 * 2**10, gt=0, description="bytes in the headers of one request, and in the trailers of a chunked body"
    )
    max_connections: int = Field(
        default=4096,
        gt=0,
        description="open connections; one more takes the place of the client that has kept the service waiting longest",
    )
    max_unsent_bytes: int = Field(
        default=64 * 2**20, gt=0, description="bytes of all responses that clients have not read; above, the oldest are dropped"
    )
    max_pixels: int = Field(default=ImageLimits.max_pixels, gt=0, description="pixels of one image: width times height")
    max_side: int = Field(default=ImageLimits.max_side, gt=0, description="pixels on the longer side of an image")
    max_aspect: int = Field(
        default=ImageLimits.max_aspect, ge=1, description="aspect ratio of an image: longer side divided by shorter side"
    )
    max_scans: int = Field(default=ImageLimits.max_scans, ge=1, description="scans in one progressive JPEG")
    max_scan_pixels: int = Field(
        default=ImageLimits.max_scan_pixels, gt=0, description="pixels of one progressive JPEG, counted in every scan"
    )
    max_decode_bytes: int = Field(default=2**30, ge=2**26, description="bytes of memory to decode one image")
    max_waiting: int = Field(default=128, gt=0, description="images in the queue; further requests are rejected")
    max_explanations: int = Field(default=4, gt=0, description="explanations queued or in progress")
    max_batch_images: int = Field(default=16, gt=0, description="images in one request to /v1/classify/batch")
    header_deadline_s: float = Field(
        default=10, gt=0, allow_inf_nan=False, description="seconds to receive the headers of a request"
    )
    read_deadline_s: float = Field(
        default=20, gt=0, allow_inf_nan=False, description="seconds to receive the body of a request"
    )
    write_deadline_s: float = Field(
        default=20, gt=0, allow_inf_nan=False, description="seconds that a client has to read a response"
    )
    queue_deadline_s: float = Field(default=5, gt=0, allow_inf_nan=False, description="seconds an image may wait in the queue")
    decode_deadline_s: float = Field(
        default=5,
        gt=0,
        allow_inf_nan=False,
        description="seconds to decode one image; one that is costly to decode has GRAFT_ANSWER_DEADLINE_S",
    )
    answer_deadline_s: float = Field(
        default=15, gt=0, allow_inf_nan=False, description="seconds from the upload to the response"
    )
    drain_deadline_s: float = Field(
        default=15, gt=0, allow_inf_nan=False, description="seconds to finish accepted requests at shutdown"
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Reads the settings from environment variables. Raises SettingsError for an unknown name or an invalid value."""
        values = {
            name.removeprefix(ENV_PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(ENV_PREFIX) and name not in _NON_SERVICE_VARIABLES
        }
        for name in values:
            if name not in cls.model_fields:
                matches = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f" Did you mean {ENV_PREFIX}{matches[0].upper()}?" if matches else ""
                raise SettingsError(f"{ENV_PREFIX}{name.upper()} is not a setting of Graft.{hint}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = problems(error)[0]
            if not first.name:  # an error of several settings, such as the key; do not print their values
                raise SettingsError(f"{first.reason}.") from None
            raise SettingsError(f"{ENV_PREFIX}{first.name.upper()}={first.value}: {first.reason}.") from None

    @model_validator(mode="after")
    def _check_keys(self) -> "Settings":
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("GRAFT_API_KEY and GRAFT_API_KEY_FILE are both set; set only one")
        if self.metrics_key_file is not None and self.metrics_public:
            raise ValueError("GRAFT_METRICS_KEY_FILE and GRAFT_METRICS_PUBLIC are both set; set only one")
        if self.metrics_key_file is not None and not self.needs_key:
            raise ValueError("GRAFT_METRICS_KEY_FILE needs an API key: without one, every route is open")
        if self.api_key is not None:
            check_key(self.api_key.get_secret_value(), "the API key")
        for path in (self.api_key_file, self.metrics_key_file):
            if path is not None:
                read_keys(path)
        return self

    @model_validator(mode="after")
    def _check_formats(self) -> "Settings":
        missing = [selected.package for selected in self._selected_formats() if not selected.installed]
        if missing:
            raise ValueError(f"GRAFT_FORMATS={self.formats} needs {' and '.join(missing)}")
        return self

    def accepted_formats(self, trained: Collection[str]) -> tuple[str, ...]:
        """Pillow's names of the formats that the service accepts.

        Args:
            trained: those of the training images.
        """
        if self.formats != "auto":
            return tuple(selected.name for selected in self._selected_formats())
        return tuple(name for name in INSTALLED if name in ALWAYS_SERVED or name in trained)

    def _selected_formats(self) -> list[ImageFormat]:
        """The formats that the setting names. Raises ValueError for an unknown name."""
        if self.formats == "auto":
            return []
        by_label = {image_format.label.lower(): image_format for image_format in FORMATS}
        names = [name.strip().lower() for name in self.formats.split(",")]
        if unknown := [name for name in names if name not in by_label]:
            raise ValueError(f"GRAFT_FORMATS={self.formats}: {unknown[0]!r} is none of {', '.join(by_label)}")
        return [by_label[name] for name in names]

    @property
    def needs_key(self) -> bool:
        """Whether callers must send a key."""
        return self.api_key is not None or self.api_key_file is not None

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, self.max_side, self.max_aspect, self.max_scans, self.max_scan_pixels)

    def limit(self, name: str) -> Limit:
        """One limit, as shown to clients."""
        return Limit(name=name, value=getattr(self, name), setting=f"{ENV_PREFIX}{name.upper()}")

    def limits(self) -> list[Limit]:
        """All limits that apply to a request."""
        return [self.limit(name) for name in type(self).model_fields if re.match("max_|.*_deadline_s$", name)]
