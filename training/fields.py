"""The layers of a network -> which pixels each stage's positions see. No torch."""

from collections.abc import Mapping

from training.anatomy import Anatomy, Layer
from training.receptive import ReceptiveField

Shape = tuple[int, ...]  # of a map: channels, height, width


def fields(anatomy: Anatomy, modules: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, ReceptiveField]:
    """The receptive field of each stage's map; stages of which it is not known are left out.

    Where branches meet, as behind a shortcut, that of the branch that sees most.

    Args:
        modules: by stage, the name of the module that says it; "" for one that the whole network says.
        shapes: of each stage's map.
    """
    found = {stage: _widest(anatomy, modules.get(stage, ""), shape) for stage, shape in shapes.items()}
    return {stage: field for stage, field in found.items() if field is not None}


def _widest(anatomy: Anatomy, module: str, shape: Shape) -> ReceptiveField | None:
    saying = [layer for layer in anatomy.layers if _says(layer, shape)]
    # A stage that ends in a module without layers, as VGG's in a ReLU, is the end of what has its shape.
    inside = [layer for layer in saying if _within(layer, module)] or saying
    known = [layer.receptive_field for layer in inside if layer.receptive_field is not None]
    return max(known, key=lambda field: field.size) if inside and len(known) == len(inside) else None


def _within(layer: Layer, module: str) -> bool:
    return not module or f"{layer.name}.".startswith(f"{module}.")


def _says(layer: Layer, shape: Shape) -> bool:
    """Whether a layer's output is a map of that shape, or as many tokens of that width, one of their own perhaps among them."""
    depth, tall, wide = shape
    return layer.output == (tall, wide, depth) or (
        layer.output[1:] == (1, depth) and layer.output[0] - tall * wide in (0, 1, 2)
    )
