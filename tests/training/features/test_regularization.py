"""The work of the search for the regularization stops growing with the number of labels; counted, not timed."""

from collections.abc import Callable

import numpy as np
import pytest

from graft.training.features import linear_probe, linear_solver, regularization
from graft.training.features.regularization import MAX_SEARCH_LABELS, cross_validate, search_folds, search_subset

WIDTH, PER_LABEL = 24, 5


def make_labels(n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (1, N, WIDTH) in one cluster per label, with PER_LABEL images each, and the labels (N,)."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(n_labels), PER_LABEL)
    vectors = random.normal(size=(n_labels, WIDTH))[labels] + 0.7 * random.normal(size=(len(labels), WIDTH))
    return vectors.astype(np.float32)[None], labels


@pytest.fixture
def count_work(monkeypatch) -> Callable[[Callable[[], object]], tuple[int, int]]:
    """Counts the evaluations of the loss and the multiplications in their matrix products, while a function runs."""
    products: list[int] = []
    evaluate = linear_solver.loss_and_grad

    def counted(loss, vectors, targets, weights, parameters):
        products.append(2 * vectors.size * len(parameters))
        return evaluate(loss, vectors, targets, weights, parameters)

    monkeypatch.setattr(linear_solver, "loss_and_grad", counted)

    def count(run: Callable[[], object]) -> tuple[int, int]:
        products.clear()
        run()
        return len(products), sum(products)

    return count


def test_work_of_the_search_does_not_grow_beyond_the_maximum_number_of_labels(count_work, monkeypatch):
    monkeypatch.setattr(regularization, "MAX_SEARCH_LABELS", 20)
    at_the_maximum, beyond = (count_work(lambda n=n: cross_validate(*make_labels(n), n_folds=3, seed=0))[1] for n in (20, 80))
    assert beyond < 1.5 * at_the_maximum


def test_work_of_a_head_per_image_and_label_does_not_grow(count_work):
    def work_per_pair(n_labels: int) -> float:
        vectors, labels = make_labels(n_labels)
        return count_work(lambda: linear_probe.fit(vectors, labels, 1.0))[1] / len(labels) / n_labels

    assert work_per_pair(200) < 1.5 * work_per_pair(40)


def test_head_that_starts_from_another_one_needs_fewer_evaluations_and_is_the_same(count_work):
    vectors, labels = make_labels(50)
    before = linear_probe.fit(vectors[:, ::2], labels[::2], 1.0)
    heads = []
    cold = count_work(lambda: heads.append(linear_probe.fit(vectors, labels, 1.0, tolerance=1e-6)))[0]
    warm = count_work(lambda: heads.append(linear_probe.fit(vectors, labels, 1.0, init=before, tolerance=1e-6)))[0]
    assert warm < cold
    np.testing.assert_allclose(heads[0](vectors[0]), heads[1](vectors[0]), atol=0.05)


def test_search_uses_all_images_of_some_labels():
    _, labels = make_labels(3 * MAX_SEARCH_LABELS)
    images, targets = search_subset(labels, 10_000, seed=0)
    assert np.bincount(targets).tolist() == [PER_LABEL] * MAX_SEARCH_LABELS
    assert len(np.unique(labels[images])) == MAX_SEARCH_LABELS
    assert len(images) == PER_LABEL * MAX_SEARCH_LABELS


def test_search_over_few_labels_uses_all_images():
    _, labels = make_labels(3)
    images, targets = search_subset(labels, 10_000, seed=0)
    assert (images.tolist(), targets.tolist()) == (list(range(15)), labels.tolist())


def test_search_of_multilabel_data_uses_some_of_the_columns():
    targets = np.eye(3 * MAX_SEARCH_LABELS, dtype=bool)
    images, selected = search_subset(targets, 100, seed=0)
    assert (len(images), selected.shape) == (100, (100, MAX_SEARCH_LABELS))


@pytest.mark.parametrize(("n_images", "n_used"), [(90, 3), (300, 1), (150, 2)])
def test_folds_are_left_out_once_enough_images_are_held_out(n_images: int, n_used: int):
    folds = search_folds(np.arange(n_images) % 2, 3, 0, None, min_held_out=100)
    assert len(folds) == n_used
    assert min(100, n_images) <= sum(len(held_out) for _, held_out in folds)
