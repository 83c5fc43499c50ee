"""The fidelity of lower precision is measured, and its bounds are conservative."""

import numpy as np
import pytest
from other_predictions import with_predictions

from graft.service.fidelity import Fidelity
from graft.service.imaging.preprocess import decode
from graft.service.inference import loader
from graft.service.manifest import GRAPH
from graft.training.data.dataset import scan
from graft.training.data.splits import Splits
from graft.training.packaging import precision_check
from graft.training.packaging.precision_check import Logits
from graft.training.sample import SAMPLE
from graft.training.strategies.trained_model import TrainedModel

EMULATED = ["tf32", "bf16", "f16"]


@pytest.fixture(scope="module")
def splits() -> Splits:
    test = tuple(sample for sample in scan(SAMPLE).samples if sample.split == "test")[::10]
    return Splits((), test[::2], test[1::2])


@pytest.fixture(scope="module")
def trained(fitted, splits) -> TrainedModel:
    return with_predictions(fitted.trained, scan(SAMPLE), splits)


@pytest.fixture(scope="module")
def precisions(fitted, trained) -> dict[str, Logits]:
    return precision_check.load_precisions(trained, fitted.artifact.path / GRAPH)


@pytest.fixture(scope="module")
def found(trained, precisions, splits) -> dict[str, Fidelity]:
    return precision_check.check_precisions(precisions, trained, scan(SAMPLE), splits)


def test_f32_is_the_reference(found):
    expected = Fidelity(n_images=25, agreement=1, accuracy_change=0, log_loss_change=0, max_probability_shift=0)
    assert found["f32"] == expected
    assert expected.is_equivalent


def test_every_machine_measures_the_precisions_of_gpus(found):
    assert list(found) == ["f32", *EMULATED]
    shifts = {name: found[name].max_probability_shift for name in EMULATED}
    assert 0 < shifts["tf32"] < shifts["bf16"]
    assert 0 < shifts["f16"] < shifts["bf16"] < 0.25
    assert found["f16"].is_equivalent


@pytest.mark.skipif("bf16" not in loader.supported_precisions("cpu"), reason="this processor does not support bf16")
def test_the_emulation_drifts_as_much_as_the_processor_does(fitted, trained, precisions, splits):
    dataset = scan(SAMPLE)
    pixels = np.stack([decode(dataset.read(sample), trained.preprocessing).pixels for sample in splits.validation])
    exact = trained.validation.logits
    native = loader.load(fitted.artifact, "cpu", "bf16")(pixels).logits
    drifts = [np.abs(logits - exact).mean() for logits in (native, precisions["bf16"](pixels))]
    assert 1 / 3 < drifts[0] / drifts[1] < 3


def test_a_head_that_has_learned_from_the_validation_images_is_compared_with_itself(fitted):
    """A probe's validation predictions are by another head than the one that is packaged."""
    fidelity = fitted.artifact.manifest.fidelity
    assert fidelity["f16"].is_equivalent
    assert fidelity["f16"].max_probability_shift < 0.1


def test_a_precision_whose_range_is_too_small_is_left_out(trained, precisions, splits):
    def overflow(pixels):
        return np.full((len(pixels), 10), np.inf, np.float32)

    assert list(precision_check.check_precisions({**precisions, "f16": overflow}, trained, scan(SAMPLE), splits)) == [
        "f32",
        "tf32",
        "bf16",
    ]


def test_every_change_counts_for_every_validation_image(trained):
    rows = list(range(len(trained.validation.logits)))
    toward_last = np.zeros((2, 10), np.float32)
    toward_last[1, -1] = 1e3  # one of two changes makes every image the last label
    found = precision_check.fidelity(toward_last, trained, rows)
    labels = trained.validation.logits.argmax(axis=1)
    assert found.n_images == 25
    assert found.agreement == pytest.approx((1 + (labels == 9).mean()) / 2)
    before, after = ((guess == trained.validation.targets).mean() for guess in (labels, np.full(25, 9)))
    assert found.accuracy_change == pytest.approx((after - before) / 2)
    assert found.log_loss_change > 100


def test_the_same_logits_change_nothing(trained):
    found = precision_check.fidelity(np.zeros((3, 10), np.float32), trained, list(range(25)))
    assert (found.agreement, found.accuracy_change, found.log_loss_change, found.max_probability_shift) == (1, 0, 0, 0)


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
    changes = np.array(change, np.float32)
    assert precision_check.max_probability_shift(changes, temperature, several) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("logit", [0.0, 0.3, -2.0, 5.0])
def test_no_probability_shift_exceeds_the_bound(logit):
    before, after = (1 / (1 + np.exp(-(logit + change))) for change in (0, 0.08))
    assert abs(after - before) <= precision_check.max_probability_shift(
        np.array([[0.08, 0]], np.float32), 1.0, multilabel=False
    )


@pytest.mark.parametrize(
    ("n_images", "changes", "equivalent"),
    [
        (1000, {}, True),
        (1000, {"accuracy_change": -0.002}, True),
        (1000, {"accuracy_change": -0.003}, False),
        (1000, {"accuracy_change": 0.003}, True),
        (50, {"accuracy_change": -0.02}, True),  # one image
        (50, {"accuracy_change": -0.04}, False),
        (1000, {"log_loss_change": 0.01}, True),
        (1000, {"log_loss_change": 0.011}, False),
        (1000, {"log_loss_change": -0.5}, True),
        (1000, {"agreement": 0.995}, True),
        (1000, {"agreement": 0.994}, False),
    ],
)
def test_equivalence_is_decided_by_what_users_see(n_images, changes, equivalent):
    unchanged = {"agreement": 1, "accuracy_change": 0, "log_loss_change": 0, "max_probability_shift": 0.1}
    assert Fidelity(n_images=n_images, **(unchanged | changes)).is_equivalent is equivalent
