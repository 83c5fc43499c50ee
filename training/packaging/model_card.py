"""Renders the model card, the README.md of a package."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from graft.service.fidelity import Precision
from graft.service.inference.neighbors import Thumbnails
from graft.service.manifest import Backbone, Calibration, Manifest, Preprocessing
from graft.training.packaging.card_metadata import front_matter
from graft.training.packaging.markdown import escape
from graft.training.results import Estimate, LabelScores, describe_groups, format_error

OWN_NETWORKS = Path(__file__).parents[2] / "service" / "networks"  # defines networks under names that timm does not have
FIXED_SIZE_TENSORS = ("pos_embed", "relative_position_bias_table")  # of networks that are built for one input size


def render_card(
    manifest: Manifest,
    thumbnails: Thumbnails,
    metrics: Mapping[str, Estimate],
    by_label: Sequence[LabelScores],
    tensor_names: Sequence[str],
    n_groups: Mapping[str, int] | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """The model card in Markdown.

    Args:
        metrics, by_label: on test.
        tensor_names: in the weights file.
        n_groups: by split, the groups of images that do not count as independent; None if every image is its own.
        warnings: what must be read before the numbers, as sentences.
    """
    noted = "".join(f"**Warning:** {escape(warning)}.\n\n" for warning in warnings)
    rows = "\n".join(
        f"| {split} | {score.accuracy:.1%} | {score.low:.1%} to {score.high:.1%} | {_count(score.n, split, n_groups or {})} |"
        for split, score in manifest.scores.items()
    )
    return f"""{front_matter(manifest, metrics)}

# {escape(manifest.name)}

An image classifier trained with Graft on {manifest.created}: {manifest.strategy} on {escape(manifest.backbone.name)}
(weights: {escape(manifest.backbone.weights)}, license {escape(manifest.backbone.license)}), {describe_head(manifest.backbone)}.

{noted}| split | {"exact match" if manifest.multilabel else "top-1 accuracy"} | 95 % interval | images |
|---|---|---|---|
{rows}

{_precision_table(manifest)}

The test images were not used for any choice. Probabilities are calibrated with temperature {manifest.temperature:.2f}.
{_assumption(manifest)}{_guarantees(manifest)}

## Labels

On the test images:

{_label_table(by_label)}

## Limits

{_limits(manifest, by_label)}

## Use

    graft predict {shlex.quote(f"{manifest.name}/")} photo.jpg
    graft serve {shlex.quote(f"{manifest.name}/")}

Without Graft, in this folder:

```python
{_onnx_snippet(manifest)}
```

For large JPEG files and images with transparency, Graft does a little more before the network; a complete program is
`onnxruntime_only.py` among its examples. The backbone's weights load into timm:

```python
{_timm_snippet(manifest, tensor_names)}
```

This directory contains only data: no pickle and no code. `graft verify` checks every byte of it.
{_privacy(thumbnails)}
"""


def describe_head(backbone: Backbone) -> str:
    """The head in words: linear, or with a kernel machine beside it."""
    kernel = backbone.kernel
    return f"linear head and kernel machine with {kernel.centers:,} centers" if kernel else "linear head"


def _count(n: int, split: str, n_groups: Mapping[str, int]) -> str:
    """The number of images of a split, and of its groups if there are any."""
    return f"{n:,}{describe_groups(n, n_groups.get(split))}"


def _assumption(manifest: Manifest) -> str:
    """What models were judged by, and the label frequencies that its probabilities assume, as a line."""
    if manifest.label_frequencies is None:
        return ""
    return f"Models were judged by {manifest.metric}. {manifest.label_frequencies.to_text()}\n"


def _guarantees(manifest: Manifest) -> str:
    calibration = manifest.calibration
    if calibration.coverage is None:
        sets = "An image may have several labels. Each label is predicted if its probability reaches the label's threshold."
    else:
        sets = f"Prediction sets contain the true label for {calibration.coverage:.0%} of images like those of the training."
    abstains = (
        f"An image with a cosine distance above {calibration.outlier_threshold:.3f} is an outlier, and the model abstains."
    )
    return "\n".join([sets, abstains, *_answers(calibration)])


def _answers(calibration: Calibration) -> list[str]:
    """At which error it answers how many images."""
    if calibration.max_error is None:
        return []
    levels = [level for level in calibration.error_levels if level.min_probability is not None]
    rows = [f"| {format_error(level.max_error)} | {level.min_probability:.3f} | {level.answered:.1%} |" for level in levels]
    return [
        f"It abstains, too, if it is too unsure for at most {format_error(calibration.max_error)} wrong answers. A request can"
        f" choose another error (`max_error`). Measured on {calibration.n_images:,} images that the network had not seen:",
        "",
        "| error of the answers, at most | probability from | images answered |",
        "|---|---|---|",
        *rows,
    ]


def _label_table(by_label: Sequence[LabelScores]) -> str:
    rows = [
        f"| {escape(scores.label)} | {scores.support:,} | {_percent(scores.precision)} | {_percent(scores.recall)} |"
        f" {_percent(scores.f1)} |"
        for scores in by_label
    ]
    return "\n".join(["| label | images | precision | recall | F1 |", "|---|---|---|---|---|", *rows])


def _percent(estimate: Estimate | None) -> str:
    return f"{estimate.value:.1%}" if estimate else "–"


def _limits(manifest: Manifest, by_label: Sequence[LabelScores]) -> str:
    calibration, side = manifest.calibration, manifest.preprocessing.crop
    fewest = min(scores.support for scores in by_label)
    lines = [
        f"- It knows {len(manifest.labels):,} labels and no others. An image of something else gets one of them too, unless the"
        " caller heeds `abstain` or `outlier_score`.",
        f"- It sees the image at {side} x {side} pixels{_CROP_NOTES[manifest.preprocessing.fit]}. Smaller details are lost.",
        "- It classifies the whole image: it neither counts nor separates objects.",
        f"- The numbers above hold for images like the test images; the rarest label has {fewest:,} of them. Other cameras,"
        " places or times can make it worse: measure with `graft evaluate`, and with `--robust` for blur, noise and rotation.",
    ]
    if not manifest.multilabel and (without := calibration.thresholds.count(None)):
        lines.append(
            f"- For {without:,} of the labels, the images cannot show at which probability their predictions reach"
            f" {calibration.target_precision:.0%} precision: there are too few, or too many are wrong."
        )
    return "\n".join(lines)


_CROP_NOTES = {
    "crop": ", from the center; its edges are cut off",
    "letterbox": ", padded to a square",
    "squash": ", whatever its aspect ratio",
}


def _onnx_snippet(manifest: Manifest) -> str:
    """Five lines from an image file to calibrated probabilities."""
    apply = "1 / (1 + np.exp(-scaled))" if manifest.multilabel else "np.exp(scaled) / np.exp(scaled).sum()"
    shift = "" if manifest.multilabel else "; scaled -= scaled.max()"
    return f"""import numpy as np
import onnxruntime
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
{_resize_lines(manifest.preprocessing)}
scaled = onnxruntime.InferenceSession("model.onnx").run(["logits"], {{"pixels": np.asarray(image)[None]}})[0][0].astype(float)
scaled /= {manifest.temperature!r}{shift}
probabilities = {apply}  # in the order of the labels above"""


def _resize_lines(preprocessing: Preprocessing) -> str:
    side, filter_name = preprocessing.crop, f"Image.Resampling.{preprocessing.interpolation.upper()}"
    if preprocessing.fit == "letterbox":
        return f'image = ImageOps.pad(image, ({side}, {side}), {filter_name}, "white")'
    if preprocessing.fit == "squash":
        return f"image = image.resize(({side}, {side}), {filter_name})"
    if side == preprocessing.resize:
        return f"image = ImageOps.fit(image, ({side}, {side}), {filter_name})"
    cut = f"[(length - min(image.size) * {side} / {preprocessing.resize}) / 2 for length in image.size]"
    return f"""left, top = {cut}
image = image.resize(({side}, {side}), {filter_name}, box=(left, top, image.width - left, image.height - top))"""


def _timm_snippet(manifest: Manifest, tensor_names: Sequence[str]) -> str:
    name = manifest.backbone.name
    own = any(f"def {name}(" in (OWN_NETWORKS / f"{module}.py").read_text("utf-8") for module in ("classic", "torchvision"))
    imports = "import graft.service.networks.network  # registers this network with timm\n" if own else ""
    fixed_size = any(tensor.endswith(FIXED_SIZE_TENSORS) for tensor in tensor_names)
    size = f", img_size={manifest.preprocessing.crop}" if fixed_size else ""
    return f"""{imports}import timm
from safetensors.torch import load_file

tensors = {{name: tensor for name, tensor in load_file("weights.safetensors").items() if name.startswith("backbone.")}}
backbone = timm.create_model("{name}", num_classes=0{size})
backbone.load_state_dict({{name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}})"""


def _precision_table(manifest: Manifest) -> str:
    """The table of how predictions change in lower precision."""
    rows = [
        f"| {name} | {fidelity.agreement:.1%} | {100 * fidelity.accuracy_change:+.1f} | {fidelity.log_loss_change:+.4f}"
        f" | {fidelity.max_probability_shift:.3f} | {_when_used(name, manifest)} |"
        for name, fidelity in manifest.precisions.items()
    ]
    header = "| precision | same labels | accuracy, points | log-loss, nats | max. probability shift | used |"
    return "\n".join([header, "|---|---|---|---|---|---|", *rows])


def _when_used(name: Precision, manifest: Manifest) -> str:
    if name == "f32":
        return "unless a faster one is available"
    if not manifest.is_equivalent(name):
        return f"only with GRAFT_PRECISION={name}"
    return "if the machine has it and it is the fastest"


def _privacy(thumbnails: Thumbnails) -> str:
    n_thumbnails = sum(thumbnails[row] is not None for row in range(len(thumbnails)))
    contents = f"It contains paths, labels and feature vectors of {len(thumbnails):,} training images"
    pictures = (
        f"and thumbnails of {n_thumbnails:,} of them, which the service returns to any client"
        if n_thumbnails
        else "but no thumbnails"
    )
    return f"{contents}, {pictures}.\nIt also contains the validation images of its golden predictions."
