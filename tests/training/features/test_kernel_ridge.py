"""Kernel ridge regression: scikit-learn's solution, predictions out of fold, and what a linear head cannot learn."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression

from graft.service.inference.head import similarities
from graft.training.data.cross_validation import stratified_group_kfold
from graft.training.features import kernel_ridge
from graft.training.features.kernel_ridge import (
    BIAS_VARIANCE,
    KernelTrainer,
    Setting,
    cross_validate,
    fit_axes,
    principal_axes,
    stage_blocks,
)

BLOCKS = [slice(0, 6), slice(6, 26)]
SETTING = Setting(0.5, 0.03)


def make_features(n_images: int = 90, n_views: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (V, N, 26) in three clusters, as a ReLU leaves them, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % 3
    centers = random.gamma(1.0, size=(3, 26))
    views = [np.maximum(centers[labels] + random.normal(0, 0.5, (n_images, 26)), 0) for _ in range(n_views)]
    return np.stack(views).astype(np.float32), labels


def axes_of(features: np.ndarray, gamma: float = 1.0) -> np.ndarray:
    return np.sqrt(gamma) * np.stack([fit_axes(features, BLOCKS).axes(view) for view in features])


def test_solution_is_that_of_scikit_learn():
    features, labels = make_features(n_views=1)
    [points] = axes_of(features, SETTING.gamma)
    kernel = similarities(points, points).astype(np.float64) + BIAS_VARIANCE
    expected = KernelRidge(alpha=SETTING.ridge, kernel="precomputed").fit(kernel, np.eye(3)[labels]).predict(kernel)
    machine = KernelTrainer(features, BLOCKS, labels).fit(SETTING)
    np.testing.assert_allclose(machine.kernel(features[0]) + machine.bias, expected, atol=1e-3)


def test_every_view_is_a_center_if_there_are_few():
    features, labels = make_features()
    machine = KernelTrainer(features, BLOCKS, labels).fit(SETTING)
    np.testing.assert_allclose(machine.kernel.centers, axes_of(features, SETTING.gamma).reshape(180, -1), atol=1e-5)
    assert machine.kernel.coefficients.shape == (3, 180)


def test_centers_are_the_means_of_the_views_if_there_are_many():
    features, labels = make_features()
    machine = KernelTrainer(features, BLOCKS, labels, max_centers=179).fit(SETTING)
    np.testing.assert_allclose(machine.kernel.centers, axes_of(features, SETTING.gamma).mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("max_centers", [5_000, 90])
def test_predictions_out_of_fold_are_those_of_machines_of_the_other_folds(max_centers: int):
    features, labels = make_features()
    trainer = KernelTrainer(features, BLOCKS, labels, max_centers=max_centers)
    folds = stratified_group_kfold(labels, 4, 0)
    found = trainer.fit_folds(folds, SETTING)
    views = axes_of(features, SETTING.gamma)
    points = views if max_centers > 180 else views.mean(axis=0, keepdims=True)
    for train, held_out in folds:
        centers = points[:, train].reshape(-1, points.shape[-1])
        kernel = similarities(centers, centers).astype(np.float64) + BIAS_VARIANCE
        targets = np.tile(np.eye(3)[labels[train]], (len(points), 1))
        solution = np.linalg.solve(kernel + SETTING.ridge * np.eye(len(kernel)), targets)
        expected = (similarities(views[0, held_out], centers) + BIAS_VARIANCE) @ solution
        np.testing.assert_allclose(found[held_out], expected, atol=1e-3)


def test_a_machine_learns_what_no_linear_head_can():
    random = np.random.default_rng(0)
    features = random.normal(size=(1, 400, 26)).astype(np.float32)
    features[..., :2] *= 6
    labels = (features[0, :, 0] * features[0, :, 1] > 0).astype(np.int64)
    held_out = [(np.arange(300), np.arange(300, 400))]
    outputs = KernelTrainer(features, [slice(0, 26)], labels).fit_folds(held_out, Setting(1.0, 0.03))[300:]
    linear = LogisticRegression().fit(features[0, :300], labels[:300])
    assert (outputs.argmax(axis=1) == labels[300:]).mean() > 0.85
    assert linear.score(features[0, 300:], labels[300:]) < 0.65


def test_rare_labels_weigh_more_if_balanced():
    random = np.random.default_rng(0)
    labels = (np.arange(200) < 20).astype(np.int64)
    features = (random.normal(size=(1, 200, 26)) + 0.35 * labels[:, None]).astype(np.float32)
    folds = stratified_group_kfold(labels, 5, 0)
    plain, balanced = (
        KernelTrainer(features, BLOCKS, labels, balanced).fit_folds(folds, Setting(0.25, 1.0)) for balanced in (False, True)
    )
    gaps = [outputs[labels == 1, 1] - outputs[labels == 1, 0] for outputs in (plain, balanced)]
    assert gaps[1].mean() > gaps[0].mean() + 0.1


def test_outputs_for_several_labels_are_positive_where_a_label_is_probable():
    features, labels = make_features()
    targets = np.eye(3, dtype=bool)[labels] | (np.arange(90) % 2 == 0)[:, None]
    outputs = KernelTrainer(features, BLOCKS, targets).fit_folds(stratified_group_kfold(targets, 3, 0), SETTING)
    odd = np.arange(90) % 2 == 1
    assert (outputs[odd][np.arange(45), labels[odd]] > 0).mean() > 0.6
    assert outputs.shape == (90, 3)


def test_mean_squared_distance_of_two_images_is_two_whatever_the_scale():
    features, _ = make_features(n_views=1)
    for scale in (1.0, 100.0):
        [points] = axes_of(scale * features)
        assert (pdist(points) ** 2).mean() == pytest.approx(2.0, rel=0.25)


def test_blocks_count_the_same_whatever_their_width():
    features, _ = make_features(n_views=1)
    kernel = fit_axes(features, BLOCKS)
    roots = np.sqrt(features[0] + kernel.offset) - np.sqrt(kernel.offset)
    spreads = [((roots[:, columns] @ kernel.projection[:, columns].T).var(axis=0)).sum() for columns in BLOCKS]
    assert spreads[0] == pytest.approx(spreads[1], rel=0.35)


def test_distances_do_not_change_on_the_principal_axes():
    features, _ = make_features(n_views=1)
    kernel = fit_axes(features, BLOCKS)
    assert kernel.projection.shape == (26, 26)
    roots = np.sqrt(features[0] + kernel.offset) - np.sqrt(kernel.offset)
    scales = np.empty(26)
    for columns in BLOCKS:
        scales[columns] = roots[:, columns].std(axis=0).mean() * np.sqrt(2 * roots[:, columns].shape[1])
    np.testing.assert_allclose(pdist(kernel.axes(features[0])), pdist(roots / scales), rtol=1e-3)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (20, 20)])
def test_principal_axes_are_the_first_singular_vectors(shape: tuple[int, int]):
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows -= rows.mean(axis=0)
    axes = principal_axes(rows, 5)
    _, _, singular = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-4)
    np.testing.assert_allclose(axes @ axes.T, singular[:5].T @ singular[:5], atol=1e-3)


def test_number_of_axes_is_limited(monkeypatch):
    monkeypatch.setattr(kernel_ridge, "MAX_AXES", 10)
    features, _ = make_features()
    assert fit_axes(features, BLOCKS).projection.shape == (10, 26)


def test_a_constant_feature_does_no_harm():
    features, labels = make_features()
    features[..., :6] = 0
    machine = KernelTrainer(features, BLOCKS, labels).fit(SETTING)
    assert np.isfinite(machine.kernel(features[0])).all()


def test_settings_are_compared_by_their_log_loss():
    features, labels = make_features(200, seed=1)
    features += np.random.default_rng(2).normal(0, 2, features.shape).astype(np.float32)
    losses = cross_validate(KernelTrainer(features, BLOCKS, labels), stratified_group_kfold(labels, 3, 0))
    assert len(losses) == len(kernel_ridge.GAMMAS) * len(kernel_ridge.RIDGES)
    assert 0 < min(losses.values()) < max(losses.values()) < np.log(3)


def test_blocks_are_the_stages_and_the_last_vector():
    slices = {"stage1": slice(0, 2), "stage2": slice(2, 6), "last": slice(6, 9), "all": slice(0, 9)}
    assert stage_blocks(slices) == [slice(0, 6), slice(6, 9)]
    assert stage_blocks({"last": slice(0, 9), "all": slice(0, 9)}) == [slice(0, 9)]
