"""The results of an evaluation as sentences for the terminal, common to `graft fit` and `graft evaluate`."""

from graft.service.manifest import MetricName
from graft.training.evaluation.metrics import METRICS
from graft.training.results import Evaluation, SelectivePrediction, format_error, least_covered
from graft.training.visualization.formatting import format_difference


def primary_metric_text(evaluation: Evaluation) -> str:
    """The primary metric with its 95 % confidence interval."""
    return _metric_text("map" if evaluation.multilabel else "accuracy", evaluation)


def metrics_text(evaluation: Evaluation, metric: MetricName) -> str:
    """The primary metric, balanced accuracy unless it is the same, and macro F1 if the model was chosen by it."""
    texts = [primary_metric_text(evaluation)]
    if not evaluation.multilabel:
        balanced, accuracy = (evaluation.metrics[name].value for name in ("balanced_accuracy", "accuracy"))
        texts += [_metric_text("balanced_accuracy", evaluation)] if f"{balanced:.3f}" != f"{accuracy:.3f}" else []
        texts += [_metric_text("macro_f1", evaluation)] if metric == "f1-macro" else []
    return ", ".join(texts)


def _metric_text(name: str, evaluation: Evaluation) -> str:
    title, estimate = METRICS[name].title, evaluation.metrics[name]
    return f"{title[0].lower()}{title[1:]} {estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def abstain_text(selective: SelectivePrediction) -> str:
    """How many images are answered, and how many of these answers are wrong."""
    target = "" if selective.max_error is None else f" (target: at most {format_error(selective.max_error)})"
    if selective.error is None:
        return f"the model abstains for every image{target}"
    low, high = selective.error.low, selective.error.high
    wrong = f"{selective.error.value:.1%} ({low:.1%} to {high:.1%}) of the answers are wrong{target}"
    return f"{selective.answered.value:.1%} of the images are answered, for the others the model abstains: {wrong}"


def notes(evaluation: Evaluation) -> list[str]:
    """What the table of metrics does not show: prediction sets, what abstaining brings, and the gain of ten-crop evaluation."""
    lines = list(evaluation.warnings)
    lines += filter(None, [evaluation.calibration_note])
    if evaluation.conformal:
        sets = evaluation.conformal
        least = least_covered(evaluation.labels)
        worst = f"; the label covered least: {least[1].value:.1%} of {least[0]}" if least else ""
        lines.append(f"prediction sets cover {sets.coverage.value:.1%} (target {sets.promised:.0%}){worst}")
    if evaluation.selective:
        lines.append(abstain_text(evaluation.selective))
    if evaluation.ten_crop:
        lines.append(f"ten-crop evaluation gains {format_difference(evaluation.ten_crop)}")
    return lines
