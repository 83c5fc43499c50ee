"""Registers the decoder of a format with Pillow, when its first image comes."""

from functools import cache
from importlib import import_module
from typing import Any

from .formats import BY_NAME


@cache
def register_decoder(name: str) -> None:
    """Imports the Pillow plug-in of a format. Raises ImportError if its libraries cannot be loaded."""
    plugin: Any = import_module(BY_NAME[name].plugin)
    # Images are decoded in parallel, so more threads for one image would only take memory.
    if name == "AVIF":
        plugin.DEFAULT_MAX_THREADS = 1
    elif name == "HEIF":
        plugin.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
