"""`graft inspect`: summarizes the network of a backbone or a package as a table, as JSON and for the HTML page."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graft.training.architecture.layers import Anatomy, Layer
from graft.training.architecture.receptive_field import Pair
from graft.training.backbones.registry import BackboneError, Choice, choose

if TYPE_CHECKING:
    from torch import Tensor, nn


RUNS, ENOUGH_S = 7, 4.0  # timed forward passes; fewer once they have taken this many seconds
WIDTH = 120
SAYS = "RF: receptive field (side of a square) of each position, RF stride and RF start (center of the first field), in pixels"
RANDOM = "random weights, because sizes, multiply-adds and time do not depend on them"


@dataclass(frozen=True)
class Inspection:
    """A network's model summary, description and timing.

    Attributes:
        name: the backbone's name, or the package's folder.
        description: which network with which weights.
        milliseconds: median time of one image with torch on this machine.
        engine_milliseconds: time of one image with the package's inference engine, which `graft serve` uses; None for a
            backbone.
        engine: device and precision of that engine.
    """

    name: str
    what: str
    anatomy: Anatomy
    milliseconds: float
    engine_milliseconds: float | None = None
    engine: str = ""

    def facts(self) -> dict[str, object]:
        """The content of `--json`. A square window or field is one number, any other one [height, width]."""
        model_summary = self.anatomy
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
            "what": self.what,
            "input": [*model_summary.image, 3],
            "layers": [_facts(layer, model_summary) for layer in model_summary.layers],
            "totals": totals,
        }


def inspect(subject: str, input_size: int | None = None) -> Inspection:
    """Inspects the network of a package, or of a backbone with random weights, so that nothing is downloaded.

    Args:
        subject: a package's folder, or a backbone's name.
        input_size: for a backbone, in pixels; default: the pretrained size.

    Raises:
        ValueError: if the backbone does not exist or does not accept that input size.
        ArtifactError: if the package is damaged.
    """
    if not (Path(subject).exists() or "/" in subject):
        return _of_backbone(choose(subject, "none"), input_size)
    if input_size is not None:
        raise ValueError(
            f"--input-size {input_size}: {subject} is a package, and its input size is fixed. Leave the option out."
        )
    return _of_package(Path(subject))


def _of_backbone(choice: Choice, side: int | None) -> Inspection:
    import torch

    from graft.training.backbones import pretrained

    network = pretrained.load(choice, side)
    side = side or pretrained.preprocessing(network, None, "crop").crop
    try:
        milliseconds = _timed(network, torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{choice.name} does not accept an input size of {side} pixels: {reason} Try another --input-size."
        ) from None
    description = f"{choice.name} with its original classifier; {RANDOM}"
    return Inspection(choice.name, description, _dissected(network, torch.empty(1, 3, side, side)), milliseconds)


def _of_package(path: Path) -> Inspection:
    import torch

    from graft.service.inference import model
    from graft.service.networks import network

    loaded = model.load(path)
    backbone, side = loaded.manifest.backbone, loaded.manifest.preprocessing.crop
    batch, built = torch.zeros(1, side, side, 3, dtype=torch.uint8), network.load(loaded.artifact)
    milliseconds = _timed(built, batch)
    description = f"{backbone.name} ({backbone.weights}) with a head for {len(loaded.manifest.labels)} labels"
    engine = f"{loaded.engine.device}, {loaded.engine.precision}"
    return Inspection(str(path), description, _dissected(built, batch), milliseconds, 1000 * loaded.checked.seconds, engine)


def _dissected(network: "nn.Module", batch: "Tensor") -> Anatomy:
    from graft.training.architecture.tracer import dissect

    return dissect(network.to("meta"), batch.to("meta"))


def _timed(network: "nn.Module", batch: "Tensor") -> float:
    """The median milliseconds of one image's forward pass in torch."""
    import torch

    network.eval()
    with torch.inference_mode():
        network(batch)
        return 1000 * _median_seconds(lambda: network(batch))


def _median_seconds(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while len(seconds) < RUNS and sum(seconds) < ENOUGH_S:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _facts(layer: Layer, anatomy: Anatomy) -> dict[str, object]:
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
        "share": {"weights": share(layer.weights, anatomy.weights), "multiply_adds": operations_share(layer, anatomy)},
    }


def share(part: int, total: int) -> float:
    """A part of a total, in [0, 1]."""
    return round(part / total, 6) if total else 0.0


def operations_share(layer: Layer, anatomy: Anatomy) -> float:
    """A layer's share of the multiply-adds."""
    return share(layer.multiply_adds, anatomy.multiply_adds)


def _number(pair: Sequence[float] | None) -> float | list[float] | None:
    """One number if height and width are equal, as in torch's arguments; else both."""
    if pair is None:
        return None
    height, width = (int(cells) if cells == int(cells) else cells for cells in pair)
    return height if height == width else [height, width]


def side(pair: Sequence[float] | None) -> str:
    """Formats (3, 3) as `3` and (1, 7) as `1x7`; None as an empty string."""
    if pair is None:
        return ""
    height, width = pair
    return f"{height:g}" if height == width else f"{height:g}x{width:g}"


def sees(layer: Layer, image: Pair) -> tuple[str, str, str]:
    """A layer's receptive field as text: size, stride and offset."""
    field = layer.receptive_field
    if field is None:
        return "?", "", ""
    if field.stride == (0, 0):
        return ("all", "", "") if field.size == image else (side(field.size), "", "")
    return side(field.size), side(field.stride), side(field.offset)


def millions(count: int) -> str:
    """Multiply-adds in millions; small numbers with two significant digits."""
    amount = count / 1e6
    return "" if not count else f"{amount:,.1f}" if amount >= 1 else f"{amount:.2g}"


def percent(part: float) -> str:
    """A fraction as whole percent, for a narrow column."""
    return "" if not part else f"{100 * part:.0f}%" if part >= 0.01 else "<1%"


def text(found: Inspection) -> str:
    """The layer table and the totals, for the terminal."""
    header = (
        "layer",
        "kind",
        "kernel",
        "stride",
        "pad",
        "output",
        "weights",
        "",
        "M mult-adds",
        "",
        "RF",
        "RF stride",
        "RF start",
    )
    rows = [header, *(_row(layer, found.anatomy) for layer in found.anatomy.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(header) - 1))
    lines = ["  ".join(_cells(row, widths)).rstrip() for row in rows]
    return "\n".join([f"{found.name}: {found.what}", "", *lines, "", SAYS, *totals(found)])


def _row(layer: Layer, anatomy: Anatomy) -> tuple[str, ...]:
    weights = f"{layer.weights:,}" if layer.weights else ""
    return (
        layer.name,
        layer.kind,
        side(layer.kernel),
        side(layer.stride),
        side(layer.padding),
        "x".join(map(str, layer.output)) if all(layer.output) else "",
        weights,
        percent(share(layer.weights, anatomy.weights)),
        millions(layer.multiply_adds),
        percent(operations_share(layer, anatomy)),
        *sees(layer, anatomy.image),
    )


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    name = row[0] if len(row[0]) <= widths[0] else f"…{row[0][1 - widths[0] :]}"
    left_aligned = [f"{name:<{widths[0]}}", f"{row[1]:<{widths[1]}}"]
    return left_aligned + [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]


def totals(found: Inspection) -> list[str]:
    """The totals over all layers, one per line."""
    model_summary = found.anatomy
    size = f"{model_summary.weights:,} weights, {model_summary.n_bytes / 2**20:,.1f} MiB in memory"
    image_size = "x".join(map(str, model_summary.image))
    compute = f"{model_summary.multiply_adds / 1e6:,.1f} million multiply-adds per image of {image_size} pixels"
    latency = f"{found.milliseconds:,.1f} ms per image on this machine with torch"
    if found.engine_milliseconds is not None:
        latency += f", {found.engine_milliseconds:,.1f} ms with the inference engine ({found.engine})"
    return [size, compute, latency]
