"""Validation of request options. Bodies are tested over HTTP, in test_routes.py."""

import pytest

from graft.service.api.options import ClassifyOptions, ExplainOptions, Options, SimilarOptions, parse_options
from graft.service.errors import ProblemError


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("1", 1), (7, 7), ("10", 10), (3.0, 3), ("007", 7), (10**30, 10**30)])
def test_valid_top_k(value, expected):
    assert parse_options(ClassifyOptions, {"top_k": value}).top_k == expected


@pytest.mark.parametrize(
    "value", [0, "0", -1, "-1", "abc", 3.5, "3.5", True, False, "true", "", " 3", "3\n", "٣", "+3", "1e1", None, [3], {}]
)
def test_invalid_top_k_is_rejected(value):
    with pytest.raises(ProblemError) as caught:
        parse_options(ClassifyOptions, {"top_k": value})
    assert (caught.value.code, caught.value.field) == ("bad_top_k", "top_k")


def test_defaults():
    assert parse_options(ClassifyOptions) == ClassifyOptions(top_k=5, threshold=0)
    assert parse_options(SimilarOptions) == SimilarOptions(k=5, thumbnails=False)
    assert parse_options(ExplainOptions) == ExplainOptions(label=None, method=None, deletion=False)


def test_later_sources_override_earlier_ones():
    assert parse_options(ClassifyOptions, {"top_k": 1, "threshold": "0.5"}, {"top_k": 2}) == ClassifyOptions(
        top_k=2, threshold=0.5
    )


def test_overridden_value_must_be_valid_too():
    with pytest.raises(ProblemError, match="top_k"):
        parse_options(ClassifyOptions, {"top_k": 0}, {"top_k": 2})


def test_unknown_option_error_lists_the_options():
    with pytest.raises(ProblemError, match="no option 'topk'; the options are: top_k, threshold") as caught:
        parse_options(ClassifyOptions, {"topk": 3})
    assert (caught.value.code, caught.value.field) == ("unknown_field", "topk")


def test_route_without_options_rejects_any():
    with pytest.raises(ProblemError, match="this route has no options"):
        parse_options(Options, {"top_k": 3})


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), (True, True), (False, False)])
def test_boolean_is_true_or_false(value, expected):
    assert parse_options(SimilarOptions, {"thumbnails": value}).thumbnails is expected


@pytest.mark.parametrize("value", ["1", "yes", "True", "", 1, 0, None])
def test_invalid_boolean_is_rejected(value):
    with pytest.raises(ProblemError) as caught:
        parse_options(SimilarOptions, {"thumbnails": value})
    assert caught.value.code == "bad_thumbnails"


@pytest.mark.parametrize("value", ["lime", "", "CAM", 3])
def test_unknown_method_is_rejected(value):
    with pytest.raises(ProblemError, match="cam, gradcam or occlusion") as caught:
        parse_options(ExplainOptions, {"method": value})
    assert caught.value.code == "bad_method"


@pytest.mark.parametrize("value", ["0" * 101, "9" * 1_000_000, [1] * 1000, {"a": 1}, None, 10**200, "1" * 50 + "e" + "1" * 60])
@pytest.mark.parametrize("option", ["top_k", "threshold"])
def test_value_that_no_number_needs_is_rejected(option, value):
    with pytest.raises(ProblemError, match="must be a"):
        parse_options(ClassifyOptions, {option: value})


def test_text_of_the_caller_is_cut_in_messages():
    with pytest.raises(ProblemError) as caught:
        parse_options(ClassifyOptions, {"\u00ad" * 5_000_000: "1"})
    assert len(str(caught.value)) < 1000
    assert len(caught.value.field) == 100
    with pytest.raises(ProblemError) as caught:
        parse_options(ExplainOptions, {"method": "cam" * 5_000_000})
    assert len(str(caught.value)) < 1000
