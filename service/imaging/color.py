"""Converts an 8-bit image of any mode to RGB."""

from PIL import Image

from ..errors import ImageError
from .sample_depth import strips

BACKGROUND = (255, 255, 255)  # white, behind transparent pixels


def to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Converts an image to RGB, on white. Also returns whether every pixel is fully transparent.

    Works on strips of rows, because a conversion takes up to five times the memory of its pixels.
    """
    if image.mode in ("I", "F"):
        raise ImageError("unsupported_mode", "Images with 32-bit channels are not supported: save with 8 or 16 bits.")
    if image.mode == "P" and image.palette is None:
        raise ImageError("corrupt_image", "The image is damaged: it has no palette.")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image, False
    boxes, fully_transparent = strips(image), True
    if len(boxes) == 1:
        return _strip_to_rgb(image)
    rgb = Image.new("RGB", image.size)
    for box in boxes:
        strip, strip_transparent = _strip_to_rgb(image.crop(box))
        rgb.paste(strip, box)
        fully_transparent = fully_transparent and strip_transparent
    return rgb, fully_transparent


def _strip_to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB"), layer.getbbox(alpha_only=True) is None
    return image.convert("RGB"), False
