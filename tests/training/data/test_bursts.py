"""Bursts are found by consecutive names and similar vectors together, and by neither alone."""

import numpy as np
import pytest

from graft.training.data.bursts import FAR, Bursts, _threshold, find_bursts

WIDTH = 64
SIZES = (3, 5, 4, 8, 3, 12, 6, 20)


def make_bursts(seed: int = 0, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three labels of eight bursts each, in order: the label and the burst of each image, and vectors, float32 (N, WIDTH)."""
    random = np.random.default_rng(seed)
    bursts = np.repeat(np.arange(3 * len(SIZES)), 3 * SIZES)
    centers = random.standard_normal((3, 1, WIDTH)) + random.standard_normal((3, len(SIZES), WIDTH))
    vectors = centers.reshape(-1, WIDTH)[bursts] + noise * random.standard_normal((len(bursts), WIDTH))
    return bursts // len(SIZES), bursts, vectors.astype(np.float32)


def names(labels: np.ndarray, name: str = "{label}/IMG_{number:04}.jpg") -> list[str]:
    seen = dict.fromkeys(labels.tolist(), 0)
    paths = []
    for label in labels.tolist():
        seen[label] += 1
        paths.append(name.format(label="abc"[label], number=seen[label]))
    return paths


def groups_of(bursts: Bursts, n: int) -> list[int]:
    groups = list(range(n))
    for rows in bursts.rows:
        for row in rows:
            groups[row] = n + rows[0]
    return groups


@pytest.mark.parametrize(
    "name", ["{label}/IMG_{number:04}.jpg", "train/{label}/frame{number}-small.png", "{label}/{number}.jpg"]
)
@pytest.mark.parametrize("seed", range(3))
def test_planted_bursts_are_found(name: str, seed: int):
    from sklearn.metrics import adjusted_rand_score

    labels, planted, vectors = make_bursts(seed)
    found = find_bursts(names(labels, name), labels.tolist(), lambda rows: vectors[rows])
    assert found is not None
    assert adjusted_rand_score(planted, groups_of(found, len(labels))) >= 0.8


def test_bursts_are_compared_with_random_order():
    labels, _, vectors = make_bursts()
    found = find_bursts(names(labels), labels.tolist(), lambda rows: vectors[rows])
    n_in_bursts = sum(map(len, found.rows))
    assert found.coverage == n_in_bursts / len(labels) > 0.8
    assert found.cohesion > 0.9
    assert 2 < found.ratio < 3  # in random order, some photos of a burst meet by chance


def test_short_sequences_have_bursts_and_three_files_are_none():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [16, 16, 3])
    planted = np.repeat(np.arange(9), [4] * 8 + [3])
    vectors = (random.standard_normal((9, WIDTH))[planted] + 0.1 * random.standard_normal((35, WIDTH))).astype(np.float32)
    found = find_bursts(names(labels), labels.tolist(), lambda rows: vectors[rows])
    assert found.rows == tuple(tuple(range(start, start + 4)) for start in range(0, 32, 4))
    assert (found.coverage, found.cohesion) == (1, 1)


def test_only_files_that_are_far_apart_say_what_is_usual():
    rows = np.arange(50)
    near = (np.abs(rows[:, None] - rows) <= FAR).astype(np.float32)  # two thirds of the pairs
    assert _threshold(near, np.random.default_rng(0)) == 0


def test_labels_must_be_those_of_the_paths():
    with pytest.raises(ValueError, match="zip"):
        find_bursts(["a/1.jpg", "a/2.jpg"], [0], lambda rows: np.zeros((len(rows), WIDTH), np.float32))


def test_times_in_names_are_understood():
    labels, planted, vectors = make_bursts()
    seconds = 5 * np.arange(len(labels)) + 300 * planted  # five minutes between bursts
    paths = [
        f"{label}/20230114_{s // 3600:02}{s // 60 % 60:02}{s % 60:02}.jpg" for label, s in zip(labels, seconds, strict=True)
    ]
    found = find_bursts(paths, labels.tolist(), lambda rows: vectors[rows])
    assert [set(planted[list(rows)]) for rows in found.rows] == [{burst} for burst in range(3 * len(SIZES))]


def test_shuffled_numbers_are_no_bursts():
    labels, _, vectors = make_bursts()
    order = np.random.default_rng(1).permutation(len(labels))
    assert find_bursts(names(labels[order]), labels[order].tolist(), lambda rows: vectors[order][rows]) is None


def test_consecutive_numbers_of_different_images_are_no_bursts():
    labels, _, _ = make_bursts()
    random = np.random.default_rng(2)
    vectors = (random.standard_normal((3, WIDTH))[labels] + random.standard_normal((len(labels), WIDTH))).astype(np.float32)
    assert find_bursts(names(labels), labels.tolist(), lambda rows: vectors[rows]) is None


def test_names_without_numbers_are_no_bursts():
    labels, _, vectors = make_bursts()
    assert (
        find_bursts([f"a/{'x' * row}.jpg" for row in range(len(labels))], labels.tolist(), lambda rows: vectors[rows]) is None
    )


def test_a_folder_for_each_thing_starts_a_burst():
    labels, planted, vectors = make_bursts(noise=0.3)
    paths = [
        f"{'abc'[label]}/thing{burst}/{row:04}.jpg" for row, (label, burst) in enumerate(zip(labels, planted, strict=True))
    ]
    found = find_bursts(paths, labels.tolist(), lambda rows: vectors[rows])
    assert all(len({planted[row] for row in rows}) == 1 for rows in found.rows)


def test_a_split_folder_does_not_end_a_burst():
    labels, _, vectors = make_bursts(noise=0.3)
    paths = [f"{'test' if row % 3 == 0 else 'train'}/{path}" for row, path in enumerate(names(labels))]
    found = find_bursts(paths, labels.tolist(), lambda rows: vectors[rows])
    assert max(map(len, found.rows)) >= max(SIZES)


def test_description_counts_the_bursts():
    assert Bursts(((0, 1, 2), (3, 4, 5, 6)), 1, 1, 9).describe() == "2 bursts of 3 to 4 photos"
    assert Bursts(((0, 1, 2),), 1, 1, 9).describe() == "1 burst of 3 photos"


def test_no_images_have_no_bursts():
    assert find_bursts([], [], lambda rows: np.zeros((0, WIDTH), np.float32)) is None
