"""Photos: the originals, 12-megapixel versions of them, augmented variants, and random crops."""

import io
import itertools
import math
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

DATA = Path(__file__).parents[2].parent / "shared" / "data"
PHOTOS, HYMENOPTERA, CIFAR = (DATA / name for name in ("imagenet-100.zip", "hymenoptera.zip", "cifar10-6k.zip"))
NOISE_STD = 7.0  # standard deviation, of 255; gives a 12-megapixel JPEG of 3 to 4 MB, as from a phone


def read_photos(archive: Path) -> list[bytes]:
    """The encoded images of a ZIP archive, unchanged."""
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png"))]
        return [file.read(name) for name in names]


def synthetic_photos(n_images: int, seed: int, size: tuple[int, int] = (500, 375)) -> list[bytes]:
    """Blurred noise of any number, as JPEG files of about 30 KB: for machines without real photos."""

    def encode(index: int) -> bytes:
        noise = np.random.default_rng([seed, index]).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        noise[..., index % 2] //= 3  # two kinds, which a network can tell apart
        return _encode_jpeg(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))

    return [encode(index) for index in range(n_images)]


def phone_photo(photo: bytes, seed: int = 0) -> bytes:
    """Upscale a photo to 4000x3000 pixels and add sensor noise, as in a photo from a phone."""
    with Image.open(io.BytesIO(photo)) as image:
        large = np.asarray(image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), np.int16)
    noise = np.random.default_rng(seed).normal(0, NOISE_STD, large.shape).astype(np.int16)
    return _encode_jpeg(Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8)))


def variants(originals: Sequence[bytes], n_images: int) -> list[bytes]:
    """The originals, then mirrored, cropped and rotated copies of them, `n_images` in total."""
    return list(itertools.islice(itertools.chain(originals, _augmented(originals)), n_images))


def _augmented(originals: Sequence[bytes]) -> Iterator[bytes]:
    transforms: tuple[Callable[[Image.Image], Image.Image], ...] = (
        ImageOps.mirror,
        lambda image: image.crop((image.width // 5, image.height // 5, image.width, image.height)),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        ImageOps.flip,
        lambda image: image.crop((0, 0, image.width - image.width // 4, image.height - image.height // 4)),
    )
    for transform in transforms:
        for original in originals:
            with Image.open(io.BytesIO(original)) as image:
                yield _encode_jpeg(transform(image.convert("RGB")))


def random_crop(photo: bytes, seed: int) -> bytes:
    """A random part of a photo, of 10 to 40 % of its area, at the size of the photo; mirrored or not, brighter or darker."""
    generator = random.Random(seed)
    with Image.open(io.BytesIO(photo)) as opened:
        image = opened.convert("RGB")
    share = math.sqrt(generator.uniform(0.1, 0.4))
    width, height = share * image.width, share * image.height
    left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
    crop = image.resize(image.size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    if generator.random() < 0.5:
        crop = ImageOps.mirror(crop)
    return _encode_jpeg(ImageEnhance.Brightness(crop).enhance(generator.uniform(0.7, 1.3)))


def _encode_jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
