"""Derived hyperparameters at known values, and their invariants."""

import pytest

from graft.service.manifest import MAX_CENTERS
from graft.training.config import hyperparameters


@pytest.mark.parametrize(
    ("n_images", "device", "gpu_gib", "size"),
    [
        (0, "cpu", 0, 16),
        (100, "cpu", 0, 16),
        (255, "cpu", 0, 16),
        (256, "cpu", 0, 32),
        (10**6, "cpu", 0, 32),
        (255, "cuda", 80, 16),
        (4_000, "cuda", 80, 128),
        (51_199, "cuda", 80, 128),
        (51_200, "cuda", 80, 256),
        (102_399, "cuda", 80, 256),
        (102_400, "cuda", 80, 512),
        (10**8, "cuda", 80, 512),
        (10**6, "cuda", 40, 512),
        (10**6, "cuda", 24, 256),
        (10**6, "cuda", 16, 128),
        (10**6, "cuda", 4, 128),
    ],
)
def test_batch_size_leaves_eight_steps_per_epoch_within_limits(n_images: int, device: str, gpu_gib: int, size: int):
    assert hyperparameters.batch_size(n_images, device, gpu_gib * 2**30) == size


@pytest.mark.parametrize("n_images", range(1, 400_000, 7_919))
def test_large_batches_leave_a_thousand_steps(n_images: int):
    size = hyperparameters.batch_size(n_images, "cuda", 80 * 2**30)
    assert size <= 128 or hyperparameters.epochs(n_images) * n_images / size >= 1_000


@pytest.mark.parametrize(
    ("capability", "precision"),
    [(None, "32-true"), ((6, 1), "16-mixed"), ((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")],
)
def test_training_precision_depends_on_the_card(capability: tuple[int, int] | None, precision: str):
    assert hyperparameters.training_precision(capability) == precision


@pytest.mark.parametrize(("n_images", "batch_size", "count"), [(100, 32, 3), (96, 32, 3), (31, 32, 1), (0, 32, 1)])
def test_incomplete_batches_are_dropped_unless_there_is_only_one(n_images: int, batch_size: int, count: int):
    assert hyperparameters.steps_per_epoch(n_images, batch_size) == count


@pytest.mark.parametrize(
    ("optimizer", "scratch", "fresh", "batch_size", "expected"),
    [
        ("adamw", False, False, 32, (1e-3, 2e-4)),
        ("adamw", False, False, 128, (2e-3, 4e-4)),
        ("adamw", True, False, 32, (5e-4, 5e-4)),
        ("adamw", True, True, 32, (1e-3, 1e-3)),
        ("sgd", False, False, 32, (1e-2, 3e-3)),
        ("sgd", True, True, 128, (0.2, 0.2)),
    ],
)
def test_learning_rates_scale_with_batch_size(
    optimizer: str, scratch: bool, fresh: bool, batch_size: int, expected: tuple[float, float]
):
    assert hyperparameters.learning_rates(optimizer, scratch, fresh, batch_size) == expected


@pytest.mark.parametrize(
    ("n_images", "scratch", "ratio"), [(999, False, 0.1), (1_000, False, 0.3), (50_000, False, 1.0), (10, True, 1.0)]
)
def test_first_layers_have_lower_rates_for_small_datasets(n_images: int, scratch: bool, ratio: float):
    assert hyperparameters.layer_decay(n_images, scratch) == ratio


@pytest.mark.parametrize("n_layers", [1, 2, 17, 121])
def test_layer_rates_end_at_the_peak_at_any_depth(n_layers: int):
    rates = hyperparameters.layer_learning_rates(2e-4, 0.1, n_layers)
    assert rates == sorted(rates)
    assert rates[-1] == 2e-4
    assert rates[0] == pytest.approx(2e-5 if n_layers > 1 else 2e-4)


@pytest.mark.parametrize(
    ("n_layers", "unfreeze", "n_trainable"), [(18, "last", 4), (18, "all", 18), (2, "last", 1), (1, "last", 1)]
)
def test_last_quarter_of_the_layers_is_trained(n_layers: int, unfreeze: str, n_trainable: int):
    assert hyperparameters.n_trainable_layers(n_layers, unfreeze) == n_trainable


@pytest.mark.parametrize(
    ("optimizer", "fresh", "decay"), [("adamw", False, 0.02), ("adamw", True, 0.05), ("sgd", False, 1e-4), ("sgd", True, 5e-4)]
)
def test_weight_decay_depends_on_the_optimizer(optimizer: str, fresh: bool, decay: float):
    assert hyperparameters.weight_decay(optimizer, fresh) == decay


@pytest.mark.parametrize(("n_images", "scratch", "frozen"), [(49_999, False, True), (50_000, False, False), (9, True, False)])
def test_batchnorm_is_frozen_for_small_datasets_with_pretrained_weights(n_images: int, scratch: bool, frozen: bool):
    assert hyperparameters.freeze_bn(n_images, scratch) is frozen


@pytest.mark.parametrize(("fresh", "epochs", "alpha"), [(True, 20, 0.2), (True, 19, 0.0), (False, 100, 0.0)])
def test_mixup_is_used_only_in_long_runs_from_random_weights(fresh: bool, epochs: int, alpha: float):
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
def test_small_datasets_get_stronger_augmentation(n_images: int, fresh: bool, level: str):
    assert hyperparameters.augment(n_images, fresh) == level


@pytest.mark.parametrize(
    ("total_steps", "expected"), [(10, (0.0, 1)), (49, (0.0, 1)), (50, (0.8, 1)), (140, (0.9286, 1)), (5_000, (0.98, 10))]
)
def test_average_covers_a_tenth_of_the_run(total_steps: int, expected: tuple[float, int]):
    assert hyperparameters.ema_decay(total_steps) == expected


@pytest.mark.parametrize("total_steps", range(50, 30_000, 487))
def test_average_forgets_the_initial_weights_at_any_run_length(total_steps: int):
    decay, interval = hyperparameters.ema_decay(total_steps)
    assert decay ** (total_steps // interval) < 0.01


@pytest.mark.parametrize(("n_images", "n_crops"), [(20, 6), (625, 6), (626, 5), (1_666, 1), (1_667, 0), (5_000, 0), (10**6, 0)])
def test_crops_fit_among_the_centers_beside_the_whole_images(n_images, n_crops):
    views = hyperparameters.crop_views(flips=True, n_images=n_images)
    assert len(views) == n_crops
    assert [crop for _, crop in views] == list(range(1, n_crops + 1))
    assert (n_crops + 2) * n_images <= MAX_CENTERS or not n_crops
