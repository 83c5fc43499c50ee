"""The photos that are asked about: as they come, as a camera of 12 megapixels would have taken them, and variants of them."""

import io
import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

DATA = Path(__file__).parents[2].parent / "shared" / "data"
PHOTOS, HYMENOPTERA, CIFAR = (DATA / name for name in ("imagenet-100.zip", "hymenoptera.zip", "cifar10-6k.zip"))
GRAIN = 7.0  # of 255; what makes a 12-megapixel photo of a phone 3 to 4 MB


def photos(archive: Path) -> list[bytes]:
    """The images of an archive, as they are."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png"))]
        return [opened.read(name) for name in names]


def of_a_phone(photo: bytes, seed: int = 0) -> bytes:
    """A photo as a phone would have taken it: 4000 by 3000 pixels, with a sensor's grain."""
    with Image.open(io.BytesIO(photo)) as opened:
        large = np.asarray(opened.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC), np.int16)
    grain = np.random.default_rng(seed).normal(0, GRAIN, large.shape).astype(np.int16)
    return _jpeg(Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)))


def variants(originals: Sequence[bytes], n_wanted: int) -> list[bytes]:
    """The originals, then mirrored, cropped and turned ones of them, until there are so many."""
    return list(itertools.islice(itertools.chain(originals, _changed(originals)), n_wanted))


def _changed(originals: Sequence[bytes]) -> Iterator[bytes]:
    changes: tuple[Callable[[Image.Image], Image.Image], ...] = (
        ImageOps.mirror,
        lambda image: image.crop((image.width // 5, image.height // 5, image.width, image.height)),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        ImageOps.flip,
        lambda image: image.crop((0, 0, image.width - image.width // 4, image.height - image.height // 4)),
    )
    for change in changes:
        for original in originals:
            with Image.open(io.BytesIO(original)) as opened:
                yield _jpeg(change(opened.convert("RGB")))


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
