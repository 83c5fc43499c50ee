"""`graft inspect`: summarizes the network of a backbone or a package, for the terminal, as JSON and for the HTML page."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.service.inference.devices import Device, resolve_device
from graft.service.settings import DeviceSetting
from graft.training.architecture.layers import Layer, ModelSummary
from graft.training.architecture.receptive_field import Pair
from graft.training.backbones.registry import BackboneError, BackboneSpec, resolve
from graft.training.runtime import gpu

if TYPE_CHECKING:
    from torch import Tensor, nn


TIMING_RUNS, MAX_TIMING_S = 7, 4.0  # timed forward passes; fewer once they have taken this many seconds
RECEPTIVE_FIELD_NOTE = (
    "RF: receptive field (side of a square) of each position, RF stride and RF start (center of the first field), in pixels"
)
RANDOM_WEIGHTS_NOTE = "random weights, because sizes, multiply-adds and time do not depend on them"


@dataclass(frozen=True)
class Inspection:
    """A network's model summary, description and timing.

    Attributes:
        name: the backbone's name, or the package's folder.
        description: which network with which weights.
        milliseconds: median time of one image with torch on the device.
        engine_milliseconds: time of one image with the package's inference engine, which `graft serve` uses; None for a
            backbone.
        engine: device and precision of that engine.
    """

    name: str
    description: str
    model_summary: ModelSummary
    milliseconds: float
    engine_milliseconds: float | None = None
    engine: str = ""

    def to_dict(self) -> dict[str, object]:
        """The content of `--json`. A square window or field is one number, any other one [height, width]."""
        model_summary = self.model_summary
        totals: dict[str, object] = {
            "weights": model_summary.weights,
            "multiply_adds": model_summary.multiply_adds,
            "bytes": model_summary.n_bytes,
            "milliseconds": round(self.milliseconds, 3),
        }
        if self.engine_milliseconds is not None:
            totals |= {"engine_milliseconds": round(self.engine_milliseconds, 3), "engine": self.engine}
        return {
            "name": self.name,
            "what": self.description,
            "input": [*model_summary.image_size, 3],
            "layers": [_layer_to_dict(layer, model_summary) for layer in model_summary.layers],
            "totals": totals,
        }


def inspect(subject: str, input_size: int | None = None, device: DeviceSetting = "auto") -> Inspection:
    """Inspects the network of a package, or of a backbone with random weights, so that nothing is downloaded.

    Args:
        subject: a package's folder, or a backbone's name.
        input_size: for a backbone, in pixels; default: the pretrained size.
        device: on which the time is measured.

    Raises:
        ValueError: if the backbone does not exist or does not accept that input size, or the device cannot be used.
        ArtifactError: if the package is damaged.
    """
    if not (Path(subject).exists() or "/" in subject):
        return _inspect_backbone(resolve(subject, "none"), input_size, resolve_device(device))
    if input_size is not None:
        raise ValueError(
            f"--input-size {input_size}: {subject} is a package, and its input size is fixed. Leave the option out."
        )
    return _inspect_package(Path(subject), resolve_device(device))


def _inspect_backbone(choice: BackboneSpec, side: int | None, device: Device) -> Inspection:
    import torch

    from graft.training.backbones import pretrained

    network = pretrained.load(choice, side)
    side = side or pretrained.preprocessing(network, None, "crop").crop
    try:
        milliseconds = _time_forward(network, torch.zeros(1, 3, side, side), device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{choice.name} does not accept an input size of {side} pixels: {reason} Try another --input-size."
        ) from None
    description = f"{choice.name} with its original classifier; {RANDOM_WEIGHTS_NOTE}"
    return Inspection(choice.name, description, _summarize(network, torch.empty(1, 3, side, side)), milliseconds)


def _inspect_package(path: Path, device: Device) -> Inspection:
    import torch

    from graft.service.inference import engine_speed, model
    from graft.service.networks import network

    loaded = model.load(path, device)
    loaded.compile_for_latency()
    backbone, side = loaded.manifest.backbone, loaded.manifest.preprocessing.crop
    batch, built = torch.zeros(1, side, side, 3, dtype=torch.uint8), network.load(loaded.artifact)
    milliseconds = _time_forward(built, batch, device)
    description = f"{backbone.name} ({backbone.weights}) with a head for {len(loaded.manifest.labels)} labels"
    engine = f"{loaded.engine.device}, {loaded.engine.precision}"
    engine_milliseconds = 1e3 * engine_speed.latency(loaded.engine, side)
    return Inspection(str(path), description, _summarize(built, batch), milliseconds, engine_milliseconds, engine)


def _summarize(network: "nn.Module", batch: "Tensor") -> ModelSummary:
    from graft.training.architecture.tracer import trace_layers

    return trace_layers(network.to("meta"), batch.to("meta"))


def _time_forward(network: "nn.Module", batch: "Tensor", device: Device) -> float:
    """The median milliseconds of one image's forward pass in torch on a device."""
    import torch

    network.eval().to(device)
    batch = batch.to(device)

    def run() -> None:
        network(batch)
        gpu.synchronize(device)

    with torch.inference_mode():
        run()
        return 1000 * _median_seconds(run)


def _median_seconds(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while len(seconds) < TIMING_RUNS and sum(seconds) < MAX_TIMING_S:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _layer_to_dict(layer: Layer, model_summary: ModelSummary) -> dict[str, object]:
    field = layer.receptive_field
    return {
        "name": layer.name,
        "kind": layer.kind,
        "kernel": _number(layer.kernel),
        "stride": _number(layer.stride),
        "padding": _number(layer.padding),
        "output": layer.output,
        "weights": layer.weights,
        "multiply_adds": layer.multiply_adds,
        "receptive_field": field and _number(field.size),
        "receptive_field_stride": field and _number(field.stride),
        "receptive_field_offset": field and _number(field.offset),
        "share": {
            "weights": share(layer.weights, model_summary.weights),
            "multiply_adds": operations_share(layer, model_summary),
        },
    }


def share(part: int, total: int) -> float:
    """A part of a total, in [0, 1]."""
    return round(part / total, 6) if total else 0.0


def operations_share(layer: Layer, model_summary: ModelSummary) -> float:
    """A layer's share of the multiply-adds."""
    return share(layer.multiply_adds, model_summary.multiply_adds)


def _number(pair: Sequence[float] | None) -> float | list[float] | None:
    """One number if height and width are equal, as in torch's arguments; else both."""
    if pair is None:
        return None
    height, width = (int(cells) if cells == int(cells) else cells for cells in pair)
    return height if height == width else [height, width]


def format_pair(pair: Sequence[float] | None) -> str:
    """Formats (3, 3) as `3` and (1, 7) as `1x7`; None as an empty string."""
    if pair is None:
        return ""
    height, width = pair
    return f"{height:g}" if height == width else f"{height:g}x{width:g}"


def receptive_field_text(layer: Layer, image_size: Pair) -> tuple[str, str, str]:
    """A layer's receptive field as text: size, stride and offset."""
    field = layer.receptive_field
    if field is None:
        return "?", "", ""
    if field.stride == (0, 0):
        return ("all", "", "") if field.size == image_size else (format_pair(field.size), "", "")
    return format_pair(field.size), format_pair(field.stride), format_pair(field.offset)


def millions(count: int) -> str:
    """Multiply-adds in millions; small numbers with two significant digits."""
    amount = count / 1e6
    return "" if not count else f"{amount:,.1f}" if amount >= 1 else f"{amount:.2g}"


def percent(part: float) -> str:
    """A fraction as whole percent, for a narrow column."""
    return "" if not part else f"{100 * part:.0f}%" if part >= 0.01 else "<1%"


def total_lines(inspection: Inspection) -> list[str]:
    """The totals over all layers, one per line."""
    model_summary = inspection.model_summary
    size = f"{model_summary.weights:,} weights, {model_summary.n_bytes / 2**20:,.1f} MiB in memory"
    image_size = "x".join(map(str, model_summary.image_size))
    compute = f"{model_summary.multiply_adds / 1e6:,.1f} million multiply-adds per image of {image_size} pixels"
    latency = f"{inspection.milliseconds:,.1f} ms per image on this machine with torch"
    if inspection.engine_milliseconds is not None:
        latency += f", {inspection.engine_milliseconds:,.1f} ms with the inference engine ({inspection.engine})"
    return [size, compute, latency]
