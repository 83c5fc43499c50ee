"""Cross-validation folds: every image is validated once, labels are stratified, groups stay together."""

import numpy as np
import pytest

from graft.training.data.cross_validation import stratified_group_kfold, stratified_subset, take_groups

LABELS = np.repeat([0, 1, 2], [50, 30, 10])


@pytest.mark.parametrize("groups", [None, [number // 3 for number in range(90)]])
def test_every_image_is_validated_once_and_not_in_its_own_training_fold(groups):
    folds = stratified_group_kfold(LABELS, 5, seed=0, groups=groups)
    assert sorted(np.concatenate([validation for _, validation in folds])) == list(range(90))
    assert all(sorted(np.concatenate(fold)) == list(range(90)) for fold in folds)


def test_folds_are_stratified():
    counts = [
        np.bincount(LABELS[validation], minlength=3).tolist() for _, validation in stratified_group_kfold(LABELS, 5, seed=3)
    ]
    assert counts == [[10, 6, 2]] * 5


def test_groups_stay_in_one_fold():
    groups = [f"video {number % 18}" for number in range(90)]
    for train, validation in stratified_group_kfold(LABELS, 5, seed=0, groups=groups):
        assert {groups[image] for image in train}.isdisjoint(groups[image] for image in validation)


@pytest.mark.parametrize("seed", range(8))
def test_multi_label_folds_are_stratified_by_the_rarest_label(seed: int):
    targets = np.zeros((60, 3), bool)
    targets[:, 0] = True
    targets[:6, 1] = True  # always together with the frequent one
    counts = [int(targets[validation, 1].sum()) for _, validation in stratified_group_kfold(targets, 3, seed)]
    assert counts == [2, 2, 2]


def test_every_rare_label_is_stratified():
    targets = np.zeros((60, 3), bool)
    targets[:, 0] = targets[:6, 1] = targets[6:12, 2] = True
    for seed in range(8):
        counts = [targets[validation].sum(axis=0).tolist() for _, validation in stratified_group_kfold(targets, 3, seed)]
        assert counts == [[20, 2, 2]] * 3, seed


def test_images_without_labels_are_stratified():
    targets = np.zeros((30, 2), bool)
    targets[:20, 0] = True
    assert [int((~targets[validation].any(axis=1)).sum()) for _, validation in stratified_group_kfold(targets, 5, seed=0)] == [
        2
    ] * 5


def test_folds_depend_only_on_the_seed():
    first, same, other = (stratified_group_kfold(LABELS, 3, seed=seed)[0][1].tolist() for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_subset_is_stratified():
    indices = stratified_subset(LABELS, 45, seed=0)
    assert np.bincount(LABELS[indices]).tolist() == [25, 15, 5]
    assert len(set(indices)) == 45


@pytest.mark.parametrize("seed", range(5))
def test_subset_has_the_first_and_the_last_label(seed: int):
    labels = np.repeat([0, 1, 2], [1, 8, 1])
    assert labels[stratified_subset(labels, 3, seed)].tolist() == [0, 1, 2]


def test_subset_of_few_images_is_complete():
    assert stratified_subset(LABELS, 200, seed=0).tolist() == list(range(90))
    assert stratified_subset(LABELS, 90, seed=0).tolist() == list(range(90))


def test_groups_are_taken_by_index():
    assert take_groups(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    assert take_groups(None, np.array([2, 0])) is None
