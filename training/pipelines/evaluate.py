"""Evaluates a trained network on its test split, or a package on a labeled data set."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Artifact
from graft.service.inference import loader
from graft.service.inference.engine import Engine
from graft.service.inference.model import Model
from graft.service.inference.model import load as load_model
from graft.service.manifest import Preprocessing
from graft.service.settings import DeviceSetting
from graft.training.config.corruptions import DEFAULT_SAMPLE_SIZE
from graft.training.config.read_options import ReadOptions
from graft.training.data import wrong_paths
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation import metrics
from graft.training.evaluation.clusters import cluster_ids
from graft.training.evaluation.learning_curve import Head, learning_curve
from graft.training.evaluation.outliers import outlier_scores
from graft.training.evaluation.predictions import Predictions
from graft.training.evaluation.split_gap import split_gap
from graft.training.features import stage_selection
from graft.training.features.feature_arrays import Vectors
from graft.training.features.head_trainer import CV_TOLERANCE
from graft.training.inference import held_out
from graft.training.inference.bulk import predict_dataset
from graft.training.inference.ten_crop import ten_crop
from graft.training.pipelines import evaluation_text
from graft.training.pipelines.arguments import check_order
from graft.training.report import notebook, render
from graft.training.report.evaluation_page import EvaluationReport, evaluation_page
from graft.training.results import Estimate, Evaluation, LearningCurve
from graft.training.robustness import measure, recommendations
from graft.training.robustness.measure import Robustness
from graft.training.robustness.recommendations import Recommendation
from graft.training.runtime.device import select_device
from graft.training.runtime.isolation import preserved_state
from graft.training.runtime.progress import step
from graft.training.strategies.auto import SelectionResult
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.probe import ProbeResult
from graft.training.visualization.gallery import ImagePredictions

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EvaluateResult:
    """The evaluation of a package on labeled images. In a notebook it shows its metrics and confusion matrix.

    Attributes:
        package: the package folder.
        name: of the model.
        evaluation: every metric.
        data, dataset: what it was evaluated on, with the labels of the package.
        predictions: for each image.
        robustness: how the predictions change under corruptions; None unless requested.
        recommendation: what to do about it; None unless requested.
        n_seen: number of images that the model has learned from or was chosen by, copies included.
        includes_seen: whether it was evaluated on them too; by default they are left out.
    """

    package: Path
    name: str
    evaluation: Evaluation
    data: Path
    dataset: Dataset = field(repr=False)
    predictions: ImagePredictions = field(repr=False)
    robustness: Robustness | None = None
    recommendation: Recommendation | None = None
    n_seen: int = 0
    includes_seen: bool = False

    def save_report(self, path: Path) -> None:
        """Writes the metrics, the confusion matrix, and the robustness if it was measured, as one offline HTML page."""
        report = EvaluationReport(
            self.name,
            str(self.package),
            str(self.data),
            self.dataset.labels,
            self.evaluation,
            self.predictions,
            tuple(self.notes),
            self.robustness,
            self.recommendation,
        )
        by_path = {sample.path: sample for sample in self.dataset.samples}
        with step("writing the report"):
            render.save(evaluation_page(report, lambda image: self.dataset.read(by_path[image])), path)

    @property
    def seen_note(self) -> str:
        """What became of the images that the model has seen, as a sentence; "" if there are none."""
        return held_out.seen_note(self.evaluation.n, self.n_seen, self.includes_seen)

    @property
    def notes(self) -> list[str]:
        """What the table of metrics does not show, as sentences."""
        return [*filter(None, [self.seen_note]), *evaluation_text.notes(self.evaluation)]

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        primary = self.evaluation.primary_metric
        score = {
            "accuracy": primary.value,
            "low": primary.low,
            "high": primary.high,
            "n": self.evaluation.n,
            "n_groups": self.evaluation.n_groups,
        }
        result: dict[str, object] = {"package": str(self.package), "score": score}
        result |= {"n_seen": self.n_seen, "includes_seen": self.includes_seen}
        result["evaluation"] = self.evaluation.model_dump(mode="json")
        if self.robustness is None or self.recommendation is None:
            return result
        return result | recommendations.to_dict(self.robustness, self.recommendation)

    def __repr__(self) -> str:
        score, sample = evaluation_text.primary_metric_text(self.evaluation), self.evaluation.describe_sample()
        return f"EvaluateResult({str(self.package)!r}, {score}, {sample})"

    def _repr_html_(self) -> str:
        title = f"{evaluation_text.primary_metric_text(self.evaluation)} on {self.evaluation.describe_sample()}"
        sentences = self.recommendation.sentences if self.recommendation else ()
        return notebook.evaluation_fragment(title, [*self.notes, *sentences], self.evaluation)


@preserved_state()
def evaluate(
    package: Path,
    data: Path,
    options: ReadOptions | None = None,
    *,
    ten_crop: bool = False,
    robust: bool = False,
    sample: int | None = None,
    include_training: bool = False,
    device: DeviceSetting = "auto",
) -> EvaluateResult:
    """Evaluates a package on labeled images: the test split if the data has one, else all images.

    Images that the model has learned from or was chosen by are left out, and so are copies of them.

    Args:
        options: how to read the data.
        ten_crop: also measure the gain of ten-crop evaluation.
        robust: also measure robustness to image corruptions.
        sample: number of images for `robust`; None for the default.
        include_training: evaluate on images that the model has seen too; the scores are then too high.
        device: runs the network.

    Raises:
        ArtifactError: if the package is damaged.
        DatasetError: if the data contains a label that the package lacks, or only images that the model has seen.
        DeviceError: if the device cannot be used.
        ImageError: if a file is unreadable.
    """
    select_device(device)
    check_order(package, [data])
    wrong_paths.check(data)
    with step(f"loading {package}"):
        model = load_model(package, device)
    found = held_out.load(model, data, options, include_training)
    dataset, samples = found.dataset, found.samples
    outputs = predict_dataset(model.engine, model.manifest.preprocessing, dataset, samples, "evaluating")
    evaluation = _evaluate_outputs(model, dataset, samples, outputs, ten_crop)
    predictions = _image_predictions(model, samples, outputs)
    result = EvaluateResult(
        model.artifact.path,
        model.manifest.name,
        evaluation,
        data,
        dataset,
        predictions,
        n_seen=found.n_seen,
        includes_seen=found.includes_seen,
    )
    if not robust:
        return result
    robustness = measure.measure(model, dataset, samples, sample or DEFAULT_SAMPLE_SIZE)
    # Training data is in the same data set only if some of its images are left out.
    training_data = str(data) if len(samples) < len(dataset.samples) else "DATA"
    recommendation = recommendations.recommend(robustness, training_data, model.manifest.backbone.name)
    return replace(result, robustness=robustness, recommendation=recommendation)


@step("evaluating on the test images")
def evaluate_run(context: TrainingContext, selection: SelectionResult, artifact: Artifact) -> Evaluation:
    """Evaluates the selected network on the test split, with the learning curve of the probe."""
    trained, dataset, samples, ten_crops = selection.model, context.dataset, context.splits.test, None
    if context.recipe.ten_crop:
        engine = loader.load(artifact, context.device)
        ten_crops = _ten_crop_probabilities(engine, trained.preprocessing, dataset, samples, trained.temperature)
    curve = _learning_curve(context, selection.probe_result)
    if curve and trained.strategy != selection.probe_result.strategy:
        curve = curve.model_copy(update={"kept": trained.strategy})
    evaluation = metrics.evaluate(
        trained.test,
        dataset.labels,
        trained.temperature,
        trained.calibration,
        trained.neighbors,
        curve,
        ten_crops,
        trained.label_frequencies,
    )
    updates: dict[str, object] = {"split_gap": split_gap(trained.validation, trained.test)}
    if trained.gain_over_probe is not None:
        value, low, high = trained.gain_over_probe
        updates["gain_over_probe"] = Estimate(value=value, low=low, high=high)
    return evaluation.model_copy(update=updates)


def evaluate_package(model: Model, dataset: Dataset, samples: tuple[Sample, ...], with_ten_crop: bool = False) -> Evaluation:
    """Evaluates a package on labeled images.

    Args:
        dataset, samples: from `load_test_split`.
        with_ten_crop: also measure the gain of ten-crop evaluation.

    Raises:
        ImageError: if a file is unreadable.
    """
    outputs = predict_dataset(model.engine, model.manifest.preprocessing, dataset, samples, "evaluating")
    return _evaluate_outputs(model, dataset, samples, outputs, with_ten_crop)


def _evaluate_outputs(
    model: Model, dataset: Dataset, samples: Sequence[Sample], outputs: Predictions, with_ten_crop: bool
) -> Evaluation:
    manifest, ten_crops = model.manifest, None
    if with_ten_crop:
        ten_crops = _ten_crop_probabilities(model.engine, manifest.preprocessing, dataset, samples, manifest.temperature)
    with step("computing the metrics"):
        return metrics.evaluate(
            outputs,
            manifest.labels,
            manifest.temperature,
            manifest.calibration,
            model.neighbors,
            ten_crop=ten_crops,
            frequencies=manifest.label_frequencies,
        )


def _image_predictions(model: Model, samples: Sequence[Sample], outputs: Predictions) -> ImagePredictions:
    distances = outlier_scores(model.neighbors, outputs.vectors, model.manifest.calibration.outlier_k)
    return ImagePredictions(
        paths=tuple(sample.path for sample in samples),
        targets=tuple(sample.labels for sample in samples),
        probabilities=model.probabilities(outputs.logits).astype(np.float32),
        outlier_scores=distances.astype(np.float32),
    )


def _ten_crop_probabilities(
    engine: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], temperature: float
) -> Floats:
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    return ten_crop(engine, preprocessing, readers, temperature, dataset.multilabel)


@step("estimating the learning curve")
def _learning_curve(context: TrainingContext, probe: ProbeResult) -> LearningCurve | None:
    """Validation score of the probe by number of training images."""
    best, columns = probe.selection.best, context.features.slices
    train, validation = context.splits.train, context.splits.validation

    def fit(features: Vectors, targets: Targets) -> Head:
        return stage_selection.fit_candidate(best, features, columns, targets, tolerance=CV_TOLERANCE)

    return learning_curve(
        context.view_features(train),
        context.targets(train),
        context.features.select(validation, feature_set=best.head_input),
        context.targets(validation),
        fit,
        full_logits=probe.validation_logits,
        seed=context.recipe.seed,
        held_out_clusters=cluster_ids(validation),
    )
