"""An earlier model that training starts from (`--from`): its backbone, its head, and the splits of the images it knows."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

from graft.service.artifact import Artifact, package_folder, read
from graft.service.inference.head import Head
from graft.service.manifest import WEIGHTS
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Sample
from graft.training.evaluation.label_frequencies import shift_to_training
from graft.training.runs.run_folder import SPLITS
from graft.training.runtime.progress import log
from graft.training.strategies.label_prior import shift_head


@dataclass(frozen=True)
class StartingPoint:
    """A package that training starts from.

    Attributes:
        package: its folder.
        artifact: the package, verified.
        split_of: the split of each image of its run, by digest; empty if the package is not in its run folder.
    """

    package: Path
    artifact: Artifact
    split_of: dict[bytes, str]

    def head_for(self, labels: tuple[str, ...]) -> Head | None:
        """The head with its rows in the order of `labels`; None if the labels are others.

        Its logits are those under the label frequencies of the training images, whatever the package assumes.
        """
        manifest = self.artifact.manifest
        names, frequencies = manifest.labels, manifest.label_frequencies
        if sorted(names) != sorted(labels):
            return None
        head = Head.from_tensors(load_file(self.artifact.weights))
        if frequencies is not None and frequencies.is_shifted:
            head = shift_head(head, shift_to_training(frequencies, manifest.temperature))
        return head.select_labels([names.index(label) for label in labels])

    def count(self, samples: Sequence[Sample], *splits: str) -> int:
        """The number of samples that were in these splits of the model's run."""
        return sum(self.split_of.get(sample.digest) in splits for sample in samples)


def load(model: Path) -> StartingPoint:
    """Loads a package, or that of a run folder.

    Raises:
        ArtifactError: if there is no package, or it is damaged.
    """
    package = package_folder(model).resolve()  # runs/latest may be another run when this one is resumed
    return StartingPoint(package, read(package), _read_splits(package.parent / SPLITS))


def _read_splits(file: Path) -> dict[bytes, str]:
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as rows:
        return {bytes.fromhex(row["sha256"]): row["split"] for row in csv.DictReader(rows) if row["sha256"]}


def resolve(recipe: Recipe) -> tuple[Recipe, StartingPoint | None]:
    """The model that a recipe starts from, and the recipe with that model's backbone, weights and input.

    Raises:
        ArtifactError: as `load`.
        ValueError: if an option contradicts the model.
    """
    if recipe.from_model is None:
        return recipe, None
    start = load(Path(recipe.from_model))
    manifest = start.artifact.manifest
    if not start.split_of:
        log(
            f"warning: {recipe.from_model} is not in its run folder, so it is not known which images it has learned from;"
            " if some of them are in the data, the scores are too high: pass the run folder instead"
        )
    fixed = {"backbone": manifest.backbone.name, "weights": str(start.package / WEIGHTS), "init": "pretrained"}
    for name, value in fixed.items():
        if name in recipe.model_fields_set and getattr(recipe, name) != value:
            raise ValueError(f"--{name} cannot be combined with --from, which starts from the model's own backbone.")
    preprocessing = manifest.preprocessing
    defaults = {"input_size": preprocessing.crop, "fit": preprocessing.fit, "metric": manifest.metric}
    options = recipe.model_dump(exclude_unset=True)
    return Recipe.model_validate(defaults | options | fixed), start
