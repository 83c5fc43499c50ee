"""A network -> the same with weights and activations of 8 bits: post-training quantisation (NNCF), only where asked for."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from graft.service.inference.engine import Pixels
from graft.service.inference.openvino import core

MOST = 300  # images that show how large the activations get; more change nothing


def require(int8: bool) -> None:
    """Raises ValueError, with what to install, if int8 is wanted and NNCF is not there."""
    if int8 and find_spec("nncf") is None:
        raise ValueError("--int8: nncf is not installed. Try: pip install 'graft-vision[int8]'")


def quantise(graph: Path, pixels: Sequence[Pixels], to: Path) -> None:
    """Writes an int8 network in OpenVINO's format: `to`, an .xml file, and its weights beside it in a .bin file.

    Args:
        graph: the f32 network, an ONNX file.
        pixels: of images like those it will see, each uint8 (S, S, 3).
    """
    os.environ.setdefault("NNCF_CI", "1")  # else it reports its use to its makers
    import openvino

    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
        import nncf

        nncf.set_log_level(logging.ERROR)
        model = core().read_model(graph)
        model.reshape([1, *pixels[0].shape])
        shown = nncf.Dataset([one[None] for one in pixels[:MOST]])
        small = nncf.quantize(model, shown, preset=nncf.QuantizationPreset.MIXED, subset_size=min(MOST, len(pixels)))
    openvino.save_model(small, to, compress_to_fp16=False)
