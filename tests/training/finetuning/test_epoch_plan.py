"""The number of epochs follows the time that is left, and the schedule always ends annealed."""

import time

import pytest

from graft.training.finetuning.epoch_plan import EpochPlan


def in_time(seconds: float, epochs: int = 10, max_epochs: int = 20) -> EpochPlan:
    return EpochPlan(epochs, max_epochs, time.monotonic() + seconds)


def test_without_a_deadline_the_plan_stays():
    plan = EpochPlan(4)
    assert [plan.revise(trained, 1e9) for trained in (1, 2, 3, 4)] == [4, 4, 4, 4]
    assert [plan.progress(epochs) for epochs in (0, 0.5, 1, 2.25, 4)] == pytest.approx([0, 0.125, 0.25, 0.5625, 1])


@pytest.mark.parametrize(
    ("left", "total"),
    [(1e6, 20), (79.5, 9), (80.5, 10), (40.5, 6), (19.5, 3), (5.5, 3), (4.5, 2), (-100, 1)],
)
def test_as_many_epochs_as_fit(left: float, total: int):
    # After two epochs, of which the last took ten seconds. Half an epoch that fits is enough for one more.
    assert in_time(left).revise(2, 10.0) == max(2, total)


def test_time_after_the_last_epoch_is_left():
    plan = EpochPlan(10, 20, time.monotonic() + 80.5, epochs_after=2.5)
    assert plan.revise(2, 10.0) == 7


def test_slower_training_shortens_the_schedule_and_it_still_ends_at_zero():
    plan = in_time(60.5)
    assert plan.revise(1, 20.0) == 4
    steps = [plan.progress(step / 10) for step in range(41)]
    assert steps[10] == pytest.approx(0.1)
    assert steps[20] - steps[10] == pytest.approx(0.3)
    assert steps == sorted(steps)
    assert (steps[-1], plan.progress(5)) == (1.0, 1.0)


def test_progress_of_the_past_does_not_change():
    plan = in_time(60.5)
    plan.revise(1, 20.0)
    before = [plan.progress(step / 10) for step in range(21)]
    plan.revise(2, 1.0)
    assert plan.totals == [10, 4, 20]
    assert [plan.progress(step / 10) for step in range(21)] == before


def test_resumed_run_repeats_the_recorded_plan():
    recorded: dict[int, int] = {}

    def decide(trained, make):
        return recorded.setdefault(trained, recorded.get(trained) or make())

    plan = EpochPlan(10, 20, time.monotonic() + 60.5, decide)
    plan.revise(1, 20.0)
    plan.revise(2, 10.0)
    resumed = EpochPlan(10, 20, time.monotonic() + 1e6, decide)
    assert resumed.restore(2) == plan.totals[-1] == 8
    assert resumed.totals == plan.totals == [10, 4, 8]
    assert resumed.progress(1.7) == plan.progress(1.7)


def test_first_epoch_that_took_all_the_time_is_the_last():
    plan = in_time(-30)
    assert plan.revise(1, 600.0) == 1
    assert plan.revise(2, 1.0) == 2
