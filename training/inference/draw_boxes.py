"""Draws labeled bounding boxes on an image, legible on any background."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from graft.training.inference.detector import Box

MIN_SIDE, MAX_SIDE = 640, 1600  # pixels: minimum and maximum of the longer side of the drawing
# The color-blind-safe palette of Okabe and Ito; the second of each pair is the color of text on the first.
PALETTE = (
    ("#e69f00", "black"),
    ("#56b4e9", "black"),
    ("#009e73", "white"),
    ("#f0e442", "black"),
    ("#0072b2", "white"),
    ("#d55e00", "white"),
    ("#cc79a7", "black"),
)


def draw_boxes(image: Image.Image, size: tuple[int, int], boxes: Sequence[Box], labels: Sequence[str]) -> bytes:
    """Returns a PNG of an image with its boxes; small images are enlarged to make room for the labels.

    Args:
        size: width and height of the image that the box coordinates refer to.
        labels: all labels of the model, so that a label has the same color in every image.
    """
    scale = min(max(MIN_SIDE, *image.size), MAX_SIDE) / max(image.size)
    width, height = (max(1, round(scale * length)) for length in image.size)
    canvas = image.resize((width, height), Image.Resampling.LANCZOS if scale < 4 else Image.Resampling.NEAREST)
    draw, line_width = ImageDraw.Draw(canvas), max(2, round(max(canvas.size) / 300))
    font = ImageFont.load_default(max(14, round(max(canvas.size) / 45)))
    ratio = (width / size[0], height / size[1])
    for box in reversed(boxes):  # the best one on top
        left, top, right, bottom = (edge * ratio[index % 2] for index, edge in enumerate(box.box))
        color, text_color = PALETTE[labels.index(box.label) % len(PALETTE)]
        # A dark line on both sides makes the color visible on any background.
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=line_width + 2)
        draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=color, width=line_width)
        _draw_label(draw, f"{box.label} {box.probability:.0%}", (left, top), canvas.size, font, (color, text_color))
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    size: tuple[int, int],
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
    colors: tuple[str, str],
) -> None:
    """Draws text on a filled rectangle above a box's top left corner, or inside the box if there is no room above."""
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    padding = round(0.3 * height)
    left = min(max(0.0, corner[0]), max(0.0, size[0] - width - 2 * padding))
    top = corner[1] - height - padding if corner[1] >= height + padding else corner[1]
    draw.rectangle((left, top, left + width + 2 * padding, top + height + padding), fill=colors[0], outline="black")
    draw.text((left + padding, top + padding // 2), text, fill=colors[1], font=font)
