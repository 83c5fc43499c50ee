"""Builds `fashion-mnist.zip` from Debian's package `dataset-fashion-mnist`.

It contains the first 100 training images and the first 50 test images of each class, as PNG files.

    apt-get install dataset-fashion-mnist && python training/sample/make.py
"""

import gzip
import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).with_name("fashion-mnist.zip")
LABELS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
SPLITS = {"train": ("train", 100), "test": ("t10k", 50)}  # split: (file prefix in the source, images per class)
ZIP_DATE = (2017, 8, 25, 0, 0, 0)  # a fixed date makes the zip file reproducible


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Reads the array in an IDX file: a magic number with the number of dimensions, their sizes, then the bytes."""
    with gzip.open(path) as file:
        content = file.read()
    n_dimensions = content[3]
    shape = np.frombuffer(content, ">i4", n_dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)


def to_png(image: NDArray[np.uint8]) -> bytes:
    """Encodes a grayscale image, (28, 28), as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()


def make(source: Path, target: Path) -> None:
    """Writes the zip file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for split, (prefix, max_per_class) in SPLITS.items():
            images, labels = (read_idx(source / f"{prefix}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
            counts: Counter[int] = Counter()
            for image, label in zip(images, labels.tolist(), strict=True):
                if counts[label] < max_per_class:
                    counts[label] += 1
                    name = f"{split}/{LABELS[label]}/{counts[label]:03d}.png"
                    archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), to_png(image))


if __name__ == "__main__":
    make(SOURCE, TARGET)
