"""Graft: fine-tune pretrained image classifiers on your own images, and serve them.

    import graft

    result = graft.fit("photos/")
    classifier = graft.load(result.package)
    classifier.predict("cat.jpg").predictions

Nothing is imported until it is used. Every function is one job of the command line, under the same name. It raises ValueError
(DatasetError, BackboneError, RunError, ...), OSError or ArtifactError, with a message that says what to do. It never ends the
process, takes no signal handlers, and leaves the process as it was: random states, warnings, environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import os

    from .service.artifact import Artifact as Artifact
    from .service.artifact import ArtifactError as ArtifactError
    from .service.classifier import Classifier as Classifier
    from .service.errors import ImageError as ImageError
    from .service.fidelity import Precision
    from .service.settings import DeviceSetting
    from .training.config.recipe import Recipe as Recipe
    from .training.data.errors import DatasetError as DatasetError
    from .training.inference.scoring import PredictResult as PredictResult
    from .training.pipelines.check import AuditReport as AuditReport
    from .training.pipelines.compare import CompareResult as CompareResult
    from .training.pipelines.evaluate import EvaluateResult as EvaluateResult
    from .training.pipelines.fit import FitResult as FitResult
    from .training.runs.run_folder import RunError as RunError

    StrPath = str | os.PathLike[str]

__all__ = [
    "Artifact",
    "ArtifactError",
    "AuditReport",
    "Classifier",
    "CompareResult",
    "DatasetError",
    "EvaluateResult",
    "FitResult",
    "ImageError",
    "PredictResult",
    "Recipe",
    "RunError",
    "check",
    "compare",
    "evaluate",
    "fit",
    "load",
    "package",
    "predict",
]
LATEST_RUN, LATEST_PACKAGE = Path("runs/latest"), Path("runs/latest/package")  # in the current folder
_MODULES = {
    "Artifact": "service.artifact",
    "ArtifactError": "service.artifact",
    "AuditReport": "training.pipelines.check",
    "Classifier": "service.classifier",
    "CompareResult": "training.pipelines.compare",
    "DatasetError": "training.data.errors",
    "EvaluateResult": "training.pipelines.evaluate",
    "FitResult": "training.pipelines.fit",
    "ImageError": "service.errors",
    "PredictResult": "training.inference.scoring",
    "Recipe": "training.config.recipe",
    "RunError": "training.runs.run_folder",
}


def fit(
    data: StrPath,
    *,
    out: StrPath | None = None,
    resume: bool = False,
    recipe: Recipe | StrPath | None = None,
    **options: Any,
) -> FitResult:
    """Trains a classifier on labeled images and packages it.

    Args:
        data: a folder with one subfolder per label, a .zip of it, a .csv, ...
        out: the run folder; None for a new folder in `runs/`.
        resume: continue the run in `out`, or the newest unfinished run of this data.
        recipe: options as a `Recipe` or a YAML file.
        **options: fields of `Recipe`, such as `strategy="finetune"`; they take precedence over `recipe`.

    Returns:
        The run folder, package, report and evaluation. In a notebook, the result shows itself.
    """
    from .training.pipelines import fit as pipeline

    return pipeline.fit(Path(data), _path(out), _recipe(recipe, options), resume=resume)


def check(
    data: StrPath,
    *,
    use_features: bool = True,
    max_label_issues: int | None = None,
    recipe: Recipe | StrPath | None = None,
    **options: Any,
) -> AuditReport:
    """Finds issues in a data set before training: unreadable files, duplicates, leaks between splits, likely label errors.

    Args:
        data: as for `fit`.
        use_features: also find label errors and outliers, which needs a pass through the backbone.
        max_label_issues: how many of the most probable label errors to report; None for those that are almost certain.
        recipe: as for `fit`; only how to read the data, `backbone`, `weights`, `input_size`, `fit` and `device` matter.
        **options: as for `fit`.
    """
    from .training.pipelines import check as pipeline

    return pipeline.check(Path(data), _recipe(recipe, options), use_features, max_label_issues)


def compare(
    data: StrPath,
    *,
    strategies: Sequence[str] = ("probe", "finetune"),
    backbones: Sequence[str] = ("tf_efficientnet_lite0",),
    seeds: int = 1,
    out: StrPath | None = None,
    recipe: Recipe | StrPath | None = None,
    **options: Any,
) -> CompareResult:
    """Trains every strategy on every backbone and tests which differences are significant.

    Args:
        data: as for `fit`.
        strategies: names of strategies, such as "probe", "svm", "stages" and "finetune".
        backbones: names of timm models.
        seeds: runs of each combination, with seeds 0 to N-1.
        out: folder for the table and the report; None for a folder in `compare/`.
        recipe: as for `fit`, for every run.
        **options: as for `fit`, for every run.
    """
    from .training.pipelines import compare as pipeline

    return pipeline.compare(Path(data), _path(out), _recipe(recipe, options), strategies, backbones, seeds)


def evaluate(
    package: StrPath,
    data: StrPath,
    *,
    ten_crop: bool = False,
    robust: bool = False,
    sample: int | None = None,
    include_training: bool = False,
    recipe: Recipe | StrPath | None = None,
    **options: Any,
) -> EvaluateResult:
    """Evaluates a package on labeled images: the test split if the data has one, else all images.

    Images that the model has learned from or was chosen by are left out, and so are copies of them.

    Args:
        package: a package folder.
        data: as for `fit`; its labels must be those of the package.
        ten_crop: also measure ten-crop accuracy.
        robust: also measure robustness to image corruptions.
        sample: number of images for `robust`; None for the default.
        include_training: evaluate on images that the model has seen too; the scores are then too high.
        recipe: as for `fit`; only how to read the data matters, such as `label_column`, and `device`.
        **options: as for `fit`.
    """
    from .training.pipelines import evaluate as pipeline

    settings = _recipe(recipe, options)
    return pipeline.evaluate(
        Path(package),
        Path(data),
        settings,
        ten_crop=ten_crop,
        robust=robust,
        sample=sample,
        include_training=include_training,
        device=settings.device,
    )


def predict(
    package: StrPath,
    data: StrPath,
    out: StrPath,
    *,
    top_k: int = 3,
    max_error: float | None = None,
    device: DeviceSetting = "auto",
    precision: Precision | Literal["auto"] = "auto",
) -> PredictResult:
    """Predicts any number of images into Parquet files; the same call again goes on where it was interrupted.

    Args:
        package: a package folder.
        data: a folder or an archive of images.
        out: the folder of the Parquet files, with a row for each image; an image that cannot be used has an `error`.
        top_k: number of labels of each image.
        max_error: abstain unless predictions this sure are wrong at most this often, in [0, 1]; None for the model's own.
        device: as for `load`.
        precision: as for `load`; "auto" after an interruption is that of the first run.
    """
    from .training.pipelines import predict as pipeline

    return pipeline.predict_to_parts(Path(package), Path(data), Path(out), top_k, max_error, device, precision)


def package(run: StrPath = LATEST_RUN) -> Artifact:
    """Selects the package of a run as the one that `bentoml serve`, `bentoml build` and the image use.

    Args:
        run: a run folder.
    """
    from .training.runs import latest

    return latest.set_latest(Path(run))


def load(
    package: StrPath = LATEST_PACKAGE,
    *,
    device: DeviceSetting = "auto",
    precision: Precision | Literal["auto"] = "auto",
) -> Classifier:
    """Loads a package: verifies every byte and reproduces its golden answers on this machine.

    Args:
        package: a package folder.
        device: "auto" uses a CUDA GPU that works, else the CPU, and prints why if there is one; "cpu" or "cuda".
        precision: "auto" selects the fastest precision that this machine supports and that is as good as f32.
    """
    from .service import classifier
    from .service.inference import model

    loaded = model.load(Path(package), device, precision=precision)
    loaded.compile_for_latency()
    return classifier.Classifier(loaded)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _recipe(recipe: Recipe | StrPath | None, options: dict[str, Any]) -> Recipe:
    from .training.config import recipe as config

    return config.resolve_recipe(recipe, options)
