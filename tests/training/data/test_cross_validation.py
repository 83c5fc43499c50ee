"""Parts for cross-validation: every image judged once, every label everywhere, groups in one piece."""

import numpy as np
import pytest

from graft.training.data.cross_validation import among, deal, subset

LABELS = np.repeat([0, 1, 2], [50, 30, 10])


@pytest.mark.parametrize("groups", [None, [number // 3 for number in range(90)]])
def test_every_image_is_judged_once_and_never_by_what_learned_from_it(groups):
    parts = deal(LABELS, 5, seed=0, groups=groups)
    assert sorted(np.concatenate([judged for _, judged in parts])) == list(range(90))
    assert all(sorted(np.concatenate(part)) == list(range(90)) for part in parts)


def test_every_part_has_its_share_of_every_label():
    counts = [np.bincount(LABELS[judged], minlength=3).tolist() for _, judged in deal(LABELS, 5, seed=3)]
    assert counts == [[10, 6, 2]] * 5


def test_groups_are_not_torn_apart():
    groups = [f"video {number % 18}" for number in range(90)]
    for learned, judged in deal(LABELS, 5, seed=0, groups=groups):
        assert {groups[image] for image in learned}.isdisjoint(groups[image] for image in judged)


def test_the_rarest_of_several_labels_is_shared_out():
    has = np.zeros((60, 3), bool)
    has[:, 0] = True
    has[:6, 1] = True  # always together with the frequent one
    counts = [int(has[judged, 1].sum()) for _, judged in deal(has, 3, seed=0)]
    assert counts == [2, 2, 2]


def test_images_without_any_label_are_shared_out_too():
    has = np.zeros((30, 2), bool)
    has[:20, 0] = True
    assert [int((~has[judged].any(axis=1)).sum()) for _, judged in deal(has, 5, seed=0)] == [2] * 5


def test_the_seed_alone_decides():
    first, same, other = (deal(LABELS, 3, seed=seed)[0][1].tolist() for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_a_subset_keeps_the_mix_of_labels():
    kept = subset(LABELS, 45, seed=0)
    assert np.bincount(LABELS[kept]).tolist() == [25, 15, 5]
    assert len(set(kept)) == 45


def test_few_images_are_kept_all():
    assert subset(LABELS, 90, seed=0).tolist() == list(range(90))


def test_groups_follow_a_subset():
    assert among(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
    assert among(None, np.array([2, 0])) is None
