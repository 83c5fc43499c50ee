"""Renders the model card, the README.md of a package. Needs only the manifest and the thumbnails."""

from graft.service.artifact import Fidelity, Manifest
from graft.service.inference.neighbors import Thumbnails


def render_card(manifest: Manifest, thumbnails: Thumbnails) -> str:
    """The model card in Markdown."""
    rows = "\n".join(
        f"| {split} | {score.accuracy:.1%} | {score.low:.1%} to {score.high:.1%} | {score.n:,} |"
        for split, score in manifest.scores.items()
    )
    labels = "\n".join(f"- {label}" for label in manifest.labels)
    return f"""# {manifest.name}

An image classifier trained with Graft on {manifest.created}: {manifest.strategy} on {manifest.backbone.name}
(weights: {manifest.backbone.weights}, license {manifest.backbone.license}).

| split | top-1 accuracy | 95 % interval | images |
|---|---|---|---|
{rows}

{_precision_table(manifest)}

The test images were not used for any choice. Probabilities are calibrated with temperature {manifest.temperature:.2f}.
{_guarantees(manifest)}

## Labels

{labels}

## Use

    graft predict {manifest.name}/ photo.jpg
    graft serve {manifest.name}/

This directory contains only data: no pickle and no code. `graft verify` checks every byte of it.
{_privacy(thumbnails)}
"""


def _guarantees(manifest: Manifest) -> str:
    calibration = manifest.calibration
    if calibration.coverage is None:
        sets = "An image may have several labels. Each label is predicted if its probability reaches the label's threshold."
    else:
        sets = f"Prediction sets contain the true label for {calibration.coverage:.0%} of images like the validation images."
    return f"{sets}\nAn image with a cosine distance above {calibration.outlier_threshold:.3f} is an outlier."


def _precision_table(manifest: Manifest) -> str:
    """The table of how predictions change in lower precision."""
    rows = [
        f"| {name} | {fidelity.max_probability_shift:.3f} | {fidelity.n_changed} | {fidelity.score.accuracy:.1%}"
        f" | {_when_used(name, fidelity)} |"
        for name, fidelity in manifest.fidelity.items()
    ]
    header = "| precision | max. probability shift | changed validation predictions | test accuracy | used |"
    return "\n".join([header, "|---|---|---|---|---|", *rows])


def _when_used(name: str, fidelity: Fidelity) -> str:
    if name == "f32":
        return "unless a faster one is available"
    return "if the processor supports it" if fidelity.is_faithful else f"only with GRAFT_PRECISION={name}"


def _privacy(thumbnails: Thumbnails) -> str:
    n_thumbnails = sum(thumbnails[row] is not None for row in range(len(thumbnails)))
    contents = f"It contains paths, labels and feature vectors of {len(thumbnails):,} training images"
    pictures = (
        f"and thumbnails of {n_thumbnails:,} of them, which the service returns to any client"
        if n_thumbnails
        else "but no thumbnails"
    )
    return f"{contents}, {pictures}.\nIt also contains the validation images of its golden predictions."
