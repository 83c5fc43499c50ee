"""The model card inside a package, for whoever finds the directory."""

from graft.service.artifact import Fidelity, Manifest
from graft.service.inference.neighbours import Thumbnails


def card(manifest: Manifest, shown: Thumbnails) -> str:
    """The model card, for whoever finds the directory."""
    rows = "\n".join(
        f"| {split} | {score.accuracy:.1%} | {score.low:.1%} to {score.high:.1%} | {score.n:,} |"
        for split, score in manifest.scores.items()
    )
    labels = "\n".join(f"- {label}" for label in manifest.labels)
    return f"""# {manifest.name}

An image classifier made by Graft on {manifest.created}: {manifest.strategy} on {manifest.backbone.name}
(weights: {manifest.backbone.weights}, licence {manifest.backbone.license}).

| split | top-1 accuracy | 95 % interval | images |
|---|---|---|---|
{rows}

{_precisions(manifest)}

Nothing was chosen by the test images. Probabilities are calibrated with temperature {manifest.temperature:.2f}.
{_promises(manifest)}

## Labels

{labels}

## Use

    graft predict {manifest.name}/ photo.jpg
    graft serve {manifest.name}/

This directory is data only: no pickle, no code. `graft verify` checks every byte of it.
{_privacy(shown)}
"""


def _promises(manifest: Manifest) -> str:
    calibration = manifest.calibration
    if calibration.coverage is None:
        sets = "An image may have several labels; each is given from a threshold of its own on."
    else:
        sets = f"Prediction sets promise to hold the right label for {calibration.coverage:.0%} of images like validation's."
    return f"{sets}\nAn image at a cosine distance above {calibration.outlier_threshold:.3f} counts as an outlier."


def _precisions(manifest: Manifest) -> str:
    """What becomes of the answers where the network computes in fewer bits."""
    rows = [
        f"| {name} | {found.moved:.3f} | {found.changed} | {found.score.accuracy:.1%} | {_when(name, found)} |"
        for name, found in manifest.fidelity.items()
    ]
    head = "| computed in | probabilities move by at most | of validation, other answers | right, of test | is used |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _when(name: str, found: Fidelity) -> str:
    if name == "f32":
        return "unless a faster one is"
    return "where the processor has it" if found.faithful else f"only with GRAFT_PRECISION={name}"


def _privacy(shown: Thumbnails) -> str:
    n_pictures = sum(shown[row] is not None for row in range(len(shown)))
    kept = f"Paths, labels and vectors of {len(shown):,} training images are in it"
    shows = f"and small pictures of {n_pictures:,} of them, for whoever may ask" if n_pictures else "but no pictures of them"
    return f"{kept}, {shows}.\nOf validation it holds the images that its golden answers are about."
