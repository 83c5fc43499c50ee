"""The trials on record: they come back as they were, and are told as a person would."""

from pathlib import Path

import pytest

from graft.training.strategies.hpo_trials import Tried, best_of, intention, line, load, save, verdict

FIRST = Tried("complete", (0.7, 0.1 + 0.2, 0.4), 12.3, {"head_rate": 0.001, "augment": "strong"})
BETTER = Tried("complete", (0.5, 0.25), 9.0, {"head_rate": 0.0021, "augment": "none"})
GIVEN_UP = Tried("given up", (0.9,), 4.0, {"head_rate": 1e-05, "augment": "light"})
DIVERGED = Tried("diverged", (), 2.0, {"head_rate": 0.005, "augment": "medium"})


def test_no_record_is_no_trial(tmp_path: Path):
    assert load(tmp_path / "search.csv") == []


def test_record_comes_back_to_the_last_bit(tmp_path: Path):
    tried = [FIRST, BETTER, GIVEN_UP, DIVERGED]
    save(tried, tmp_path / "search.csv")
    assert load(tmp_path / "search.csv") == tried


def test_record_is_a_table_for_people(tmp_path: Path):
    save([BETTER, DIVERGED], tmp_path / "search.csv")
    assert (tmp_path / "search.csv").read_text() == (
        "trial,ending,log_loss,seconds,by_epoch,head_rate,augment\n"
        "1,complete,0.25,9.0,0.5 0.25,0.0021,none\n"
        "2,diverged,,2.0,,0.005,medium\n"
    )


@pytest.mark.parametrize(
    ("tried", "best"),
    [
        ([], None),
        ([FIRST], 0),
        ([FIRST, BETTER], 1),
        ([BETTER, FIRST, BETTER], 0),
        ([FIRST, Tried("given up", (0.1,), 1.0, {})], 0),
        ([DIVERGED, GIVEN_UP], None),
        ([DIVERGED, FIRST], 1),
    ],
)
def test_best_is_the_first_with_the_lowest_loss_of_those_that_came_to_their_end(tried: list[Tried], best: int | None):
    assert best_of(tried) == best


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ([FIRST], "trial  1/20: log-loss 0.3000 at epoch 2/3, 12 s; the plan as it is"),
        ([FIRST, BETTER], "trial  2/20: log-loss 0.2500 at epoch 2/3, 9 s, the best so far; head 0.0021, no changes"),
        ([BETTER, FIRST], "trial  2/20: log-loss 0.3000 at epoch 2/3, 12 s; head 0.001, strong changes"),
        ([FIRST, GIVEN_UP], "trial  2/20: given up after epoch 1/3, log-loss 0.9000, 4 s; head 1e-05, light changes"),
        ([DIVERGED], "trial  1/20: diverged, 2 s; the plan as it is"),
    ],
)
def test_trial_in_a_line(tried: list[Tried], said: str):
    assert line(tried, 20, 3) == said


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ([FIRST], "no trial was better than the plan as it is, log-loss 0.3000"),
        (
            [FIRST, GIVEN_UP, BETTER],
            "trial 3 of 3 was best: log-loss 0.2500, 0.0500 less than the plan as it is (--head-rate 0.0021 --augment none)",
        ),
        ([DIVERGED, BETTER], "trial 2 of 2 was best: log-loss 0.2500 (--head-rate 0.0021 --augment none)"),
        ([DIVERGED, GIVEN_UP], "none of 2 trials came to its end: the plan stays as it is"),
    ],
)
def test_what_came_of_a_search_in_words(tried: list[Tried], said: str):
    assert verdict(tried) == said


def test_what_a_search_is_about_to_do_in_words():
    assert intention(9, 3, ["head_rate", "augment"], 0) == "search: up to 9 trials of up to 3 epochs, over head, changes"
    assert intention(9, 3, ["head_rate"], 4) == "search: up to 9 trials of up to 3 epochs, over head; 4 are on record"
