"""Linear heads equal scikit-learn's, for multiclass and multi-label data; cross-validation of C; the ONNX head."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.head import Head
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import MAPS_OUTPUT
from graft.training.backbones import onnx_cache, registry
from graft.training.features.linear_probe import fit, out_of_fold_probabilities
from graft.training.features.onnx_head import append_head
from graft.training.features.regularization import C_GRID, cross_validate, is_overfitting, one_percent_rule


def make_clusters(n_labels: int, noise: float, n: int = 240, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Labeled vectors (1, n, width) around one center per label, far from the origin and with a large scale."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % n_labels
    vectors = random.normal(size=(n_labels, width))[labels] + noise * random.normal(size=(n, width))
    return (7 * vectors + 30).astype(np.float32)[None], labels


def standardized(vectors: np.ndarray) -> np.ndarray:
    return ((vectors[0] - vectors[0].mean(axis=0)) / vectors[0].std(axis=0).mean()).astype(np.float64)


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("balanced", [False, True])
def test_logistic_head_equals_scikit_learns(n_labels: int, C: float, balanced: bool):
    vectors, labels = make_clusters(n_labels, noise=1.5)
    labels = np.where(np.arange(240) % 5 == 0, 0, labels)  # unbalanced
    # For two labels, scikit-learn penalizes a single row of weights, the difference of the two.
    reference = LogisticRegression(
        C=2 * C if n_labels == 2 else C, max_iter=5000, tol=1e-8, class_weight="balanced" if balanced else None
    )
    decision = reference.fit(standardized(vectors), labels).decision_function(standardized(vectors))
    logits = fit(vectors, labels, C, balanced=balanced, tolerance=1e-5)(vectors[0])
    assert logits.shape == (240, n_labels)
    actual = logits[:, 1] - logits[:, 0] if n_labels == 2 else logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(actual, decision, atol=0.02)


@pytest.mark.parametrize("n_labels", [2, 3])
def test_svm_head_equals_scikit_learns(n_labels: int):
    vectors, labels = make_clusters(n_labels, noise=1.5)
    reference = LinearSVC(
        C=0.1, intercept_scaling=100, dual=False, tol=1e-8, max_iter=100_000
    )  # so that its bias is hardly penalized
    decision = reference.fit(standardized(vectors), labels).decision_function(standardized(vectors))
    logits = fit(vectors, labels, 0.1, "svm", tolerance=1e-5)(vectors[0])
    np.testing.assert_allclose(logits[:, 1] if n_labels == 2 else logits, decision, atol=0.01)


def make_multilabel(n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (1, n, 12) with three independent labels, one that no image has and one that every image has."""
    random = np.random.default_rng(0)
    targets = random.random((n, 3)) < [0.5, 0.3, 0.1]
    vectors = targets @ random.normal(size=(3, 12)) + random.normal(size=(n, 12))
    return (7 * vectors + 30).astype(np.float32)[None], np.column_stack([targets, np.zeros(n, bool), np.ones(n, bool)])


@pytest.mark.parametrize("balanced", [False, True])
def test_multilabel_head_is_one_logistic_regression_per_label(balanced: bool):
    vectors, targets = make_multilabel()
    logits = fit(vectors, targets, 0.1, balanced=balanced, tolerance=1e-5)(vectors[0])
    assert logits.shape == (240, 5)
    for label in range(3):
        reference = LogisticRegression(C=0.1, max_iter=5000, tol=1e-8, class_weight="balanced" if balanced else None)
        decision = reference.fit(standardized(vectors), targets[:, label]).decision_function(standardized(vectors))
        np.testing.assert_allclose(logits[:, label], decision, atol=0.02)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_labels_of_no_image_and_of_every_image_are_predicted(kind: str):
    vectors, targets = make_multilabel()
    logits = fit(vectors, targets, 0.1, kind)(vectors[0])
    assert np.isfinite(logits).all()
    assert (logits[:, 3].max() < -0.9, logits[:, 4].min() > 0.9) == (True, True)


def test_best_C_of_multilabel_data_is_inside_the_grid():
    losses = cross_validate(*make_multilabel(), n_folds=4, seed=0)
    best = min(losses, key=lambda C: losses[C])
    assert C_GRID[0] < best < max(losses)


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_balancing_raises_the_recall_of_the_rare_label(kind: str):
    random = np.random.default_rng(0)
    labels = (np.arange(400) % 20 == 0).astype(np.int64)
    vectors = (labels[:, None] + random.normal(size=(400, 6))).astype(np.float32)[None]
    unbalanced, balanced = (
        fit(vectors, labels, 0.01, kind, balanced=value)(vectors[0]).argmax(axis=1) for value in (False, True)
    )
    rare = labels == 1
    assert unbalanced[rare].mean() < 0.7 < balanced[rare].mean()


def test_each_column_group_has_its_own_scale():
    vectors, labels = make_clusters(3, noise=1.5)
    stretched = vectors * np.repeat([1.0, 1000.0], 6).astype(np.float32)
    groups = [slice(0, 6), slice(6, 12)]
    plain, scaled = fit(vectors, labels, 0.01, scale_groups=groups), fit(stretched, labels, 0.01, scale_groups=groups)
    np.testing.assert_allclose(plain(vectors[0]), scaled(stretched[0]), atol=0.01)
    single_group = fit(stretched, labels, 0.01)
    assert np.abs(single_group(stretched[0]) - plain(vectors[0])).max() > 0.3


def test_head_is_float32_and_stores_C():
    head = fit(*make_clusters(3, noise=1.5), 0.1)
    assert (head.weight.dtype, head.bias.dtype) == (np.float32, np.float32)


def test_two_equal_views_have_the_weight_of_one():
    vectors, labels = make_clusters(3, noise=1.5)
    one, two = fit(vectors, labels, 0.1), fit(np.concatenate([vectors, vectors]), labels, 0.1)
    np.testing.assert_allclose(one(vectors[0]), two(vectors[0]), atol=5e-3)


def test_constant_vectors_give_no_nan():
    head = fit(np.ones((1, 20, 4), np.float32), np.arange(20) % 2, 1.0)
    assert np.isfinite(head(np.ones((1, 4), np.float32))).all()


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_best_C_of_noisy_labels_is_inside_the_grid(kind: str):
    vectors, labels = make_clusters(3, noise=2.5)
    losses = cross_validate(vectors, labels, 5, 0, kind)
    best = min(losses, key=lambda C: losses[C])
    assert C_GRID[0] < best < max(losses)


def test_regularization_path_stops_early_for_random_labels():
    random = np.random.default_rng(0)
    pure_noise = random.normal(size=(1, 200, 60)).astype(np.float32)
    losses = cross_validate(pure_noise, np.arange(200) % 2, n_folds=5, seed=0)
    assert len(losses) < len(C_GRID)
    assert min(losses.values()) == pytest.approx(np.log(2), abs=0.02)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.9], False),
        ([0.9, 0.9, 0.9, 0.9], False),
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], True),
        ([0.9, 0.8, 0.7, 0.71], False),
        ([0.9, 0.8, 0.7, 0.71, 0.69], False),
        ([0.9, 0.8, 0.7, 0.71, 0.72], True),
    ],
)
def test_overfitting_is_two_steps_above_the_minimum_or_five_without_improvement(losses: list[float], expected: bool):
    assert is_overfitting(losses) == expected


def test_same_seed_gives_the_same_losses():
    vectors, labels = make_clusters(2, noise=2.0)
    assert cross_validate(vectors, labels, 3, seed=4) == cross_validate(vectors, labels, 3, seed=4)


def test_every_image_is_predicted_by_a_head_not_trained_on_it():
    vectors, labels = make_clusters(3, noise=0.4)
    wrong = labels.copy()
    wrong[:9] = (labels[:9] + 1) % 3
    probabilities = out_of_fold_probabilities(vectors, wrong, 0.1, n_folds=5, seed=0)
    assert (probabilities.shape, probabilities.dtype) == ((240, 3), np.float32)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities[:9].argmax(axis=1) == labels[:9]).all()  # a head trained on them would predict the wrong labels


def test_out_of_fold_probabilities_of_noise_are_low():
    random = np.random.default_rng(0)
    noise, labels = random.normal(size=(1, 300, 60)).astype(np.float32), np.arange(300) % 3
    assert out_of_fold_probabilities(noise, labels, 1.0, n_folds=5, seed=0).max() < 0.45


def test_groups_prevent_leakage_between_copies():
    random = np.random.default_rng(0)
    photos, labels = random.normal(size=(100, 80)), np.arange(100) % 2
    vectors, labels = np.repeat(photos, 2, axis=0).astype(np.float32)[None], np.repeat(labels, 2)
    groups = [f"photo {number // 2}" for number in range(200)]

    def accuracy(groups: list[str] | None) -> float:
        return float(
            (out_of_fold_probabilities(vectors, labels, 1.0, 5, seed=0, groups=groups).argmax(axis=1) == labels).mean()
        )

    assert accuracy(None) > 0.7  # leakage: the labels are random
    assert accuracy(groups) < 0.65


def test_multilabel_out_of_fold_probabilities():
    vectors, targets = make_multilabel()
    probabilities = out_of_fold_probabilities(vectors, targets, 0.1, n_folds=4, seed=0, kind="svm")
    assert probabilities.shape == (240, 5)
    assert ((probabilities > 0.5) == targets).mean() > 0.8


@pytest.fixture(scope="module")
def exported(fitted) -> onnx_cache.ExportedBackbone:
    return onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), 128, 28, "crop")


@pytest.mark.parametrize(("head_input", "width"), [("last", 1280), ("all", 1792)])
def test_appended_head_gives_the_same_logits(
    exported: onnx_cache.ExportedBackbone, tmp_path: Path, head_input: str, width: int
):
    random = np.random.default_rng(0)
    head = Head(random.normal(size=(3, width)).astype(np.float32), np.array([0.0, 10.0, -5.0], np.float32))
    (tmp_path / "model.onnx").write_bytes(append_head(exported.graph, head, head_input))
    batch = random.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    outputs, backbone_outputs = OpenVinoModel(tmp_path / "model.onnx")(batch), OpenVinoModel(exported.graph)(batch)
    features = (
        backbone_outputs[VECTORS]
        if head_input == "last"
        else np.concatenate([backbone_outputs["stages"], backbone_outputs[VECTORS]], axis=1)
    )
    np.testing.assert_allclose(outputs[LOGITS], head(features), atol=1e-3)
    np.testing.assert_allclose(outputs[VECTORS], backbone_outputs[VECTORS], atol=1e-5)


def test_head_on_the_last_vector_removes_the_stages_from_the_graph(exported: onnx_cache.ExportedBackbone):
    import onnx

    head = Head(np.zeros((3, 1280), np.float32), np.zeros(3, np.float32))
    before, after = onnx.load(exported.graph), onnx.load_from_string(append_head(exported.graph, head))
    assert [output.name for output in after.graph.output] == [LOGITS, VECTORS, MAPS_OUTPUT]
    means = [[node.op_type for node in model.graph.node].count("ReduceMean") for model in (before, after)]
    assert means == [5, 0]
    assert len(after.graph.node) < len(before.graph.node)


def test_strongest_regularization_within_one_percent_is_selected():
    assert one_percent_rule({0.01: 0.0651, 0.1: 0.0618, 0.316: 0.0604, 1.0: 0.0604, 10.0: 0.0601}) == 0.316


def test_significantly_better_C_is_selected():
    assert one_percent_rule({0.01: 0.5, 0.1: 0.4, 1.0: 0.3}) == 1.0
