"""The file of finished trials, and their text form."""

from pathlib import Path

import pytest

from graft.training.strategies.hpo_trials import TrialRecord, best_trial, describe, load, progress_line, save, summarize

FIRST = TrialRecord("complete", (0.7, 0.1 + 0.2, 0.4), 12.3, {"head_lr": 0.001, "augment": "strong"})
BETTER = TrialRecord("complete", (0.5, 0.25), 9.0, {"head_lr": 0.0021, "augment": "none"})
PRUNED = TrialRecord("pruned", (0.9,), 4.0, {"head_lr": 1e-05, "augment": "light"})
DIVERGED = TrialRecord("diverged", (), 2.0, {"head_lr": 0.005, "augment": "medium"})


def test_missing_file_means_no_trials(tmp_path: Path):
    assert load(tmp_path / "search.csv") == []


def test_file_round_trips_exactly(tmp_path: Path):
    trials = [FIRST, BETTER, PRUNED, DIVERGED]
    save(trials, tmp_path / "search.csv")
    assert load(tmp_path / "search.csv") == trials


def test_file_is_a_readable_csv(tmp_path: Path):
    save([BETTER, DIVERGED], tmp_path / "search.csv")
    assert (tmp_path / "search.csv").read_text() == (
        "trial,status,log_loss,seconds,by_epoch,head_lr,augment\n"
        "1,complete,0.25,9.0,0.5 0.25,0.0021,none\n"
        "2,diverged,,2.0,,0.005,medium\n"
    )


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([], None),
        ([FIRST], 0),
        ([FIRST, BETTER], 1),
        ([BETTER, FIRST, BETTER], 0),
        ([FIRST, TrialRecord("pruned", (0.1,), 1.0, {})], 0),
        ([DIVERGED, PRUNED], None),
        ([DIVERGED, FIRST], 1),
    ],
)
def test_best_is_the_first_complete_trial_with_the_lowest_loss(trials: list[TrialRecord], best: int | None):
    assert best_trial(trials) == best


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([FIRST], "trial  1/20: log-loss 0.3000 at epoch 2/3, 12 s; default configuration"),
        ([FIRST, BETTER], "trial  2/20: log-loss 0.2500 at epoch 2/3, 9 s, the best so far; head lr 0.0021, no augmentation"),
        ([BETTER, FIRST], "trial  2/20: log-loss 0.3000 at epoch 2/3, 12 s; head lr 0.001, strong augmentation"),
        ([FIRST, PRUNED], "trial  2/20: pruned after epoch 1/3, log-loss 0.9000, 4 s; head lr 1e-05, light augmentation"),
        ([DIVERGED], "trial  1/20: diverged, 2 s; default configuration"),
    ],
)
def test_progress_line_of_a_trial(trials: list[TrialRecord], expected: str):
    assert progress_line(trials, 20, 3) == expected


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([FIRST], "no trial was better than the default configuration, log-loss 0.3000"),
        (
            [FIRST, PRUNED, BETTER],
            "trial 3 of 3 is best: log-loss 0.2500, 0.0500 lower than the default configuration"
            " (--head-lr 0.0021 --augment none)",
        ),
        ([DIVERGED, BETTER], "trial 2 of 2 is best: log-loss 0.2500 (--head-lr 0.0021 --augment none)"),
        ([DIVERGED, PRUNED], "none of 2 trials finished: the default configuration is kept"),
    ],
)
def test_summary_of_a_search(trials: list[TrialRecord], expected: str):
    assert summarize(trials) == expected


def test_description_of_a_search():
    assert describe(9, 3, ["head_lr", "augment"], 0) == "search: up to 9 trials of up to 3 epochs over head lr, augmentation"
    assert describe(9, 3, ["head_lr"], 4) == "search: up to 9 trials of up to 3 epochs over head lr; 4 are already finished"
