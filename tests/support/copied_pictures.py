"""Pictures of random shapes with the detail of a photo, and copies of them as people make them."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps


def picture(seed: int, width: int = 192, height: int = 144) -> Image.Image:
    """Random shapes of random colors, with a little noise."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = random.uniform(-0.1, 1, 2) * (width, height)
        w, h = random.uniform(0.04, 0.3, 2) * (width, height)
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(random.integers(0, 256, 3).tolist()))
    noisy = np.asarray(image) + random.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def crop(image: Image.Image, share: float) -> Image.Image:
    """Without this share of each side."""
    x, y = round(share * image.width), round(share * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


def watermark(image: Image.Image) -> Image.Image:
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    for share in (0.3, 0.6):
        ImageDraw.Draw(layer).text((0.1 * image.width, share * image.height), "SAMPLE (C)", (255, 255, 255, 150), font_size=20)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again": lambda image: Image.open(io.BytesIO(jpeg(image, 60))),
    "half the size": lambda image: image.resize((image.width // 2 + 8, image.height // 2 + 24), Image.Resampling.LANCZOS),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(0.8)),
    "cropped": lambda image: crop(image, 0.025),
    "cropped on one side": lambda image: image.crop((0, 0, round(0.9 * image.width), image.height)),
    "turned": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "framed": lambda image: ImageOps.expand(image, 8, "white"),
    "marked": watermark,
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda image: crop(ImageOps.mirror(image), 0.03),
}
