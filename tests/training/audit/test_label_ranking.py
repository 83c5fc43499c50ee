"""The ranked labels of a data set, their cuts, and the sentence about them."""

import numpy as np
import pytest

from graft.training.audit import label_errors
from graft.training.audit.label_ranking import LabelRanking
from graft.training.data.findings import LabelIssue


def ranking(*error_probabilities: float, n_default: int = 0) -> LabelRanking:
    issues = [LabelIssue(f"{row}.jpg", "ant", "bee", 0.9, error) for row, error in enumerate(error_probabilities)]
    return LabelRanking(tuple(issues), n_default)


def test_default_cut_can_be_moved():
    ranked = ranking(0.9, 0.8, 0.3, 0.1, n_default=2)
    assert [issue.path for issue in ranked.top()] == ["0.jpg", "1.jpg"]
    assert [issue.path for issue in ranked.top(3)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(ranked.top(99)) == 4


def test_cuts_have_the_expected_precision_and_recall():
    [two, four] = ranking(0.9, 0.7, 0.3, 0.1).cuts([2, 4, 9])
    assert (two.n, two.precision, two.recall) == pytest.approx((2, 0.8, 0.8))
    assert (four.n, four.precision, four.recall) == pytest.approx((4, 0.5, 1))


def test_cuts_of_any_list():
    assert [(cut.n, cut.precision, cut.recall) for cut in ranking(0.5).cuts([0, 1, 2])] == [(1, 0.5, 1)]
    assert [cut.recall for cut in ranking(0.25, 0.25).cuts([1, 2])] == [0.5, 1]
    assert [(cut.precision, cut.recall) for cut in ranking(0.0, 0.0, 0.0).cuts([2])] == [(0, 0)]


@pytest.mark.parametrize(("error_probability", "count"), [(0.4999, ""), (0.5, "0"), (0.9, "1")])
def test_half_an_error_is_worth_a_sentence(error_probability: float, count: str):
    text = ranking(error_probability, 0.0).to_text()
    assert text.startswith(f"estimated: about {count} of 2 labels are wrong (") if count else text == ""


def test_sentence_has_the_number_of_errors_and_the_cuts():
    text = ranking(*[0.95] * 20, *[0.5] * 40, *[0.01] * 940).to_text()
    assert text == (
        "estimated: about 48 of 1,000 labels are wrong (4.8%), or more if similar labels were confused;"
        " of the first 20, 95% are: 39% of all; of the first 60, 65% are: 81% of all; of the first 180, 22% are: 83% of all"
    )


def test_cuts_end_where_nearly_all_errors_are_listed():
    assert ranking(*[0.97] * 20, *[0.0] * 980).to_text().count("of the first") == 1


def test_correct_labels_have_no_sentence():
    assert ranking(*[0.0001] * 500).to_text() == ""
    assert LabelRanking().to_text() == ""


def test_json_has_every_image():
    record = ranking(0.9, 0.2).to_dict()
    assert (record["checked"], record["expected"]) == (2, 1.1)
    assert record["images"][1] == {"path": "1.jpg", "label": "ant", "suggested": "bee", "error_probability": 0.2}


def test_json_is_rounded():
    record = ranking(*[1 / 3] * 21).to_dict()
    assert (record["expected"], record["images"][0]["error_probability"]) == (7, 0.333333)
    assert record["cuts"] == [{"n": 20, "precision": 0.3333, "recall": 0.9524}]
    assert ranking(0.123456).to_dict()["expected"] == 0.12


def planted(rate: float, n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of overlapping labels, given labels, and the rows whose label is wrong."""
    random = np.random.default_rng(11)
    true = np.arange(n) % 4
    vectors = (random.normal(size=(4, 24))[true] + 0.6 * random.normal(size=(n, 24))).astype(np.float32)
    wrong = random.permutation(n)[: round(rate * n)]
    given = true.copy()
    given[wrong] = (true[wrong] + random.integers(1, 4, len(wrong))) % 4
    return vectors, given, wrong


@pytest.mark.parametrize("rate", [0, 0.02, 0.05, 0.1])
def test_number_of_planted_errors_is_estimated(rate: float):
    vectors, given, wrong = planted(rate)
    ranked = label_errors.rank_labels(vectors, given, [f"{row}.jpg" for row in range(600)], tuple("abcd"))
    assert len(ranked.issues) == 600
    assert ranked.n_expected == pytest.approx(len(wrong), abs=12)


def test_longer_list_finds_more_planted_errors_and_says_how_many():
    vectors, given, wrong = planted(0.1)
    ranked = label_errors.rank_labels(vectors, given, [f"{row}.jpg" for row in range(600)], tuple("abcd"))
    bad = {f"{row}.jpg" for row in wrong}
    found = {n: len(bad & {issue.path for issue in ranked.top(n)}) for n in (ranked.n_default, 60, 120)}
    assert found[120] >= found[60] > found[ranked.n_default]
    for cut in ranked.cuts([20, 60, 120]):
        share = len(bad & {issue.path for issue in ranked.top(cut.n)}) / cut.n
        assert cut.precision == pytest.approx(share, abs=0.12)


def test_every_image_of_multilabel_data_has_a_suggestion():
    vectors, labels, wrong = planted(0.05)
    given = np.eye(4, dtype=bool)[labels]
    ranked = label_errors.rank_labels(vectors, given, [f"{row}.jpg" for row in range(600)], tuple("abcd"))
    assert len(ranked.issues) == 600
    assert all(issue.given_label != issue.predicted_label for issue in ranked.issues)
    assert ranked.issues[0].path in {f"{row}.jpg" for row in wrong}
