"""A request's options, taken or refused. What a body holds is tested over HTTP, in test_routes.py."""

import pytest

from graft.service.api.options import ClassifyOptions, ExplainOptions, Options, SimilarOptions, parsed
from graft.service.errors import Refused


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("1", 1), (7, 7), ("10", 10), (3.0, 3), ("007", 7), (10**30, 10**30)])
def test_a_possible_top_k_is_taken(value, expected):
    assert parsed(ClassifyOptions, {"top_k": value}).top_k == expected


@pytest.mark.parametrize(
    "value", [0, "0", -1, "-1", "abc", 3.5, "3.5", True, False, "true", "", " 3", "3\n", "٣", "+3", "1e1", None, [3], {}]
)
def test_an_impossible_top_k_is_refused(value):
    with pytest.raises(Refused) as caught:
        parsed(ClassifyOptions, {"top_k": value})
    assert (caught.value.code, caught.value.field) == ("bad_top_k", "top_k")


def test_what_is_not_given_is_the_default():
    assert parsed(ClassifyOptions) == ClassifyOptions(top_k=5, threshold=0)
    assert parsed(SimilarOptions) == SimilarOptions(k=5, thumbnails=False)
    assert parsed(ExplainOptions) == ExplainOptions(label=None, method=None, deletion=False)


def test_what_is_given_later_counts_more():
    assert parsed(ClassifyOptions, {"top_k": 1, "threshold": "0.5"}, {"top_k": 2}) == ClassifyOptions(top_k=2, threshold=0.5)


def test_what_counts_less_must_be_possible_too():
    with pytest.raises(Refused, match="top_k"):
        parsed(ClassifyOptions, {"top_k": 0}, {"top_k": 2})


def test_an_unknown_option_is_named_beside_those_there_are():
    with pytest.raises(Refused, match="no option 'topk'; there are: top_k, threshold") as caught:
        parsed(ClassifyOptions, {"topk": 3})
    assert (caught.value.code, caught.value.field) == ("unknown_field", "topk")


def test_where_there_are_no_options_none_is_taken():
    with pytest.raises(Refused, match="there are none here"):
        parsed(Options, {"top_k": 3})


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), (True, True), (False, False)])
def test_truth_is_spelt_as_in_json(value, expected):
    assert parsed(SimilarOptions, {"thumbnails": value}).thumbnails is expected


@pytest.mark.parametrize("value", ["1", "yes", "True", "", 1, 0, None])
def test_anything_else_is_no_truth(value):
    with pytest.raises(Refused) as caught:
        parsed(SimilarOptions, {"thumbnails": value})
    assert caught.value.code == "bad_thumbnails"


@pytest.mark.parametrize("value", ["lime", "", "CAM", 3])
def test_an_unknown_method_is_refused(value):
    with pytest.raises(Refused, match="'cam', 'gradcam' or 'occlusion'") as caught:
        parsed(ExplainOptions, {"method": value})
    assert caught.value.code == "bad_method"
