"""A request's options, taken or refused. What a body holds is tested over HTTP, in test_routes.py."""

import pytest

from service.intake import Refused, parse_options


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("1", 1), (7, 7), ("10", 10), (10, 10)])
def test_a_possible_top_k_is_taken(value, expected):
    assert parse_options({"top_k": value}, 10) == (expected, [])


@pytest.mark.parametrize("value", [11, "11", 10**6, 10**9, "1000000000"])
def test_a_top_k_beyond_the_labels_is_clamped_with_a_warning(value):
    assert parse_options({"top_k": value}, 10) == (10, ["top_k: the model has only 10 labels"])


@pytest.mark.parametrize(
    "value", [0, "0", -1, "-1", "abc", 3.5, "3.5", 3.0, True, False, "true", "", " 3", "3\n", "٣", "+3", "1e1", None, [3], {}]
)
def test_an_impossible_top_k_is_refused(value):
    with pytest.raises(Refused) as caught:
        parse_options({"top_k": value}, 10)
    assert (caught.value.code, caught.value.field) == ("bad_top_k", "top_k")


@pytest.mark.parametrize(("n_labels", "expected"), [(2, 2), (5, 5), (1000, 5)])
def test_without_top_k_it_is_five_or_all(n_labels, expected):
    assert parse_options({}, n_labels) == (expected, [])


def test_an_unknown_option_is_named():
    with pytest.raises(Refused, match="no option 'topk'") as caught:
        parse_options({"topk": 3}, 10)
    assert (caught.value.code, caught.value.field) == ("unknown_field", "topk")
