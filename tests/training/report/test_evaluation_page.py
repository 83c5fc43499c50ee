"""The page of `graft evaluate --report`."""

import numpy as np
import pytest
from made_up_runs import ParsedPage, fake_evaluation, fake_jpeg, fake_predictions

from graft.training.config.corruptions import CORRUPTIONS
from graft.training.evaluation.confidence_intervals import proportion
from graft.training.report.evaluation_page import EvaluationReport, evaluation_page
from graft.training.robustness.measure import CorruptedExample, Robustness, SeverityResult
from graft.training.robustness.recommendations import recommend

HOSTILE = "<script>alert('ä')</script>\"'&\udcff\x00"


def page(n_labels: int = 4, multilabel: bool = False, name: str = "photos", **more: object) -> str:
    labels = tuple(f"{name} {number}" for number in range(n_labels))
    predictions = fake_predictions(60, n_labels, multilabel)
    evaluation = fake_evaluation(labels, predictions, multilabel)
    report = EvaluationReport(name, f"runs/{name}", name, labels, evaluation, predictions, ("a remark",), **more)
    return evaluation_page(report, fake_jpeg)


def robustness() -> Robustness:
    """Rotation flips 31 of 100 predictions, and nothing else does."""

    def result(name: str, severity: float) -> SeverityResult:
        return SeverityResult(severity, 100, proportion(90, 100), proportion(31 * ((name, severity) == ("rotation", 30)), 100))

    pixels = np.zeros((32, 32, 3), np.uint8)
    curves = {name: tuple(result(name, severity) for severity in each.all_severities) for name, each in CORRUPTIONS.items()}
    examples = {
        name: tuple(CorruptedExample(severity, "<a>.png", pixels, "a 90%") for severity in each.all_severities)
        for name, each in CORRUPTIONS.items()
    }
    return Robustness(100, 300, 0, proportion(90, 100), curves, examples)


def test_page_has_classes_and_a_confusion_matrix_without_robustness():
    text = page()
    for section in ("results", "classes", "confusion", "mistakes", "calibration"):
        assert f'id="{section}"' in text
        assert f'href="#{section}"' in text
    assert 'id="robustness"' not in text
    assert "A remark." in text


def test_multilabel_page_has_average_precision_and_no_confusion_matrix():
    text = page(multilabel=True)
    assert "mean average precision" in text
    assert '<th scope="col">average precision</th>' in text
    assert 'id="confusion"' not in text


def test_page_has_the_robustness_too_if_it_was_measured():
    measured = robustness()
    text = page(robustness=measured, recommendation=recommend(measured, "photos"))
    assert 'id="confusion"' in text
    assert 'id="robustness"' in text
    assert all(f'id="{name}"' in text and f'href="#{name}"' in text for name in CORRUPTIONS)
    assert "graft fit photos --strategy finetune --augment-corruptions rotation" in text
    assert "90.0% accuracy without corruption, on 100 of 300 images (seed 0)" in text


@pytest.mark.parametrize("multilabel", [False, True])
def test_names_are_escaped_and_nothing_is_fetched(multilabel: bool):
    text = page(name=HOSTILE, multilabel=multilabel)
    assert "<script>alert" not in text
    assert "\x00" not in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert ParsedPage(text)


def test_many_labels_are_listed_by_their_most_confused_pairs():
    text = page(n_labels=40)
    assert "Most confused pairs" in text
    assert "All 40 labels" in text
