"""Label issues and outliers are found if they are planted, and not otherwise."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.training.audit import label_errors
from graft.training.audit.label_errors import find_outliers, rank_labels, suggest_labels
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.readers.source import Source
from graft.training.features.feature_arrays import LazyFeatures


def clusters(n: int = 300, n_labels: int = 3, width: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Vectors in one cluster per label: (float32 (N, D), labels (N,), paths)."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % n_labels
    centers = random.normal(size=(n_labels, width))
    vectors = centers[labels] + 0.3 * random.normal(size=(n, width))
    return vectors.astype(np.float32), labels, [f"{row}.jpg" for row in range(n)]


NAMES = ("ant", "bee", "cat")


def test_half_of_the_planted_errors_are_found_without_false_positives():
    vectors, labels, paths = clusters()
    wrong = [5, 50, 101, 200]
    labels[wrong] = (labels[wrong] + 1) % 3
    found = label_errors.rank_labels(vectors, labels, paths, NAMES).top()
    assert len(found) >= 2
    assert {issue.path for issue in found} <= {f"{row}.jpg" for row in wrong}
    [first] = [issue for issue in found if issue.path == "5.jpg"]
    assert (first.given_label, first.predicted_label) == ("ant", "cat")
    assert first.probability > 0.5


def test_correct_labels_are_not_reported():
    vectors, labels, paths = clusters()
    assert label_errors.rank_labels(vectors, labels, paths, NAMES).top() == []


def test_random_labels_are_not_reported():
    vectors, labels, paths = clusters()
    assert label_errors.rank_labels(vectors, np.random.default_rng(1).permutation(labels), paths, NAMES).top() == []


def test_label_with_too_few_images_is_skipped():
    vectors, labels, paths = clusters()
    labels[:] = np.where(labels == 2, 1, labels)
    labels[7] = 2
    assert "7.jpg" not in {issue.path for issue in label_errors.rank_labels(vectors, labels, paths, NAMES).top()}


def test_duplicates_do_not_confirm_each_other():
    vectors, labels, paths = clusters()
    vectors[30:33], labels[30:33] = vectors[0], 1  # three duplicates of an image of another label
    groups = [f"{row}" for row in range(300)]
    groups[0] = groups[30] = groups[31] = groups[32] = "copies"
    found = {issue.path for issue in label_errors.rank_labels(vectors, labels, paths, NAMES, groups).top()}
    assert {"30.jpg", "31.jpg", "32.jpg"} <= found


def test_multilabel_suggestion_is_the_complete_corrected_set():
    vectors, labels, paths = clusters(n=400, n_labels=2)
    given = np.stack([labels == 0, np.ones(400, bool)], axis=1)
    given[::4, 1] = False
    vectors = np.concatenate([vectors, np.where(given[:, 1:], 3, -3).repeat(8, axis=1)], axis=1).astype(np.float32)
    given[9, 0] = True
    [found] = label_errors.rank_labels(vectors, given, paths, ("ant", "bee")).top()
    assert (found.path, found.given_label, found.predicted_label) == ("9.jpg", "ant, bee", "bee")


def test_large_data_are_processed_in_chunks(monkeypatch):
    monkeypatch.setattr(label_errors, "MAX_CHUNK_SIZE", 120)
    vectors, labels, paths = clusters(n=360)
    labels[17] = (labels[17] + 1) % 3
    assert [issue.path for issue in label_errors.rank_labels(vectors, labels, paths, NAMES).top()] == ["17.jpg"]


def test_suggestion_needs_a_typical_probability_and_a_low_error_rate():
    probabilities = np.array([[0.97, 0.03], [0.9, 0.1], [0.02, 0.98], [0.01, 0.99], [0.98, 0.02]])
    # An error rate of 20 % is too high.
    assert suggest_labels(probabilities, np.array([0, 0, 1, 1, 1])).tolist() == [-1, -1, -1, -1, -1]
    more = np.concatenate([probabilities, np.tile([[0.97, 0.03], [0.02, 0.98]], (50, 1))])
    own = np.array([0, 0, 1, 1, 1] + [0, 1] * 50)
    assert suggest_labels(more, own).tolist()[4] == 0
    assert (np.delete(suggest_labels(more, own), 4) == -1).all()


def test_distant_image_is_an_outlier():
    vectors, labels, paths = clusters()
    vectors[42] = -3 * vectors.mean(axis=0)
    assert [outlier.path for outlier in find_outliers(vectors, labels, paths)] == ["42.jpg"]


def test_similar_images_have_no_outliers():
    assert find_outliers(*clusters()) == []


@pytest.mark.parametrize("n", [1, 10, label_errors.MIN_IMAGES_FOR_OUTLIERS])
def test_too_few_images_have_no_outliers(n: int):
    vectors, labels, paths = clusters(n)
    assert find_outliers(vectors, labels, paths) == []


def test_findings_name_the_file_and_both_labels():
    [found] = label_errors.to_findings([label_errors.LabelIssue("a\n.jpg", "ant", "bee", 0.987)], [])
    assert (found.kind, found.severity) == ("label-error", "warning")
    assert found.text == r"'a\n.jpg' is labeled ant, looks like bee (99%)"


@pytest.mark.slow
def test_memory_mapped_vectors_give_the_same_results_and_stay_on_disk(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(label_errors, "MAX_CHUNK_SIZE", 500)
    monkeypatch.setattr(label_errors, "BLOCK_SIZE", 100)
    vectors, labels, paths = clusters(10_000, width=256)
    labels[[5, 50, 101, 200]] = (labels[[5, 50, 101, 200]] + 1) % 3
    vectors[7] = -10 * vectors[7]
    vectors.astype(np.float16).tofile(tmp_path / "vectors")
    stored = np.asarray(np.memmap(tmp_path / "vectors", np.float16, "r", shape=vectors.shape))
    found = {}
    for name, source in (("memory", stored.astype(np.float32)), ("disk", LazyFeatures(stored, np.arange(len(stored))))):
        tracemalloc.start()
        found[name] = label_errors.rank_labels(source, labels, paths, NAMES), find_outliers(source, labels, paths)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found["disk"] == found["memory"]
    assert found["disk"][0].n_default >= 2
    assert peak < vectors.nbytes / 2


def test_order_of_the_samples_does_not_matter():
    vectors, labels, paths = clusters()
    wrong = [5, 50, 101, 200]
    labels[wrong] = (labels[wrong] + 1) % 3
    samples = [
        Sample(path, (int(label),), digest=hashlib.sha256(path.encode()).digest())
        for path, label in zip(paths, labels, strict=True)
    ]
    dataset = Dataset(Source(Path("nowhere")), NAMES, tuple(samples))
    in_order = label_errors.find_issues(dataset, samples, vectors)
    assert in_order[0].top()
    assert label_errors.find_issues(dataset, samples[::-1], vectors[::-1]) == in_order


def test_labels_of_a_few_groups_are_skipped():
    random = np.random.default_rng(0)
    vectors, targets = random.normal(size=(60, 8)).astype(np.float32), np.repeat([0, 1, 2], 20)
    paths, labels = [f"{row}.png" for row in range(60)], ("a", "b", "c")
    one_each = [str(target) for target in targets]
    assert rank_labels(vectors, targets, paths, labels, one_each).issues == ()
    # Of the third label every image is a group, but there is no other label to compare it with.
    assert rank_labels(vectors, targets, paths, labels, [*one_each[:40], *paths[40:]]).issues == ()
    ranked = rank_labels(vectors, targets, paths, labels, [*one_each[:20], *paths[20:]]).issues
    assert {issue.given_label for issue in ranked} == {"b", "c"}
