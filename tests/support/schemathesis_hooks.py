"""Schemathesis hooks for what the schema cannot express: valid image bytes and the labels of this model."""

import base64
import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _encoded(side: int, seed: int, format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


images = st.builds(_encoded, st.integers(1, 40), st.integers(0, 9), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))

schemathesis.openapi.format("binary", images)
schemathesis.openapi.format("label", st.sampled_from(["ankle boot", "bag", "coat", "t-shirt", "trouser"]))
schemathesis.openapi.format("byte", images.map(lambda encoded: base64.b64encode(encoded).decode()))
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, images)
