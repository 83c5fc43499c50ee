"""`graft inspect`: a backbone by name, or a package -> what its network is, as a table, as JSON, and as a page."""

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


RUNS, ENOUGH_S = 7, 4.0  # how often an image is timed, and the seconds after which fewer will do
WIDTH = 120  # columns of a terminal
SAYS = "sees: pixels that each position can depend on (its square's side); by: from one to the next; from: the first's centre"
RANDOM = "random weights: sizes, operations and time do not depend on them"


@dataclass(frozen=True)
class Inspection:
    """What a network is.

    Attributes:
        name: the backbone's, or the package's folder.
        what: in words: which network, with which weights.
        milliseconds: that torch takes for one image here, in the median.
        engine_milliseconds: that a package's engine does, which is what serves; None for a backbone.
        engine: its device and precision.
    """

    name: str
    what: str
    anatomy: Anatomy
    milliseconds: float
    engine_milliseconds: float | None = None
    engine: str = ""

    def facts(self) -> dict[str, object]:
        """What `--json` prints. Windows and fields are one number where they are squares, else [down, across]."""
        anatomy = self.anatomy
        totals: dict[str, object] = {
            "weights": anatomy.weights,
            "multiply_adds": anatomy.multiply_adds,
            "bytes": anatomy.n_bytes,
            "milliseconds": round(self.milliseconds, 3),
        }
        if self.engine_milliseconds is not None:
            totals |= {"engine_milliseconds": round(self.engine_milliseconds, 3), "engine": self.engine}
        return {
            "name": self.name,
            "what": self.what,
            "input": [*anatomy.image, 3],
            "layers": [_facts(layer, anatomy) for layer in anatomy.layers],
            "totals": totals,
        }


def inspect(subject: str, input_size: int | None = None) -> Inspection:
    """What a package's network is, or a backbone's, of which no weights are needed and none are asked for.

    Args:
        subject: a package's folder, or a backbone's name.
        input_size: of a backbone, in pixels; default: the pretrained size.

    Raises:
        ValueError: if there is no such backbone, or it cannot look at images of that size.
        ArtifactError: if the package is damaged.
    """
    if not (Path(subject).exists() or "/" in subject):
        return _of_backbone(choose(subject, "none"), input_size)
    if input_size is not None:
        raise ValueError(f"--input-size {input_size}: {subject} is a package, which has a size of its own.")
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
        raise BackboneError(f"{choice.name} cannot look at {side} pixels: {reason} Another --input-size may do.") from None
    what = f"{choice.name} with its own classifier; {RANDOM}"
    return Inspection(choice.name, what, _dissected(network, torch.empty(1, 3, side, side)), milliseconds)


def _of_package(path: Path) -> Inspection:
    import torch

    from graft.service.inference import model
    from graft.service.networks import network

    loaded = model.load(path)
    backbone, side = loaded.manifest.backbone, loaded.manifest.preprocessing.crop
    batch, built = torch.zeros(1, side, side, 3, dtype=torch.uint8), network.load(loaded.artifact)
    milliseconds = _timed(built, batch)
    what = f"{backbone.name} ({backbone.weights}) with a head for {len(loaded.manifest.labels)} labels"
    engine = f"{loaded.engine.device}, {loaded.engine.precision}"
    return Inspection(str(path), what, _dissected(built, batch), milliseconds, 1000 * loaded.checked.seconds, engine)


def _dissected(network: "nn.Module", batch: "Tensor") -> Anatomy:
    from graft.training.architecture.tracer import dissect

    return dissect(network.to("meta"), batch.to("meta"))


def _timed(network: "nn.Module", batch: "Tensor") -> float:
    """Milliseconds of one image through torch, in the median of several runs."""
    import torch

    network.eval()
    with torch.inference_mode():
        network(batch)
        return 1000 * _median_seconds(lambda: network(batch))


def _median_seconds(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while len(seconds) < RUNS and sum(seconds) < ENOUGH_S:
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
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
    """A part of a total, from 0 to 1."""
    return round(part / total, 6) if total else 0.0


def operations_share(layer: Layer, anatomy: Anatomy) -> float:
    """A layer's part of the multiply-adds."""
    return share(layer.multiply_adds, anatomy.multiply_adds)


def _number(pair: Sequence[float] | None) -> float | list[float] | None:
    """One number where down and across are alike, as torch takes its windows; else both."""
    if pair is None:
        return None
    down, across = (int(cells) if cells == int(cells) else cells for cells in pair)
    return down if down == across else [down, across]


def side(pair: Sequence[float] | None) -> str:
    """`3` for a square of 3, `1x7` for one row of 7; nothing for nothing."""
    if pair is None:
        return ""
    down, across = pair
    return f"{down:g}" if down == across else f"{down:g}x{across:g}"


def sees(layer: Layer, image: Pair) -> tuple[str, str, str]:
    """A layer's receptive field for a person: its size, its stride, its offset."""
    field = layer.receptive_field
    if field is None:
        return "?", "", ""
    if field.stride == (0, 0):
        return ("all", "", "") if field.size == image else (side(field.size), "", "")
    return side(field.size), side(field.stride), side(field.offset)


def millions(count: int) -> str:
    """Multiply-adds in millions; small ones with the digits that tell them apart."""
    amount = count / 1e6
    return "" if not count else f"{amount:,.1f}" if amount >= 1 else f"{amount:.2g}"


def percent(part: float) -> str:
    """A share in a narrow column: whole percents."""
    return "" if not part else f"{100 * part:.0f}%" if part >= 0.01 else "<1%"


def text(found: Inspection) -> str:
    """The table for a terminal, and what all layers come to."""
    head = ("layer", "kind", "kernel", "stride", "pad", "output", "weights", "", "M mult-adds", "", "sees", "by", "from")
    rows = [head, *(_row(layer, found.anatomy) for layer in found.anatomy.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(head) - 1))
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
    first = row[0] if len(row[0]) <= widths[0] else f"…{row[0][1 - widths[0] :]}"
    named = [f"{first:<{widths[0]}}", f"{row[1]:<{widths[1]}}"]
    return named + [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]


def totals(found: Inspection) -> list[str]:
    """What all layers come to, a fact a line."""
    anatomy = found.anatomy
    size = f"{anatomy.weights:,} weights, {anatomy.n_bytes / 2**20:,.1f} MiB in memory"
    work = f"{anatomy.multiply_adds / 1e6:,.1f} million multiply-adds for an image of {'x'.join(map(str, anatomy.image))}"
    times = f"{found.milliseconds:,.1f} ms an image on this machine with torch"
    if found.engine_milliseconds is not None:
        times += f", {found.engine_milliseconds:,.1f} ms with what serves it ({found.engine})"
    return [size, work, times]
