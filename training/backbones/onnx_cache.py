"""A backbone as an ONNX graph on disk, made once per machine, by a child process. Imports neither torch nor timm."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import graft
from graft.service.artifact import GRAPH, WEIGHTS, Backbone, Preprocessing, record
from graft.training.backbones.registry import BackboneError, Choice, packaged
from graft.training.config.hyperparameters import input_size
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.progress import say

CARD = "backbone.json"
STAGES = "stages"  # the output beside `vectors`
EXPORT_FORMAT = 3  # raise it when the exported graph changes, so that old ones are made anew


class Exported(BaseModel):
    """A backbone as a graph on disk: uint8 (N, S, S, 3) -> `vectors` float32 (N, D).

    Where the network lets its stages be seen, also `stages`: their means over all positions, side by side. Where the
    vectors are the mean of a map, also that map and the stages', by the names in `Backbone.maps`.
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


def columns(backbone: Backbone) -> dict[str, slice]:
    """Where each block of features stands in a row of all of them: every stage's, then the last vector.

    `stage1`, `stage3`, … by timm's own number; `last`, the vector; and `all`, the whole row.
    """
    blocks: dict[str, slice] = {}
    end = 0
    for number, width in backbone.stages.items():
        blocks[f"stage{number + 1}"] = slice(end, end := end + width)
    return blocks | {"last": slice(end, end + backbone.width), "all": slice(0, end + backbone.width)}


def export(choice: Choice, crop: int | None, median_side: int, fit: str) -> Exported:
    """The backbone's graph: at once if this machine has made it before, else by a child process.

    A child, so that a run on features needs neither torch's memory nor, the next time, its import.

    Args:
        crop: the input's side in pixels; None derives it from the images.
        median_side: of the images' shorter sides, in pixels.
        fit: how images are made square.

    Raises:
        BackboneError: if the weights cannot be had, or the graph does not say what torch says.
    """
    base = cache_folder() / "backbones" / _key(choice)
    folder = _known(base, crop, median_side)
    if folder is None:
        say(f"preparing {choice.name}: once for this machine, about 15 s")
        base.parent.mkdir(parents=True, exist_ok=True)
        _export_in_child(choice, base, crop, median_side)
        folder = _known(base, crop, median_side)
    if folder is None:
        raise BackboneError(f"The export of {choice.name} left nothing at {base}.")
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    exported = Exported(folder=folder, **card)
    return exported.model_copy(update={"preprocessing": exported.preprocessing.model_copy(update={"fit": fit})})


def graph_folder(base: Path, side: int) -> Path:
    """Where the graph for one input size is kept."""
    return base.with_name(f"{base.name}-{side}")


def size_file(base: Path) -> Path:
    """Remembers the pretrained input size, which only timm knows, so that the next run need not import it."""
    return base.with_name(f"{base.name}.size")


def _known(base: Path, crop: int | None, median_side: int) -> Path | None:
    if not size_file(base).is_file():
        return None
    folder = graph_folder(base, crop or input_size(median_side, int(size_file(base).read_text())))
    return folder if (folder / CARD).is_file() else None


def _export_in_child(choice: Choice, base: Path, crop: int | None, median_side: int) -> None:
    command = [
        sys.executable,
        "-m",
        "graft.training.backbones.onnx_export",
        choice.name,
        choice.weights,
        str(base),
        str(crop or 0),
        str(median_side),
    ]
    root = str(Path(graft.__file__).parents[1])
    environment = {
        "HF_HUB_ETAG_TIMEOUT": "5",  # the hub's library reads it when it is imported, so it must be there before
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise BackboneError(said.rpartition("BackboneError: ")[2] or f"The export ended with code {done.returncode}.")


def _key(choice: Choice) -> str:
    """A name that changes with anything that changes the graph but the input size."""
    if choice.weights == "package":
        identity = record(packaged(choice.name)).sha256
    elif Path(choice.weights).is_file():
        identity = record(Path(choice.weights)).sha256
    else:
        identity = choice.weights
    parts = [EXPORT_FORMAT, choice.name, identity, version("timm"), version("torch")]
    return f"{choice.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
