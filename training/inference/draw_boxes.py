"""Boxes on a picture, with labels that can be read on any image."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from graft.training.inference.detector import Box

LEAST, MOST = 640, 1600  # pixels of the longer side of the picture that is drawn on
# Okabe and Ito's, told apart by every kind of eye; the second half of each pair is the colour of text on it.
COLOURS = (
    ("#e69f00", "black"),
    ("#56b4e9", "black"),
    ("#009e73", "white"),
    ("#f0e442", "black"),
    ("#0072b2", "white"),
    ("#d55e00", "white"),
    ("#cc79a7", "black"),
)


def marked(picture: Image.Image, size: tuple[int, int], boxes: Sequence[Box], labels: Sequence[str]) -> bytes:
    """A PNG of a picture with its boxes; small pictures are enlarged, so that there is room for the words.

    Args:
        size: width and height that the boxes are measured in.
        labels: all that there are; a label has the same colour in every picture.
    """
    scale = min(max(LEAST, *picture.size), MOST) / max(picture.size)
    across, down = (max(1, round(scale * length)) for length in picture.size)
    canvas = picture.resize((across, down), Image.Resampling.LANCZOS if scale < 4 else Image.Resampling.NEAREST)
    draw, thick = ImageDraw.Draw(canvas), max(2, round(max(canvas.size) / 300))
    font = ImageFont.load_default(max(14, round(max(canvas.size) / 45)))
    ratio = (across / size[0], down / size[1])
    for box in reversed(boxes):  # the clearest on top
        left, top, right, bottom = (length * ratio[side % 2] for side, length in enumerate(box.box))
        colour, ink = COLOURS[labels.index(box.label) % len(COLOURS)]
        # A dark line on either side: on one of them the colour stands out, whatever the picture.
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=thick + 2)
        draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=colour, width=thick)
        _plaque(draw, f"{box.label} {box.probability:.0%}", (left, top), canvas.size, font, (colour, ink))
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()


def _plaque(
    draw: ImageDraw.ImageDraw,
    words: str,
    corner: tuple[float, float],
    size: tuple[int, int],
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
    colours: tuple[str, str],
) -> None:
    """Words on a filled rectangle above a box's corner, or inside the box where there is no room above."""
    _, _, wide, high = draw.textbbox((0, 0), words, font=font)
    room = round(0.3 * high)
    left = min(max(0.0, corner[0]), max(0.0, size[0] - wide - 2 * room))
    top = corner[1] - high - room if corner[1] >= high + room else corner[1]
    draw.rectangle((left, top, left + wide + 2 * room, top + high + room), fill=colours[0], outline="black")
    draw.text((left + room, top + room // 2), words, fill=colours[1], font=font)
