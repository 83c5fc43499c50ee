"""Feature extraction: the cache, and equal results with OpenVINO and torch."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.service.imaging.preprocess import decode
from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import OpenVinoModel
from graft.training.audit.image_scan import scan_images
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.data.dataset import Dataset, DatasetError, Sample, scan
from graft.training.features import extraction
from graft.training.features.extraction import (
    MIN_CROP_AREA,
    Features,
    View,
    extract,
    extract_on_cpu,
    random_crop,
    to_float16,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def exported(fitted) -> ExportedBackbone:
    """The backbone already exported by the session's fit."""
    return onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), 128, 28, "crop")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dataset(make_folder) -> Dataset:
    return scan_images(scan(make_folder({"cat": 3, "dog": 2})))[0]


def views(dataset: Dataset, mirrored: bool = False) -> list[View]:
    return [View(sample, mirrored) for sample in dataset.samples]


def extract_all(dataset: Dataset, exported: ExportedBackbone) -> Features:
    return extract(dataset, views(dataset), exported)


def shards(cache: Path) -> list[Path]:
    return sorted((cache / "features").rglob("*.npz"))


def test_features_are_computed_once(dataset: Dataset, exported: ExportedBackbone):
    first, second = extract_all(dataset, exported), extract_all(dataset, exported)
    assert (first.n_computed, second.n_computed) == (5, 0)
    np.testing.assert_array_equal(first.load(dataset.samples), second.load(dataset.samples))


def test_only_new_images_are_computed(make_folder, dataset: Dataset, exported: ExportedBackbone):
    extract_all(dataset, exported)
    more = scan_images(scan(make_folder({"hen": 2}, seed=1)))[0]
    assert extract_all(more, exported).n_computed == 2


def test_same_image_under_another_name_is_not_computed_again(dataset: Dataset, exported: ExportedBackbone):
    extract_all(dataset, exported)
    os.rename(dataset.source.root / "cat/000.png", dataset.source.root / "cat/renamed.png")
    assert extract_all(scan_images(scan(dataset.source.root))[0], exported).n_computed == 0


def test_another_preprocessing_is_computed_again(dataset: Dataset, exported: ExportedBackbone):
    extract_all(dataset, exported)
    squashed = exported.model_copy(update={"preprocessing": exported.preprocessing.model_copy(update={"fit": "squash"})})
    assert extract_all(dataset, squashed).n_computed == 5


def test_vectors_equal_the_graphs_output_for_the_services_pixels(dataset: Dataset, exported: ExportedBackbone):
    pixels = np.stack([decode(dataset.read(sample), exported.preprocessing).pixels for sample in dataset.samples])
    expected = OpenVinoModel(exported.graph, streams=1)(pixels)[VECTORS]
    np.testing.assert_allclose(extract_all(dataset, exported).load(dataset.samples), expected, rtol=1e-3, atol=1e-3)


def test_vectors_come_in_the_order_of_the_samples(dataset: Dataset, exported: ExportedBackbone):
    features = extract_all(dataset, exported)
    forwards, backwards = features.load(dataset.samples), features.load(dataset.samples[::-1])
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert len(np.unique(forwards, axis=0)) == 5


def test_vectors_are_float32_of_the_backbones_width(dataset: Dataset, exported: ExportedBackbone):
    vectors = extract_all(dataset, exported).load(dataset.samples)
    assert (vectors.shape, vectors.dtype) == ((5, 1280), np.float32)


def test_mirrored_view_has_the_features_of_the_mirror_image(dataset: Dataset, exported: ExportedBackbone):
    features = extract(dataset, [*views(dataset), *views(dataset, mirrored=True)], exported)
    pixels = decode(dataset.read(dataset.samples[0]), exported.preprocessing).pixels
    expected = OpenVinoModel(exported.graph, streams=1)(np.ascontiguousarray(pixels[None, :, ::-1]))[VECTORS]
    mirrored = features.load(dataset.samples[:1], mirrored=True)
    np.testing.assert_allclose(mirrored, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(mirrored - features.load(dataset.samples[:1])).max() > 0.05


def test_crop_has_the_features_of_the_cropped_pixels(dataset: Dataset, exported: ExportedBackbone):
    sample = dataset.samples[0]
    crop = View(sample, mirrored=True, crop=3)
    features = extract(dataset, [crop], exported)
    pixels = crop.apply(decode(dataset.read(sample), exported.preprocessing).pixels)
    expected = OpenVinoModel(exported.graph, streams=1)(pixels[None])[VECTORS]
    cropped = features.select([sample], mirrored=True, crop=3)[:]
    np.testing.assert_allclose(cropped, expected, rtol=1e-3, atol=1e-3)


def test_every_view_of_an_image_has_its_own_key_and_pixels(dataset: Dataset):
    sample, pixels = dataset.samples[0], np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    all_views = [View(sample, mirrored, crop) for mirrored in (False, True) for crop in range(12)]
    assert len({view.key for view in all_views}) == len({view.apply(pixels).tobytes() for view in all_views}) == 24
    assert View(sample).key == sample.digest
    np.testing.assert_array_equal(View(sample, crop=5).apply(pixels), View(sample, crop=5).apply(pixels))


def test_random_crops_have_the_area_and_the_proportions_that_are_promised():
    # The pixels say where they come from: red is the column, green the row.
    axis = np.arange(200, dtype=np.uint8)
    pixels = np.stack([np.tile(axis, (200, 1)), np.tile(axis[:, None], 200), np.zeros((200, 200), np.uint8)], axis=2)
    sides = []
    for seed in range(300):
        cropped = random_crop(pixels, seed).astype(float)
        assert cropped.shape == pixels.shape
        sides.append([np.ptp(cropped[..., channel]) + 1 for channel in (0, 1)])
    widths, heights = np.array(sides).T
    areas, ratios = widths * heights / 200**2, widths / heights
    assert MIN_CROP_AREA - 0.02 <= areas.min() < MIN_CROP_AREA + 0.05
    assert 0.9 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.9
    assert 1.1 < ratios.max() < 1.36


def test_unreadable_image_is_reported_with_the_reason(dataset: Dataset, exported: ExportedBackbone):
    (dataset.source.root / "cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    damaged = scan_images(scan(dataset.source.root))[0]
    features = extract_all(damaged, exported)
    assert features.unreadable == {"cat/bad.png": "The image's header is damaged or truncated."}
    assert len(features.row_index) == 5


def test_unreadable_image_is_not_cached(dataset: Dataset, exported: ExportedBackbone):
    (dataset.source.root / "cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    damaged = scan_images(scan(dataset.source.root))[0]
    extract_all(damaged, exported)
    again = extract_all(damaged, exported)
    assert (again.n_computed, list(again.unreadable)) == (1, ["cat/bad.png"])


def test_every_view_of_an_unreadable_image_is_reported(dataset: Dataset, exported: ExportedBackbone):
    (dataset.source.root / "dog/001.png").write_bytes(b"no image")
    results = list(extract_on_cpu(dataset, [*views(dataset), *views(dataset, mirrored=True)], exported))
    failed = [(view.sample.path, view.mirrored) for view, row in results if isinstance(row, Exception)]
    assert failed == [("dog/001.png", False), ("dog/001.png", True)]


def test_an_image_is_decoded_once_for_all_of_its_views(dataset: Dataset, exported: ExportedBackbone, monkeypatch):
    decoded = []
    monkeypatch.setattr(extraction, "decode", lambda *call: decoded.append(call) or decode(*call))
    requested = [View(sample, mirrored, crop) for mirrored in (False, True) for crop in (0, 1) for sample in dataset.samples]
    features = extract(dataset, requested, exported)
    assert (len(decoded), len(features.row_index)) == (5, 20)
    alone = extract(dataset, requested[7:8], exported, cache=dataset.source.root / "cache")
    np.testing.assert_array_equal(features.array[features.row_index[requested[7].key]], alone.array[0])


def test_features_can_be_cached_in_another_folder(
    dataset: Dataset, exported: ExportedBackbone, empty_cache: Path, tmp_path: Path
):
    for n_computed in (5, 0):
        assert extract(dataset, views(dataset), exported, cache=tmp_path / "features").n_computed == n_computed
    assert shards(empty_cache) == []
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_no_readable_image_gives_no_rows(dataset: Dataset, exported: ExportedBackbone):
    for path in dataset.source.root.rglob("*.png"):
        path.write_bytes(f"no image: {path}".encode())
    features = extract_all(scan_images(scan(dataset.source.root))[0], exported)
    assert (len(features.unreadable), features.vectors.shape, features.array.shape) == (5, (0, 1280), (0, 1792))


def test_interrupted_shard_is_ignored(dataset: Dataset, exported: ExportedBackbone, empty_cache: Path):
    extract_all(dataset, exported)
    [shard] = shards(empty_cache)
    shard.rename(shard.with_name(".half.tmp"))
    assert extract_all(dataset, exported).n_computed == 5


def test_finished_extraction_leaves_only_shards(dataset: Dataset, exported: ExportedBackbone, empty_cache: Path):
    extract_all(dataset, exported)
    files = [path for path in (empty_cache / "features").rglob("*") if path.is_file()]
    assert files == shards(empty_cache)
    assert len(files) == 1


def test_damaged_shard_is_computed_again(dataset: Dataset, exported: ExportedBackbone, empty_cache: Path):
    extract_all(dataset, exported)
    [shard] = shards(empty_cache)
    shard.write_bytes(shard.read_bytes()[:200])  # as after a power failure
    assert extract_all(dataset, exported).n_computed == 5


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("del one, other", id="older first"),
        pytest.param(
            "held = [one]; del other, one; t = threading.Thread(target=held.clear); t.start(); t.join()", id="in another thread"
        ),
    ],
)
def test_signals_still_arrive_after_graphs_have_ended(exported: ExportedBackbone, end: str):
    # OpenVINO installs a signal stack in the thread that creates it and frees it on destruction. If two instances are
    # destroyed in the wrong order, it is freed twice, and the next signal, such as SIGCHLD, kills the process.
    program = (
        "import os, signal, sys, threading; from pathlib import Path;"
        "from graft.service.inference.openvino import OpenVinoModel;"
        "signal.signal(signal.SIGUSR1, lambda *_: print('arrived'));"
        f"one, other = OpenVinoModel(Path(sys.argv[1])), OpenVinoModel(Path(sys.argv[1])); {end};"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    command = [sys.executable, "-c", program, str(exported.graph)]
    completed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (completed.returncode, completed.stdout) == (0, "arrived\n")


def test_torch_gives_the_same_features_as_openvino(dataset: Dataset, exported: ExportedBackbone):
    from graft.training.features.lightning_extractor import extract_on_gpu

    all_views = [*views(dataset), *views(dataset, mirrored=True)]
    features = extract(dataset, all_views, exported)
    for view, row in extract_on_gpu(dataset, all_views, exported, device="cpu"):
        expected = features.load([view.sample], view.mirrored, "all")[0]
        np.testing.assert_allclose(row.astype(np.float32), expected, atol=1e-2)


def test_torch_yields_every_view_once_and_in_order(dataset: Dataset, exported: ExportedBackbone):
    from graft.training.features.lightning_extractor import extract_on_gpu

    yielded = [view for view, _ in extract_on_gpu(dataset, views(dataset), exported, device="cpu")]
    assert yielded == views(dataset)


@pytest.mark.parametrize("n_readable", [0, 2])
def test_torch_reports_unreadable_images(make_folder, exported: ExportedBackbone, n_readable: int):
    from graft.training.features.lightning_extractor import extract_on_gpu

    folder = make_folder({"cat": 2, "dog": 2})
    for path in sorted(folder.rglob("*.png"))[n_readable:]:
        path.write_bytes(f"no image: {path}".encode())
    dataset = scan_images(scan(folder))[0]
    results = list(extract_on_gpu(dataset, views(dataset), exported, device="cpu"))
    assert len(results) == 4
    errors = [str(row) for _, row in results if isinstance(row, DatasetError)]
    assert len(errors) == 4 - n_readable
    assert all(error.startswith("The file is not a supported image (JPEG, PNG, WebP, GIF, BMP, TIFF") for error in errors)


def test_torch_reports_errors_from_dataloader_workers(make_folder, exported: ExportedBackbone):
    from torch.utils.data import DataLoader

    from graft.training.features.lightning_extractor import _collate, _ViewDataset

    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "cat/000.png").write_bytes(b"no image")
    dataset = scan_images(scan(folder))[0]
    view_dataset = _ViewDataset(dataset, views(dataset), exported)
    [(indices, pixels, errors)] = DataLoader(view_dataset, batch_size=4, num_workers=1, collate_fn=_collate, timeout=60)
    assert (indices, pixels.shape, list(errors)) == ([1, 2, 3], (3, 128, 128, 3), [0])


def torch_extractor(exported: ExportedBackbone):
    from graft.training.features.lightning_extractor import FeatureExtractor, load_with_random_head

    return FeatureExtractor(load_with_random_head(exported))


def pixels_of(dataset: Dataset, exported: ExportedBackbone):
    import torch

    return torch.from_numpy(
        np.stack([decode(dataset.read(sample), exported.preprocessing).pixels for sample in dataset.samples])
    )


@pytest.fixture
def many(make_folder) -> Dataset:
    """Seventy images: five batches."""
    return scan_images(scan(make_folder({"cat": 35, "dog": 35}, side=8)))[0]


def test_torch_loads_all_views_with_one_loader(many: Dataset, exported: ExportedBackbone, monkeypatch):
    from torch.utils.data import DataLoader

    from graft.training.features.lightning_extractor import extract_on_gpu

    started = []
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: started.append(len(self)) or self._get_iterator())
    monkeypatch.setattr("graft.training.features.extraction.SHARD_SIZE", 8)
    features = extract(many, views(many), exported, lambda *call: extract_on_gpu(*call, device="cpu"))
    assert (len(features.row_index), started) == (70, [5])


def test_torch_streams_rows_and_finished_shards_are_cached_early(
    many: Dataset, exported: ExportedBackbone, empty_cache: Path, monkeypatch
):
    from graft.training.features import lightning_extractor

    read = []
    monkeypatch.setattr(lightning_extractor, "decode", lambda *call: read.append(len(shards(empty_cache))) or decode(*call))
    monkeypatch.setattr("graft.training.features.extraction.SHARD_SIZE", 16)
    extract(many, views(many), exported, lambda *call: lightning_extractor.extract_on_gpu(*call, device="cpu"))
    assert read == [number // 16 for number in range(70)]  # shards that were cached when an image was read


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_loader_processes_end_with_the_caller(many: Dataset, exported: ExportedBackbone, monkeypatch, error):
    import multiprocessing

    from graft.training.features import lightning_extractor

    monkeypatch.setattr(lightning_extractor, "planned_workers", lambda device, n_cpus: 2)
    before = set(multiprocessing.active_children())
    results = lightning_extractor.extract_on_gpu(many, views(many), exported, device="cpu")
    first, _ = next(results)
    assert (first.sample.path, len(set(multiprocessing.active_children()) - before)) == ("cat/000.png", 2)
    with pytest.raises(error):
        results.throw(error())
    assert set(multiprocessing.active_children()) == before


def test_torch_rows_do_not_depend_on_the_number_of_processes(many: Dataset, exported: ExportedBackbone, monkeypatch):
    from graft.training.features import lightning_extractor

    alone = list(lightning_extractor.extract_on_gpu(many, views(many), exported, device="cpu"))
    monkeypatch.setattr(lightning_extractor, "planned_workers", lambda device, n_cpus: 2)
    shared = list(lightning_extractor.extract_on_gpu(many, views(many), exported, device="cpu"))
    assert [view for view, _ in shared] == [view for view, _ in alone] == views(many)
    np.testing.assert_array_equal(np.stack([row for _, row in shared]), np.stack([row for _, row in alone]))


def test_loaders_leave_a_core_to_the_process_that_feeds_the_gpu():
    from graft.training.features.lightning_extractor import planned_workers

    assert [planned_workers("cuda", n_cpus) for n_cpus in (1, 2, 16)] == [1, 1, 15]
    assert planned_workers("cpu", 16) == 0


def test_float16_changes_the_features_a_little(make_folder, exported: ExportedBackbone):
    dataset = scan_images(scan(make_folder({"cat": 1, "dog": 1})))[0]
    assert 1e-4 < torch_extractor(exported).drift(pixels_of(dataset, exported)) < 0.05


@pytest.mark.parametrize(("drift", "mixed"), [(0.001, True), (0.0021, False), (float("inf"), False)])
def test_mixed_precision_is_used_if_it_hardly_changes_the_features(
    exported: ExportedBackbone, capsys, monkeypatch, drift: float, mixed: bool
):
    import torch

    from graft.training.features.lightning_extractor import choose_precision

    extractor = torch_extractor(exported)
    monkeypatch.setattr(extractor, "drift", lambda pixels: drift)
    choose_precision(extractor, torch.zeros(7, 1))
    assert extractor.mixed is mixed
    precision = "mixed precision" if mixed else "float32"
    expected = (
        f"features are computed in {precision}: on 7 images float16 changes them by {drift:.2g}, relatively; 0.002 is allowed"
    )
    assert expected in capsys.readouterr().err


def test_drift_is_that_of_the_worst_stage_of_the_worst_image(dataset: Dataset, exported: ExportedBackbone, monkeypatch):
    import torch

    extractor = torch_extractor(exported)
    exact = torch.ones(5, 1792)
    mixed = exact.clone()
    mixed[3, 16:40] += 0.25  # the second stage of one image
    monkeypatch.setattr(extractor, "features", lambda pixels, mixed_precision: mixed if mixed_precision else exact)
    assert extractor.drift(torch.zeros(5)) == pytest.approx(0.25)
    mixed[0, 0] = torch.inf
    assert extractor.drift(torch.zeros(5)) == torch.inf


def test_batch_beyond_the_range_of_float16_is_computed_in_float32(dataset: Dataset, exported: ExportedBackbone, monkeypatch):
    import torch

    extractor = torch_extractor(exported)
    extractor.mixed = True
    precisions = []

    def features(pixels: torch.Tensor, mixed: bool) -> torch.Tensor:
        precisions.append(mixed)
        return torch.full((1, 4), torch.inf if mixed else 70_000.0)

    monkeypatch.setattr(extractor, "features", features)
    _, rows, _ = extractor.predict_step(([0], torch.zeros(1), {}), 0)
    assert (precisions, rows.tolist()) == ([True, False], [[65504.0] * 4])


@pytest.mark.parametrize("first_is_readable", [True, False])
def test_precision_is_chosen_once_by_the_first_images(
    many: Dataset, exported: ExportedBackbone, monkeypatch, first_is_readable: bool
):
    from lightning_fabric import Fabric

    from graft.training.features import lightning_extractor

    if not first_is_readable:
        for sample in many.samples[:16]:
            (many.source.root / sample.path).write_bytes(b"no image")
    chosen = []
    monkeypatch.setattr(lightning_extractor, "Fabric", lambda accelerator, devices: Fabric(accelerator="cpu", devices=devices))
    monkeypatch.setattr(lightning_extractor, "BATCH_SIZES", {"cuda": 16})
    monkeypatch.setattr(lightning_extractor, "planned_workers", lambda device, n_cpus: 0)
    monkeypatch.setattr(lightning_extractor, "choose_precision", lambda extractor, pixels: chosen.append(len(pixels)))
    results = list(lightning_extractor.extract_on_gpu(many, views(many), exported, device="cuda"))
    assert (len(results), chosen) == (70, [16])


def feature_sets(dataset: Dataset, exported: ExportedBackbone) -> dict[str, np.ndarray]:
    return extract_all(dataset, exported).load_all(dataset.samples)


def test_feature_sets_are_the_stages_the_last_vector_and_all(dataset: Dataset, exported: ExportedBackbone):
    sets = feature_sets(dataset, exported)
    widths = {"stage1": 16, "stage2": 24, "stage3": 40, "stage4": 112, "stage5": 320, "last": 1280, "all": 1792}
    assert {name: features.shape for name, features in sets.items()} == {name: (5, width) for name, width in widths.items()}
    assert sets["all"].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([sets[name] for name in list(widths)[:-1]], axis=1), sets["all"])


def test_last_feature_set_is_the_default(dataset: Dataset, exported: ExportedBackbone):
    features = extract_all(dataset, exported)
    np.testing.assert_array_equal(features.load_all(dataset.samples)["last"], features.load(dataset.samples))


def test_stage_is_the_spatial_mean_of_timms_feature_map(dataset: Dataset, exported: ExportedBackbone):
    import torch

    from graft.training.backbones import pretrained

    network = pretrained.load(registry.resolve("tf_efficientnet_lite0")).eval()
    pixels = np.stack([decode(dataset.read(sample), exported.preprocessing).pixels for sample in dataset.samples])
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        maps = network.forward_intermediates(images, intermediates_only=True)
    sets = feature_sets(dataset, exported)
    for number, stage in enumerate(maps):
        expected = stage.numpy().mean(axis=(2, 3))
        np.testing.assert_allclose(sets[f"stage{number + 1}"], expected, atol=2e-3 * np.abs(expected).max())


def test_feature_sets_survive_the_cache(dataset: Dataset, exported: ExportedBackbone):
    np.testing.assert_array_equal(feature_sets(dataset, exported)["all"], feature_sets(dataset, exported)["all"])


def test_features_beyond_float16_are_clipped():
    row = to_float16(np.array([1.0, 1e6, -np.inf], np.float32))
    assert (row.dtype, row.tolist()) == (np.float16, [1.0, 65504.0, -65504.0])


def test_deleted_file_is_reported_as_unreadable(dataset: Dataset, exported: ExportedBackbone):
    (dataset.source.root / "dog/001.png").unlink()
    features = extract_all(dataset, exported)
    assert list(features.unreadable) == ["dog/001.png"]
    assert "dog/001.png cannot be read" in features.unreadable["dog/001.png"]
    assert len(features.row_index) == 4


def test_files_are_read_in_order_of_path(dataset: Dataset, exported: ExportedBackbone):
    read: list[tuple[str, bool]] = []

    def recorder(_: Dataset, requested: list[View], __: ExportedBackbone):
        read.extend((view.sample.path, view.mirrored) for view in requested)
        return ((view, np.zeros(1792, np.float16)) for view in requested)

    shuffled = [*views(dataset)[::-1], *views(dataset, mirrored=True)]
    extract(dataset, shuffled, exported, recorder)
    paths = ["cat/000.png", "cat/001.png", "cat/002.png", "dog/000.png", "dog/001.png"]
    assert read == [(path, mirrored) for path in paths for mirrored in (False, True)]


def test_shard_of_another_width_is_computed_again(dataset: Dataset, exported: ExportedBackbone, empty_cache: Path):
    extract_all(dataset, exported)
    [shard] = shards(empty_cache)
    with np.load(shard) as arrays:
        keys, features = arrays["keys"], arrays["features"]
    np.savez(shard, keys=keys, features=features[:, :7])
    assert extract_all(dataset, exported).n_computed == 5


def fake_views(n_images: int) -> list[View]:
    """Views of nonexistent images with distinct digests."""
    return [View(Sample(f"{number:05d}.png", (0,), "", number.to_bytes(32, "big"))) for number in range(n_images)]


def numbered(_: Dataset, requested: list[View], __: ExportedBackbone):
    """An extractor that computes nothing: every feature of a view is its number."""
    return ((view, np.full(1792, int(view.sample.path[:5]), np.float16)) for view in requested)


@pytest.mark.parametrize("cached", [False, True])
def test_features_are_never_all_in_memory(dataset, exported, monkeypatch, cached: bool):
    monkeypatch.setattr("graft.training.features.extraction.SHARD_SIZE", 128)
    if cached:
        extract(dataset, fake_views(2_000), exported, numbered)
    tracemalloc.start()
    features = extract(dataset, fake_views(2_000), exported, numbered)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.n_computed == (0 if cached else 2_000)
    assert peak < features.array.nbytes / 2  # the features are 7 MB; the index is 500 bytes per image
    samples = [view.sample for view in fake_views(2_000)][::-1]
    np.testing.assert_array_equal(features.load(samples)[:, 0], np.arange(2_000)[::-1].astype(np.float16))


def test_full_disk_is_reported_before_extraction(dataset, exported, monkeypatch):
    monkeypatch.setattr("graft.training.runtime.atomic_files.free_bytes", lambda folder: 1_000)
    with pytest.raises(OSError, match=r"The disk is full: 17,920 bytes are needed and 1,000 are free"):
        extract(dataset, views(dataset), exported, numbered)


def test_features_remain_readable_without_the_cache(dataset: Dataset, exported: ExportedBackbone, empty_cache: Path):
    features = extract_all(dataset, exported)
    assert [path for path in (empty_cache / "features").rglob("*") if path.is_file()] == shards(empty_cache)
    for shard in shards(empty_cache):
        shard.unlink()
    assert features.load(dataset.samples).shape == (5, 1280)
