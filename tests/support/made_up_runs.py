"""Fake runs with content in every section, for tests of the report pages, and an HTML parser for the pages."""

import hashlib
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from graft.training.data.findings import Finding, LabelIssue
from graft.training.report import render
from graft.training.report.tables import Epoch
from graft.training.results import (
    CalibrationBin,
    ConformalPrediction,
    Estimate,
    Evaluation,
    LabelScores,
    LearningCurve,
    OutlierDetection,
    RiskPoint,
    SelectivePrediction,
    StrategyAttempt,
    TransferRegime,
)
from graft.training.visualization.gallery import ImagePredictions

FINDINGS = (
    Finding("wrong-extension", "note", "2 files are not what their names say: a.jpg, b.jpg", ("a.jpg", "b.jpg")),
    Finding("leak", "error", "duplicates across train and test: x/1.png, y/1.png", ("x/1.png", "y/1.png"), ("x/1.png",),
            "--drop-duplicates"),
    Finding("near-duplicate", "warning", "3 images look the same", ("x/2.png", "x/3.png", "x/4.png")),
)  # fmt: skip


def estimate_around(value: float, half_width: float = 0.05) -> Estimate:
    """An estimate with a symmetric confidence interval."""
    return Estimate(value=value, low=max(0.0, value - half_width), high=min(1.0, value + half_width))


def fake_jpeg(path: str) -> bytes:
    """A JPEG of 200x150 pixels, different for each path."""
    seed = int.from_bytes(hashlib.sha256(path.encode("utf-8", "replace")).digest()[:4], "big")
    colors = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colors).resize((200, 150), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def fake_predictions(n: int, n_labels: int, multilabel: bool) -> ImagePredictions:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, n_labels)).astype(np.float32)
    if multilabel:
        truth = tuple(tuple(np.flatnonzero(row).tolist()) for row in rng.random((n, n_labels)) < 0.3)
        for row, labels_of_row in enumerate(truth):
            logits[row] -= 1.5
            logits[row, list(labels_of_row)] += 3
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        truth = tuple((row % n_labels,) for row in range(n))
        logits[np.arange(n), np.arange(n) % n_labels] += 3
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    paths = tuple(f"test/{row:05d}.jpg" for row in range(n))
    return ImagePredictions(paths, truth, probabilities, rng.random(n).astype(np.float32))


def fake_evaluation(labels: tuple[str, ...], predictions: ImagePredictions, multilabel: bool) -> Evaluation:
    confusion = np.zeros((len(labels), len(labels)), int)
    for true_labels, predicted in zip(predictions.targets, predictions.probabilities.argmax(axis=1), strict=True):
        confusion[true_labels[0] if true_labels else 0, predicted] += 1
    metrics = (
        ("map", "micro_f1", "exact_match", "log_loss")
        if multilabel
        else ("accuracy", "top5", "balanced_accuracy", "log_loss", "ece_before", "ece_after")
    )
    estimate = estimate_around(0.84)
    scores = tuple(
        LabelScores(
            label=label,
            support=len(predictions.paths) // len(labels),
            precision=estimate_around(0.7 + 0.3 * index / len(labels)),
            recall=None if index == 1 else estimate,
            f1=estimate_around(0.75 + 0.2 * index / len(labels)),
            average_precision=estimate if multilabel else None,
            threshold=0.4 if index else None,
            coverage=None if multilabel else estimate_around(0.88 + 0.1 * index / len(labels), 0.04),
            covered_by_label=None if multilabel else index > 1,
        )
        for index, label in enumerate(labels)
    )
    bins = tuple(CalibrationBin(confidence=0.05 + 0.1 * k, accuracy=min(1.0, 0.08 + 0.09 * k), n=5 + 20 * k) for k in range(10))
    overconfident = tuple(CalibrationBin(confidence=bin.confidence, accuracy=bin.accuracy**1.4, n=bin.n) for bin in bins)
    curve = LearningCurve(
        n_images=(125, 250, 500, 1000),
        accuracy=(estimate_around(0.6), estimate_around(0.7, 0.04), estimate_around(0.78, 0.03), estimate_around(0.84, 0.02)),
        gain_of_doubling=Estimate(value=0.021, low=0.008, high=0.034),
    )
    return Evaluation(
        n=len(predictions.paths),
        multilabel=multilabel,
        temperature=1.37,
        metrics=dict.fromkeys(metrics, estimate),
        labels=scores,
        confusion=None if multilabel else tuple(map(tuple, confusion.tolist())),
        reliability_before=overconfident,
        reliability_after=bins,
        conformal=ConformalPrediction(
            promised=0.9, coverage=estimate_around(0.912, 0.02), mean_size=1.4, sizes={1: 70, 2: 25, 3: 5}
        ),
        selective=None if multilabel else fake_selective(),
        outliers=OutlierDetection(k=10, threshold=0.41, flagged=estimate_around(0.05, 0.02)),
        curve=curve,
    )


def fake_selective() -> SelectivePrediction:
    shares = [number / 20 for number in range(1, 21)]
    return SelectivePrediction(
        max_error=0.1,
        answered=estimate_around(0.83, 0.03),
        error=estimate_around(0.07, 0.03),
        caught=estimate_around(0.61, 0.1),
        curve=tuple(RiskPoint(answered=share, error=estimate_around(0.16 * share**2, 0.02)) for share in shares),
        aurc=0.053,
    )


def fake_report(labels: tuple[str, ...], n: int = 100, multilabel: bool = False) -> render.RunReport:
    """A report with content in every section."""
    answers = fake_predictions(n, len(labels), multilabel)
    significant, not_significant = (
        "significantly better: +8.8 points (+5.9 to +11.6)",
        "+0.9 points (-0.4 to +2.1): not significant",
    )
    attempts = (
        StrategyAttempt(
            strategy="probe", validation=estimate_around(0.82), seconds=12.4, kept=True, verdict="always trained first"
        ),
        StrategyAttempt(strategy="stages", validation=estimate_around(0.83), seconds=8.1, kept=False, verdict=not_significant),
        StrategyAttempt(
            strategy="finetune", validation=estimate_around(0.91, 0.03), seconds=312, kept=True, verdict=significant
        ),
    )
    config = (render.ConfigLine("epochs", "8", True), render.ConfigLine("strategy", "auto", False))
    return render.RunReport(
        name="clothes",
        created="2026-11-21 10:41 UTC",
        labels=labels,
        counts={"train": tuple(range(10, 10 + len(labels))), "validation": (4,) * len(labels), "test": (7,) * len(labels)},
        n_images={"train": 850, "validation": 150, "test": n},
        image_sizes="All images are 28x28 pixels",
        strategy="finetune",
        backbone="tf_efficientnet_lite0 at 128 pixels",
        seconds=335,
        package="runs/clothes-20261121-104154/package",
        evaluation=fake_evaluation(labels, answers, multilabel),
        predictions=answers,
        reproduction=render.Reproduction("graft fit clothes/ --seed 3", config, {"torch": "2.9"}, "2 cores, no GPU", (3,)),
        excluded={"x/1.png": "duplicate", "x/9.png": "The image is damaged or truncated."},
        findings=FINDINGS,
        attempts=attempts,
        transfer_regime=TransferRegime(
            large=False,
            different=True,
            description="the dataset is small and different from ImageNet: a probe on stage3 has the lowest log-loss",
        ),
        epochs=tuple(Epoch(k, 1.2 / k, 0.3 + 1 / k, 0.91 - 0.1 / k) for k in range(1, 9)),
        label_issues=(
            LabelIssue("train/7.jpg", labels[0], labels[1], 0.973),
            LabelIssue("train/8.jpg", labels[1], labels[0], 0.991),
        ),
        remarks=("Ten crops instead of one: +0.4 points (-0.2 to +1.0).",),
    )


class ParsedPage(HTMLParser):
    """A parsed page: elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)
