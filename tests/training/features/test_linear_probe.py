"""The head is scikit-learn's, written as one matrix for raw vectors, for one label an image or several."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from graft.service.artifact import MAPS
from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.openvino import Graph
from graft.training.backbones import onnx_cache, registry
from graft.training.features.linear_probe import (
    STRENGTHS,
    Head,
    choose_strength,
    fit,
    out_of_fold,
    past_the_valley,
    preferred,
    with_head,
)


def clouds(n_labels: int, noise: float, n: int = 240, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Labelled vectors (1, n, width) around one centre for each label, far from the origin and on an odd scale."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % n_labels
    vectors = random.normal(size=(n_labels, width))[labels] + noise * random.normal(size=(n, width))
    return (7 * vectors + 30).astype(np.float32)[None], labels


def standardised(vectors: np.ndarray) -> np.ndarray:
    return ((vectors[0] - vectors[0].mean(axis=0)) / vectors[0].std(axis=0).mean()).astype(np.float64)


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("balanced", [False, True])
def test_head_decides_as_logistic_regression_on_standardised_vectors(n_labels: int, strength: float, balanced: bool):
    vectors, labels = clouds(n_labels, noise=1.5)
    labels = np.where(np.arange(240) % 5 == 0, 0, labels)  # so that there is something to balance
    # For two labels scikit-learn holds back one row of weights, the difference of the two.
    theirs = LogisticRegression(
        C=2 * strength if n_labels == 2 else strength, max_iter=5000, tol=1e-8, class_weight="balanced" if balanced else None
    )
    decision = theirs.fit(standardised(vectors), labels).decision_function(standardised(vectors))
    logits = fit(vectors, labels, strength, balanced=balanced)(vectors[0])
    assert logits.shape == (240, n_labels)
    found = logits[:, 1] - logits[:, 0] if n_labels == 2 else logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, decision, atol=0.02)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_svm_decides_as_scikit_learns(n_labels: int):
    vectors, labels = clouds(n_labels, noise=1.5)
    theirs = LinearSVC(C=0.1, intercept_scaling=100, dual=False, tol=1e-8, max_iter=100_000)  # its bias is held back, nearly
    decision = theirs.fit(standardised(vectors), labels).decision_function(standardised(vectors))
    logits = fit(vectors, labels, 0.1, "svm")(vectors[0])
    np.testing.assert_allclose(logits[:, 1] if n_labels == 2 else logits, decision, atol=0.01)


def several(n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (1, n, 12) with three labels that come and go by themselves, and two that never and always apply."""
    random = np.random.default_rng(0)
    has = random.random((n, 3)) < [0.5, 0.3, 0.1]
    vectors = has @ random.normal(size=(3, 12)) + random.normal(size=(n, 12))
    return (7 * vectors + 30).astype(np.float32)[None], np.column_stack([has, np.zeros(n, bool), np.ones(n, bool)])


@pytest.mark.parametrize("balanced", [False, True])
def test_each_of_several_labels_is_a_logistic_regression_of_its_own(balanced: bool):
    vectors, has = several()
    logits = fit(vectors, has, 0.1, balanced=balanced)(vectors[0])
    assert logits.shape == (240, 5)
    for label in range(3):
        theirs = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8, class_weight="balanced" if balanced else None)
        decision = theirs.fit(standardised(vectors), has[:, label]).decision_function(standardised(vectors))
        np.testing.assert_allclose(logits[:, label], decision, atol=0.02)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_labels_that_never_or_always_apply_are_said_so(kind: str):
    vectors, has = several()
    logits = fit(vectors, has, 0.1, kind)(vectors[0])
    assert np.isfinite(logits).all()
    assert (logits[:, 3].max() < -0.9, logits[:, 4].min() > 0.9) == (True, True)


def test_search_among_several_labels_finds_a_strength_between_the_ends():
    trials = choose_strength(*several(), n_folds=4, seed=0)
    best = min(trials, key=lambda strength: trials[strength])
    assert STRENGTHS[0] < best < max(trials)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_balancing_finds_more_of_the_rare_label(kind: str):
    random = np.random.default_rng(0)
    labels = (np.arange(400) % 20 == 0).astype(np.int64)
    vectors = (labels[:, None] + random.normal(size=(400, 6))).astype(np.float32)[None]
    plain, balanced = (fit(vectors, labels, 0.01, kind, balanced=choice)(vectors[0]).argmax(axis=1) for choice in (False, True))
    rare = labels == 1
    assert plain[rare].mean() < 0.7 < balanced[rare].mean()


def test_each_block_has_a_scale_of_its_own():
    vectors, labels = clouds(3, noise=1.5)
    stretched = vectors * np.repeat([1.0, 1000.0], 6).astype(np.float32)
    blocks = [slice(0, 6), slice(6, 12)]
    one, other = fit(vectors, labels, 0.01, blocks=blocks), fit(stretched, labels, 0.01, blocks=blocks)
    np.testing.assert_allclose(one(vectors[0]), other(stretched[0]), atol=0.01)
    together = fit(stretched, labels, 0.01)
    assert np.abs(together(stretched[0]) - one(vectors[0])).max() > 0.3


def test_head_is_float32_and_remembers_its_strength():
    head = fit(*clouds(3, noise=1.5), 0.1)
    assert (head.weight.dtype, head.bias.dtype, head.strength) == (np.float32, np.float32, 0.1)


def test_two_equal_views_weigh_as_much_as_one():
    vectors, labels = clouds(3, noise=1.5)
    one, two = fit(vectors, labels, 0.1), fit(np.concatenate([vectors, vectors]), labels, 0.1)
    np.testing.assert_allclose(one(vectors[0]), two(vectors[0]), atol=5e-3)


def test_vectors_that_never_change_make_no_nan():
    head = fit(np.ones((1, 20, 4), np.float32), np.arange(20) % 2, 1.0)
    assert np.isfinite(head(np.ones((1, 4), np.float32))).all()


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_best_strength_lies_inside_the_search_for_noisy_labels(kind: str):
    vectors, labels = clouds(3, noise=2.5)
    trials = choose_strength(vectors, labels, 5, 0, kind)
    best = min(trials, key=lambda strength: trials[strength])
    assert STRENGTHS[0] < best < max(trials)


def test_search_stops_where_nothing_can_be_learned():
    random = np.random.default_rng(0)
    pure_noise = random.normal(size=(1, 200, 60)).astype(np.float32)
    trials = choose_strength(pure_noise, np.arange(200) % 2, n_folds=5, seed=0)
    assert len(trials) < len(STRENGTHS)
    assert min(trials.values()) == pytest.approx(np.log(2), abs=0.02)


@pytest.mark.parametrize(
    ("losses", "past"),
    [
        ([0.9], False),
        ([0.9, 0.9, 0.9, 0.9], False),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], True),
        ([0.9, 0.8, 0.7, 0.71], False),
        ([0.9, 0.8, 0.7, 0.71, 0.69], False),
        ([0.9, 0.8, 0.7, 0.71, 0.72], True),
    ],
)
def test_past_the_valley_are_two_steps_uphill_or_five_on_the_plain(losses: list[float], past: bool):
    assert past_the_valley(losses) == past


def test_same_seed_makes_the_same_trials():
    vectors, labels = clouds(2, noise=2.0)
    assert choose_strength(vectors, labels, 3, seed=4) == choose_strength(vectors, labels, 3, seed=4)


def test_every_image_is_asked_about_once_by_a_head_that_never_saw_it():
    vectors, labels = clouds(3, noise=0.4)
    wrong = labels.copy()
    wrong[:9] = (labels[:9] + 1) % 3
    probabilities = out_of_fold(vectors, wrong, 0.1, n_folds=5, seed=0)
    assert (probabilities.shape, probabilities.dtype) == ((240, 3), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities[:9].argmax(axis=1) == labels[:9]).all()  # one that had learned them would repeat the mistake


def test_out_of_fold_probabilities_of_pure_noise_claim_nothing():
    random = np.random.default_rng(0)
    noise, labels = random.normal(size=(1, 300, 60)).astype(np.float32), np.arange(300) % 3
    assert out_of_fold(noise, labels, 1.0, n_folds=5, seed=0).max() < 0.45


def test_no_copy_of_an_image_answers_for_it():
    random = np.random.default_rng(0)
    photos, labels = random.normal(size=(100, 80)), np.arange(100) % 2
    vectors, labels = np.repeat(photos, 2, axis=0).astype(np.float32)[None], np.repeat(labels, 2)
    groups = [f"photo {number // 2}" for number in range(200)]

    def accuracy(groups: list[str] | None) -> float:
        return float((out_of_fold(vectors, labels, 1.0, 5, seed=0, groups=groups).argmax(axis=1) == labels).mean())

    assert accuracy(None) > 0.7  # by copies alone: these labels are noise
    assert accuracy(groups) < 0.65


def test_several_labels_have_probabilities_of_their_own():
    vectors, has = several()
    probabilities = out_of_fold(vectors, has, 0.1, n_folds=4, seed=0, kind="svm")
    assert probabilities.shape == (240, 5)
    assert ((probabilities > 0.5) == has).mean() > 0.8


@pytest.fixture(scope="module")
def exported(fitted) -> onnx_cache.Exported:
    return onnx_cache.export(registry.choose("tf_efficientnet_lite0"), 128, 28, "crop")


@pytest.mark.parametrize(("sees", "width"), [("last", 1280), ("all", 1792)])
def test_appended_head_gives_the_heads_logits(exported: onnx_cache.Exported, tmp_path: Path, sees: str, width: int):
    random = np.random.default_rng(0)
    head = Head(random.normal(size=(3, width)).astype(np.float32), np.array([0.0, 10.0, -5.0], np.float32), 1.0)
    (tmp_path / "model.onnx").write_bytes(with_head(exported.graph, head, sees))
    batch = random.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    outputs, seen = Graph(tmp_path / "model.onnx")(batch), Graph(exported.graph)(batch)
    rows = seen[VECTORS] if sees == "last" else np.concatenate([seen["stages"], seen[VECTORS]], axis=1)
    np.testing.assert_allclose(outputs[LOGITS], head(rows), atol=1e-3)
    np.testing.assert_allclose(outputs[VECTORS], seen[VECTORS], atol=1e-5)


def test_a_head_on_the_last_vectors_leaves_no_stages_in_the_graph(exported: onnx_cache.Exported):
    import onnx

    head = Head(np.zeros((3, 1280), np.float32), np.zeros(3, np.float32), 1.0)
    before, after = onnx.load(exported.graph), onnx.load_from_string(with_head(exported.graph, head))
    assert [output.name for output in after.graph.output] == [LOGITS, VECTORS, MAPS]
    means = [[node.op_type for node in model.graph.node].count("ReduceMean") for model in (before, after)]
    assert means == [5, 0]
    assert len(after.graph.node) < len(before.graph.node)


def test_of_strengths_that_hardly_differ_the_strongest_regularisation_is_taken():
    assert preferred({0.01: 0.0651, 0.1: 0.0618, 0.316: 0.0604, 1.0: 0.0604, 10.0: 0.0601}) == 0.316


def test_a_strength_that_is_really_better_is_taken():
    assert preferred({0.01: 0.5, 0.1: 0.4, 1.0: 0.3}) == 1.0
