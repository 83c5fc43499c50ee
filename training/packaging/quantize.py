"""Post-training quantization of a network to int8 with NNCF. Runs only on request."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from graft.service.inference.engine import Pixels
from graft.service.inference.openvino import openvino_core
from graft.training.features.onnx_head import HEAD_PREFIX
from graft.training.runtime.progress import step

MAX_CALIBRATION_IMAGES = 300  # images that determine the ranges of the activations; more do not change them


def require_nncf(int8: bool) -> None:
    """Checks that NNCF is installed if int8 is requested.

    Raises:
        ValueError: if it is not.
    """
    if int8 and find_spec("nncf") is None:
        raise ValueError("--int8: nncf is not installed. Try: pip install 'graft-vision[int8]'")


@step("quantizing to int8")
def quantize(graph: Path, pixels: Sequence[Pixels], target: Path) -> None:
    """Writes an int8 network in OpenVINO format: the .xml file `target`, and its weights in a .bin file beside it.

    Args:
        graph: the f32 network, an ONNX file.
        pixels: calibration images, each uint8 (S, S, 3).
    """
    os.environ.setdefault("NNCF_CI", "1")  # disables NNCF's telemetry
    import openvino

    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
        import nncf

        nncf.set_log_level(logging.ERROR)
        model = openvino_core().read_model(graph)
        model.reshape([1, *pixels[0].shape])
        calibration_set = nncf.Dataset([image[None] for image in pixels[:MAX_CALIBRATION_IMAGES]])
        quantized = nncf.quantize(
            model,
            calibration_set,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=min(MAX_CALIBRATION_IMAGES, len(pixels)),
            # Distances between images are differences of large numbers.
            ignored_scope=nncf.IgnoredScope(patterns=[f"{HEAD_PREFIX}.*"], validate=False),
        )
    openvino.save_model(quantized, target, compress_to_fp16=False)
