"""The fidelity of lower precision is measured, and its bounds are conservative."""

import numpy as np
import pytest
from other_predictions import with_predictions

from graft.service.inference import loader
from graft.service.manifest import GRAPH, Fidelity, Score
from graft.training.data.dataset import scan
from graft.training.data.splits import Splits
from graft.training.packaging import precision_check
from graft.training.sample import SAMPLE

NATIVE = loader.supported_precisions("cpu")
SCORE = Score(accuracy=0.9, low=0.8, high=0.95, n=40)


@pytest.fixture(scope="module")
def splits() -> Splits:
    test = tuple(sample for sample in scan(SAMPLE).samples if sample.split == "test")[::10]
    return Splits((), test[::2], test[1::2])


@pytest.fixture(scope="module")
def found(fitted, splits) -> dict[str, Fidelity]:
    dataset = scan(SAMPLE)
    trained = with_predictions(fitted.trained, dataset, splits)
    return precision_check.check_precisions(fitted.artifact.path / GRAPH, None, trained, dataset, splits)


def test_f32_is_the_reference(found):
    assert (found["f32"].max_probability_shift, found["f32"].n_changed, found["f32"].is_faithful) == (0, 0, True)


def test_score_is_measured_on_the_test_images(found, fitted, splits):
    from graft.service.inference.model import Model

    model, dataset = Model(fitted.artifact, loader.load(fitted.artifact, "cpu")), scan(SAMPLE)
    n_correct = sum(
        model.classify(dataset.read(sample), 1).ranked[0].label == dataset.labels[sample.label] for sample in splits.test
    )
    assert (found["f32"].score.n, found["f32"].score.accuracy) == (25, n_correct / 25)


@pytest.mark.skipif("bf16" not in NATIVE, reason="this processor does not support bf16")
def test_bf16_shifts_probabilities_slightly(found):
    assert 1e-4 < found["bf16"].max_probability_shift < 0.25
    assert found["bf16"].score.n == 25


def test_only_native_precisions_are_measured(found):
    assert set(found) == set(NATIVE) - {"int8"}


@pytest.mark.parametrize(
    ("change", "temperature", "several", "expected"),
    [
        ([[0, 0, 0], [0, 0, 0]], 1.0, False, 0),
        ([[0, 0, 0], [0.02, -0.02, 0]], 1.0, False, 0.01),
        ([[0, 0, 0], [0.02, -0.02, 0]], 2.0, False, 0.005),
        ([[1, 1, 1], [0, 0, 0]], 1.0, False, 0),  # softmax is invariant to a constant shift
        ([[1, 1, 1], [0, 0, 0]], 1.0, True, 0.25),
        ([[9, -9, 0], [0, 0, 0]], 1.0, False, 1),
    ],
)
def test_probability_shift_of_an_undecided_image(change, temperature, several, expected):
    before = np.array([[3, 1, -2], [0.5, 0.25, 7]], np.float32)
    logits = before + np.array(change, np.float32)
    assert precision_check.max_probability_shift(logits, before, temperature, several) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("logit", [0.0, 0.3, -2.0, 5.0])
def test_no_probability_shift_exceeds_the_bound(logit):
    before, after = (1 / (1 + np.exp(-(logit + change))) for change in (0, 0.08))
    logits = np.array([[logit, 0]], np.float32)
    assert abs(after - before) <= precision_check.max_probability_shift(
        logits + np.array([[0.08, 0]], np.float32), logits, 1.0, multilabel=False
    )


@pytest.mark.parametrize(
    ("moved", "changed", "faithful"), [(0, 0, True), (0.01, 0, True), (0.011, 0, False), (0.001, 1, False)]
)
def test_negligible_shift_is_faithful(moved, changed, faithful):
    assert Fidelity(max_probability_shift=moved, n_changed=changed, score=SCORE).is_faithful is faithful
