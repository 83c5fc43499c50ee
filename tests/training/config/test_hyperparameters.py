"""The rules of fine-tuning at written-out values, and what must never happen at any value."""

import pytest

from graft.training.config import hyperparameters


@pytest.mark.parametrize(
    ("n_images", "gpu", "size"),
    [
        (0, False, 16),
        (100, False, 16),
        (255, False, 16),
        (256, False, 32),
        (10**6, False, 32),
        (255, True, 16),
        (4_000, True, 128),
    ],
)
def test_batch_leaves_eight_steps_an_epoch_within_limits(n_images: int, gpu: bool, size: int):
    assert hyperparameters.batch_size(n_images, gpu) == size


@pytest.mark.parametrize(("n_images", "batch_size", "count"), [(100, 32, 3), (96, 32, 3), (31, 32, 1), (0, 32, 1)])
def test_only_whole_batches_are_steps_unless_there_is_none(n_images: int, batch_size: int, count: int):
    assert hyperparameters.steps(n_images, batch_size) == count


@pytest.mark.parametrize(
    ("optimizer", "scratch", "fresh", "batch_size", "found"),
    [
        ("adamw", False, False, 32, (1e-3, 2e-4)),
        ("adamw", False, False, 128, (2e-3, 4e-4)),
        ("adamw", True, False, 32, (5e-4, 5e-4)),
        ("adamw", True, True, 32, (1e-3, 1e-3)),
        ("sgd", False, False, 32, (1e-2, 3e-3)),
        ("sgd", True, True, 128, (0.2, 0.2)),
    ],
)
def test_rates_grow_with_the_batch_by_the_root_for_adamw_and_in_proportion_for_sgd(
    optimizer: str, scratch: bool, fresh: bool, batch_size: int, found: tuple[float, float]
):
    assert hyperparameters.rates(optimizer, scratch, fresh, batch_size) == found


@pytest.mark.parametrize(
    ("n_images", "scratch", "ratio"), [(999, False, 0.1), (1_000, False, 0.3), (50_000, False, 1.0), (10, True, 1.0)]
)
def test_first_layers_learn_more_slowly_where_data_are_few(n_images: int, scratch: bool, ratio: float):
    assert hyperparameters.bottom_ratio(n_images, scratch) == ratio


@pytest.mark.parametrize("n_layers", [1, 2, 17, 121])
def test_layers_rates_run_from_the_ratio_to_the_top_whatever_the_depth(n_layers: int):
    rates = hyperparameters.layer_rates(2e-4, 0.1, n_layers)
    assert rates == sorted(rates)
    assert rates[-1] == 2e-4
    assert rates[0] == pytest.approx(2e-5 if n_layers > 1 else 2e-4)


@pytest.mark.parametrize(("n_layers", "unfreeze", "n_open"), [(18, "last", 4), (18, "all", 18), (2, "last", 1), (1, "last", 1)])
def test_the_last_quarter_of_the_layers_is_the_last_stage(n_layers: int, unfreeze: str, n_open: int):
    assert hyperparameters.open_layers(n_layers, unfreeze) == n_open


@pytest.mark.parametrize(
    ("optimizer", "fresh", "decay"), [("adamw", False, 0.02), ("adamw", True, 0.05), ("sgd", False, 1e-4), ("sgd", True, 5e-4)]
)
def test_weight_decay_is_on_each_optimizers_own_scale(optimizer: str, fresh: bool, decay: float):
    assert hyperparameters.weight_decay(optimizer, fresh) == decay


@pytest.mark.parametrize(("n_images", "scratch", "frozen"), [(49_999, False, True), (50_000, False, False), (9, True, False)])
def test_batch_statistics_are_frozen_where_data_are_few_and_weights_pretra(n_images: int, scratch: bool, frozen: bool):
    assert hyperparameters.frozen_norm(n_images, scratch) is frozen


@pytest.mark.parametrize(("fresh", "epochs", "alpha"), [(True, 20, 0.2), (True, 19, 0.0), (False, 100, 0.0)])
def test_images_are_mixed_only_in_long_runs_from_random_weights(fresh: bool, epochs: int, alpha: float):
    assert hyperparameters.mixup(fresh, epochs) == alpha


@pytest.mark.parametrize(
    ("n_images", "fresh", "level"),
    [
        (499, False, "strong"),
        (500, False, "medium"),
        (500, True, "strong"),
        (99_999, False, "medium"),
        (100_000, True, "light"),
    ],
)
def test_few_images_are_changed_more(n_images: int, fresh: bool, level: str):
    assert hyperparameters.augment(n_images, fresh) == level


@pytest.mark.parametrize(
    ("counts", "multilabel", "how"),
    [((29, 10), False, "none"), ((30, 10), False, "logits"), ((30, 10), True, "none"), ((30, 0), False, "logits")],
)
def test_labels_three_times_rarer_are_made_up_for(counts: tuple[int, ...], multilabel: bool, how: str):
    assert hyperparameters.balance(counts, multilabel) == how


@pytest.mark.parametrize(
    ("total_steps", "found"), [(10, (0.0, 1)), (49, (0.0, 1)), (50, (0.8, 1)), (140, (0.9286, 1)), (5_000, (0.98, 10))]
)
def test_average_looks_back_over_a_tenth_of_the_run(total_steps: int, found: tuple[float, int]):
    assert hyperparameters.averaging(total_steps) == found


@pytest.mark.parametrize("total_steps", range(50, 30_000, 487))
def test_average_forgets_where_a_run_of_any_length_began(total_steps: int):
    decay, every = hyperparameters.averaging(total_steps)
    assert decay ** (total_steps // every) < 0.01
