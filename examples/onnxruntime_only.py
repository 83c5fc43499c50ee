"""Uses a package without Graft: onnxruntime, numpy, Pillow and json are enough.

    python onnxruntime_only.py runs/latest/package cat.jpg

First it compares its own answers with the golden ones in the package: the largest difference of a probability is below 0.01.
Left out, because it is rare: 16-bit gray images, which Graft scales to 8 bits.
"""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

RESAMPLING = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}


def preprocess(encoded: bytes, preprocessing: dict) -> np.ndarray:
    """The network's input: uint8 (crop, crop, 3), RGB. Mean and standard deviation are part of the network."""
    crop, resize, fit = (preprocessing[name] for name in ("crop", "resize", "fit"))
    resampling = RESAMPLING[preprocessing["interpolation"]]
    image = Image.open(io.BytesIO(encoded))
    # libjpeg decodes a large JPEG at 1/2, 1/4 or 1/8 of its size. Other formats ignore it.
    scale = 2 * resize / min(image.size)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    image = to_rgb(ImageOps.exif_transpose(image))
    if fit == "letterbox":
        return np.asarray(ImageOps.pad(image, (crop, crop), resampling, "white"))
    if fit == "squash":
        return np.asarray(image.resize((crop, crop), resampling))
    side = min(image.size) * crop / resize
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(image.resize((crop, crop), resampling, box=(left, top, left + side, top + side)))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, on white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def to_probabilities(logits: np.ndarray, manifest: dict) -> np.ndarray:
    """Calibrated probabilities (N, C) of logits (N, C)."""
    scaled = logits.astype(np.float64) / manifest["temperature"]
    if manifest["multilabel"]:
        return 1 / (1 + np.exp(-scaled))
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class Package:
    """A package's network and manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def predict(self, images: list[bytes]) -> np.ndarray:
        """Calibrated probabilities (N, C) of encoded images."""
        batch = np.stack([preprocess(encoded, self.manifest["preprocessing"]) for encoded in images])
        [logits] = self.session.run(["logits"], {"pixels": batch})
        return to_probabilities(logits, self.manifest)

    def check(self) -> float:
        """The largest difference of a probability from the golden answers, which Graft computed when it made the package."""
        with np.load(self.folder / "golden.npz", allow_pickle=False) as golden:
            content, ends, logits = golden["content"].tobytes(), golden["ends"].tolist(), golden["logits_f32"]
        images = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        difference = float(np.abs(self.predict(images) - to_probabilities(logits, self.manifest)).max())
        assert difference < 0.01, f"the probabilities differ by {difference:.2g}"
        return difference


def main(folder: str, image: str) -> None:
    package = Package(Path(folder))
    print(f"golden answers: within {package.check():.1g}")
    [probabilities] = package.predict([Path(image).read_bytes()])
    for index in np.argsort(-probabilities, kind="stable")[:3]:
        print(f"{package.manifest['labels'][index]}\t{probabilities[index]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
