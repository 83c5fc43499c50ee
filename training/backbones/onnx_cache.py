"""Cache of backbones exported to ONNX, each exported once per machine in a child process. Imports neither torch nor timm."""

import hashlib
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from graft.service.artifact import file_record
from graft.service.manifest import GRAPH, WEIGHTS, Backbone, Preprocessing
from graft.training.backbones.registry import BackboneError, BackboneSpec, packaged_weights
from graft.training.config.hyperparameters import input_size
from graft.training.runtime.cache_dir import SET_CACHE, cache_folder, configured_cache
from graft.training.runtime.import_root import IMPORT_ROOT
from graft.training.runtime.progress import log, step

METADATA = "backbone.json"
STAGES = "stages"  # name of the ONNX output with the stage features
EXPORT_FORMAT = 3  # increase when the exported graph changes, so that cached graphs are exported again


class ExportedBackbone(BaseModel):
    """A backbone exported to ONNX: uint8 (N, S, S, 3) -> `vectors` float32 (N, D).

    If the network gives access to its stages, there is an output `stages`: their globally pooled feature maps, concatenated.
    If the vectors are a globally pooled feature map, that map and those of the stages are outputs too, by the names in
    `Backbone.map_outputs`.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    backbone: Backbone
    preprocessing: Preprocessing

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def feature_slices(backbone: Backbone) -> dict[str, slice]:
    """The columns of each feature set in a row of all features: every stage's, then the final vector.

    `stage1`, `stage3`, … by timm's number; `last`, the final vector; and `all`, the whole row.
    """
    slices: dict[str, slice] = {}
    end = 0
    for number, width in backbone.stages.items():
        slices[f"stage{number + 1}"] = slice(end, end := end + width)
    return slices | {"last": slice(end, end + backbone.width), "all": slice(0, end + backbone.width)}


def load_or_export(
    spec: BackboneSpec, crop: int | None, median_side: int, fit: str, sample_bits: int | None = None
) -> ExportedBackbone:
    """Returns the exported backbone: from the cache if this machine has exported it before, else by a child process.

    A child process, so that a run on features does not need torch's memory, and a later run does not import torch.

    Args:
        crop: input side in pixels; None derives it from the images.
        median_side: median of the images' shorter sides, in pixels.
        fit: how images are resized to a square.
        sample_bits: as in `Preprocessing`.

    Raises:
        BackboneError: if the weights are not available, or the graph's outputs differ from torch's.
    """
    key = _cache_key(spec)
    base = cache_folder() / "backbones" / key
    folder = _find_cached(base, crop, median_side)
    if folder is None and (configured := configured_cache()):  # it may be prepared, and read-only
        folder = _find_cached(configured / "backbones" / key, crop, median_side)
    if folder is None:
        log(f"exporting {spec.name} to ONNX: once on this machine, about 15 s")
        base.parent.mkdir(parents=True, exist_ok=True)
        with step(f"exporting {spec.name} to ONNX"):
            _export_in_subprocess(spec, base, crop, median_side)
        folder = _find_cached(base, crop, median_side)
    if folder is None:
        raise BackboneError(f"The export of {spec.name} wrote no graph at {base}.")
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    exported = ExportedBackbone(folder=folder, **metadata)
    changes = {"fit": fit, "sample_bits": sample_bits}
    return exported.model_copy(update={"preprocessing": exported.preprocessing.model_copy(update=changes)})


def graph_folder(base: Path, side: int) -> Path:
    """The cache folder of the graph for one input size."""
    return base.with_name(f"{base.name}-{side}")


def input_size_file(base: Path) -> Path:
    """The file with the pretrained input size, so that the next run does not import timm to get it."""
    return base.with_name(f"{base.name}.size")


def _find_cached(base: Path, crop: int | None, median_side: int) -> Path | None:
    if not input_size_file(base).is_file():
        return None
    folder = graph_folder(base, crop or input_size(median_side, int(input_size_file(base).read_text())))
    return folder if (folder / METADATA).is_file() else None


def _export_in_subprocess(spec: BackboneSpec, base: Path, crop: int | None, median_side: int) -> None:
    command = [
        sys.executable,
        "-m",
        "graft.training.backbones.onnx_export",
        spec.name,
        spec.weights,
        str(base),
        str(crop or 0),
        str(median_side),
    ]
    root = str(IMPORT_ROOT)
    environment = {
        "HF_HUB_ETAG_TIMEOUT": "5",  # huggingface_hub reads it when it is imported, so it must be set before
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode != 0:
        raise _export_error(process.stderr.strip(), process.returncode, base.parent)


def _export_error(stderr: str, exit_code: int, folder: Path) -> Exception:
    """The error of a failed export, from its output."""
    _, is_expected, message = stderr.rpartition("BackboneError: ")
    if is_expected:
        return BackboneError(message)
    last_line = stderr.rpartition("\n")[2]
    # Python's error, or that of safetensors.
    if number := re.search(r"\[Errno (\d+)\]|os error (\d+)", last_line):
        code = int(number[1] or number[2])
        return OSError(code, f"{os.strerror(code)}. {SET_CACHE}", str(folder))
    return BackboneError(f"The export ended with exit code {exit_code}: {last_line or 'no output'}")


def _cache_key(spec: BackboneSpec) -> str:
    """A cache key of everything that affects the graph except the input size."""
    if spec.weights == "package":
        weights = file_record(packaged_weights(spec.name)).sha256
    elif Path(spec.weights).is_file():
        weights = file_record(Path(spec.weights)).sha256
    else:
        weights = spec.weights
    schema = [*Backbone.model_fields, *Preprocessing.model_fields]  # another version of Graft may read the metadata
    fields = [EXPORT_FORMAT, spec.name, weights, version("timm"), version("torch"), schema]
    return f"{spec.name}-{hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]}"
