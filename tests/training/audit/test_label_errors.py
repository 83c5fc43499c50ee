"""Label issues and outliers are found if they are planted, and not otherwise."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.training.audit import label_errors
from graft.training.audit.label_errors import (
    MAX_SELF_CONFIDENCE,
    SELF_CONFIDENCE_SCALE,
    Outlier,
    _count_groups,
    _knn_distances,
    _multilabel_issues,
    _robust_z_scores,
    find_outliers,
    rank_labels,
    suggest_labels,
)
from graft.training.audit.label_noise import fit_label_noise
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


def suggest(probabilities: np.ndarray, given: np.ndarray) -> list[int]:
    """As `suggest_labels`, one image at a time."""
    n_labels = probabilities.shape[1]
    typical = [probabilities[given == label, label].mean() for label in range(n_labels)]
    error_rate = np.mean([np.argmax(row) != own for row, own in zip(probabilities, given, strict=True)])
    suggested = []
    for row, own in zip(probabilities, given, strict=True):
        others = [label for label in range(n_labels) if row[label] >= max(typical[label], 0.5)]
        doubtful = row[own] < min(MAX_SELF_CONFIDENCE, SELF_CONFIDENCE_SCALE / max(error_rate, 1e-6) ** 2)
        suggested.append(others[0] if others and others[0] != own and doubtful else -1)
    return suggested


@pytest.mark.parametrize(("n_wrong", "n_unsure"), [(3, 0), (12, 0), (12, 25), (40, 0)])
def test_suggestions_are_those_of_confident_learning(n_wrong: int, n_unsure: int):
    random = np.random.default_rng(n_wrong)
    true = random.integers(0, 4, 400)
    logits = 6 * np.eye(4)[true] + random.normal(size=(400, 4))
    logits[:n_unsure] /= 8
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = true.copy()
    given[-n_wrong:] = (true[-n_wrong:] + 1) % 3
    found = suggest_labels(probabilities, given).tolist()
    assert found == suggest(probabilities, given)
    assert max(found) >= 0


def test_labels_without_any_image_are_never_typical():
    probabilities = np.tile([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01]], (100, 1))
    given = np.tile([0, 1], 100)
    probabilities[5] = [0.001, 0.001, 0.998]
    assert np.flatnonzero(suggest_labels(probabilities, given) == 2).tolist() == [5]


def test_groups_with_a_label_are_counted_once():
    mask = np.array([[True, False], [True, True], [False, True], [True, False]])
    assert _count_groups(mask, None).tolist() == [3, 2]
    assert _count_groups(mask, ["a", "b", "b", "a"]).tolist() == [2, 1]


def test_labels_need_five_images_or_groups():
    vectors, labels, paths = clusters(n=60)
    labels = np.where(np.arange(60) < 5, 2, np.arange(60) % 2)
    assert {issue.given_label for issue in rank_labels(vectors, labels, paths, NAMES).issues} == {"ant", "bee", "cat"}
    labels[0] = 0
    assert {issue.given_label for issue in rank_labels(vectors, labels, paths, NAMES).issues} == {"ant", "bee"}


def test_certain_issues_come_first_and_then_the_most_probable():
    vectors, labels, paths = clusters()
    wrong = [5, 50, 101, 200]
    labels[wrong] = (labels[wrong] + 1) % 3
    ranked = rank_labels(vectors, labels, paths, NAMES)
    assert len(ranked.issues) == 300
    for issues in (ranked.issues[: ranked.n_default], ranked.issues[ranked.n_default :]):
        keys = [(-issue.error_probability, issue.path) for issue in issues]
        assert keys == sorted(keys)
    assert all(issue.given_label != issue.predicted_label for issue in ranked.issues)
    assert [issue.given_label for issue in ranked.issues] == [NAMES[labels[int(issue.path[:-4])]] for issue in ranked.issues]


def test_several_labels_of_an_image_are_corrected_together():
    random = np.random.default_rng(3)
    given = random.random((300, 3)) < 0.5
    probabilities = np.where(given, 0.98, 0.02) + random.uniform(-0.01, 0.01, (300, 3))
    probabilities[0] = 1 - probabilities[0]  # all three are wrong
    probabilities[1, 2] = 1 - probabilities[1, 2]
    given[0], given[1], given[2] = [True, False, True], [True, True, False], [False, False, False]
    probabilities[0], probabilities[1], probabilities[2] = [0.01, 0.99, 0.02], [0.97, 0.98, 0.995], [0.1, 0.02, 0.03]
    issues = _multilabel_issues(probabilities, given, ("ant", "bee", "cat"))
    binary = np.stack([1 - probabilities, probabilities], axis=2).reshape(-1, 2)
    errors = fit_label_noise(binary, given.ravel().astype(np.int64)).error_probability.reshape(300, 3)
    assert [issue.row for issue in issues] == list(range(300))
    assert (issues[0].given_label, issues[0].suggested_label, issues[0].is_certain) == ("ant, cat", "bee", True)
    assert (issues[1].given_label, issues[1].suggested_label, issues[1].is_certain) == ("ant, bee", "ant, bee, cat", True)
    assert (issues[2].given_label, issues[2].suggested_label, issues[2].is_certain) == ("no label", "ant", False)
    assert [issue.probability for issue in issues[:3]] == pytest.approx([0.99, 0.995, 0.1])
    for issue, error in zip(issues, errors, strict=True):
        assert issue.error_probability == pytest.approx(1 - (1 - error[0]) * (1 - error[1]) * (1 - error[2]))


def test_distance_of_an_outlier_is_that_of_its_fifth_nearest_neighbor(monkeypatch):
    monkeypatch.setattr(label_errors, "BLOCK_SIZE", 32)
    vectors, labels, paths = clusters(100)
    vectors[42] = -3 * vectors.mean(axis=0)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.sort(1 - np.delete(unit @ unit[42], 42))
    [outlier] = find_outliers(vectors, labels, paths)
    assert (outlier.path, outlier.distance) == ("42.jpg", pytest.approx(distances[4], abs=1e-5))


def test_more_than_thirty_images_may_have_outliers():
    for n, expected in ((30, []), (31, ["7.jpg"])):
        vectors, labels, paths = clusters(n, n_labels=1)
        vectors[7] = -3 * vectors.mean(axis=0)
        assert [outlier.path for outlier in find_outliers(vectors, labels, paths)] == expected


def test_many_images_are_compared_with_some_of_them(monkeypatch):
    monkeypatch.setattr(label_errors, "MAX_CHUNK_SIZE", 60)
    unit = clusters(150)[0]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    references = np.sort(np.random.default_rng(0).permutation(150)[:60]).tolist()
    expected = [sorted(1 - unit[row] @ unit[other] for other in references if other != row)[4] for row in range(150)]
    np.testing.assert_allclose(_knn_distances(unit), expected, atol=1e-5)


def test_outliers_are_farthest_first():
    vectors, labels, paths = clusters()
    mean = vectors.mean(axis=0)
    vectors[42], vectors[9] = -3 * mean, -3 * mean + 0.5 * np.random.default_rng(1).normal(size=32)
    found = find_outliers(vectors, labels, paths)
    assert {"42.jpg", "9.jpg"} <= {outlier.path for outlier in found}
    distances = [outlier.distance for outlier in found]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("several", [False, True])
def test_image_that_is_far_for_its_label_is_an_outlier(several: bool):
    # The images of the last label are very close to each other, and one lies as far away as those of the others do.
    random, labels = np.random.default_rng(0), np.repeat([0, 1, 2], [100, 100, 40])
    vectors = random.normal(size=(3, 32))[labels] + np.array([0.5, 0.5, 0.02])[labels, None] * random.normal(size=(240, 32))
    vectors[239] += 0.4 * random.normal(size=32)
    targets = np.eye(3, dtype=bool)[labels] if several else labels
    found = find_outliers(vectors.astype(np.float32), targets, [str(row) for row in range(240)])
    assert [outlier.path for outlier in found] == ["239"]


def test_robust_scores_by_hand():
    values = np.array([1.0, 2, 3, 4, 100, -7])
    # Of the first five, the median is 3 and the median absolute deviation is 1.
    expected = (values - 3) / 1.4826
    assert _robust_z_scores(values, np.arange(6) < 5) == pytest.approx(expected)
    assert _robust_z_scores(np.array([1.0, 1, 1, 2]), np.ones(4, bool)) == pytest.approx([0, 0, 0, 20])


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


def test_findings_name_outliers():
    [found] = label_errors.to_findings([], [Outlier("a.jpg", 0.9)])
    assert (found.kind, found.severity, found.paths) == ("outlier", "warning", ("a.jpg",))
    assert found.text == "a.jpg is an outlier: it differs from all other images"


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
