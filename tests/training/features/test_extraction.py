"""Every image goes through the backbone once, ever, and comes out the same on both roads."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.service.imaging.preprocess import decode
from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import Graph
from graft.training.audit.image_scan import examine
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import Exported
from graft.training.data.dataset import Dataset, DatasetError, Sample, scan
from graft.training.features.extraction import Features, View, extract, halved

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def exported(fitted) -> Exported:
    """The graph that the session's fit has made already."""
    return onnx_cache.export(registry.choose("tf_efficientnet_lite0"), 128, 28, "crop")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dataset(make_folder) -> Dataset:
    return examine(scan(make_folder({"cat": 3, "dog": 2})))[0]


def views(dataset: Dataset, mirrored: bool = False) -> list[View]:
    return [View(sample, mirrored) for sample in dataset.samples]


def extracted(dataset: Dataset, exported: Exported) -> Features:
    return extract(dataset, views(dataset), exported)


def shards(cache: Path) -> list[Path]:
    return sorted((cache / "features").rglob("*.npz"))


def test_nothing_is_computed_twice(dataset: Dataset, exported: Exported):
    first, second = extracted(dataset, exported), extracted(dataset, exported)
    assert (first.computed, second.computed) == (5, 0)
    np.testing.assert_array_equal(first.of(dataset.samples), second.of(dataset.samples))


def test_only_new_images_are_computed(make_folder, dataset: Dataset, exported: Exported):
    extracted(dataset, exported)
    more = examine(scan(make_folder({"hen": 2}, seed=1)))[0]
    assert extracted(more, exported).computed == 2


def test_same_image_under_another_name_is_not_computed_again(dataset: Dataset, exported: Exported):
    extracted(dataset, exported)
    os.rename(dataset.source.root / "cat/000.png", dataset.source.root / "cat/renamed.png")
    assert extracted(examine(scan(dataset.source.root))[0], exported).computed == 0


def test_another_way_to_make_images_square_is_computed_anew(dataset: Dataset, exported: Exported):
    extracted(dataset, exported)
    squashed = exported.model_copy(update={"preprocessing": exported.preprocessing.model_copy(update={"fit": "squash"})})
    assert extracted(dataset, squashed).computed == 5


def test_vectors_are_what_the_graph_says_of_the_services_pixels(dataset: Dataset, exported: Exported):
    pixels = np.stack([decode(dataset.read(sample), exported.preprocessing).pixels for sample in dataset.samples])
    expected = Graph(exported.graph, lanes=1)(pixels)[VECTORS]
    np.testing.assert_allclose(extracted(dataset, exported).of(dataset.samples), expected, rtol=1e-3, atol=1e-3)


def test_vectors_come_in_the_order_of_the_samples(dataset: Dataset, exported: Exported):
    features = extracted(dataset, exported)
    forwards, backwards = features.of(dataset.samples), features.of(dataset.samples[::-1])
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert len(np.unique(forwards, axis=0)) == 5


def test_vectors_are_float32_of_the_backbones_width(dataset: Dataset, exported: Exported):
    vectors = extracted(dataset, exported).of(dataset.samples)
    assert (vectors.shape, vectors.dtype) == ((5, 1280), np.float32)


def test_mirrored_view_is_the_mirror_images_own(dataset: Dataset, exported: Exported):
    features = extract(dataset, [*views(dataset), *views(dataset, mirrored=True)], exported)
    pixels = decode(dataset.read(dataset.samples[0]), exported.preprocessing).pixels
    expected = Graph(exported.graph, lanes=1)(np.ascontiguousarray(pixels[None, :, ::-1]))[VECTORS]
    mirrored = features.of(dataset.samples[:1], mirrored=True)
    np.testing.assert_allclose(mirrored, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(mirrored - features.of(dataset.samples[:1])).max() > 0.05


def test_unreadable_image_is_reported_with_the_reason(dataset: Dataset, exported: Exported):
    (dataset.source.root / "cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    damaged = examine(scan(dataset.source.root))[0]
    features = extracted(damaged, exported)
    assert features.unreadable == {"cat/bad.png": "The image's header is damaged or cut off."}
    assert len(features.rows) == 5


def test_unreadable_image_is_not_cached(dataset: Dataset, exported: Exported):
    (dataset.source.root / "cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    damaged = examine(scan(dataset.source.root))[0]
    extracted(damaged, exported)
    again = extracted(damaged, exported)
    assert (again.computed, list(again.unreadable)) == (1, ["cat/bad.png"])


def test_no_readable_image_at_all_leaves_no_rows(dataset: Dataset, exported: Exported):
    for path in dataset.source.root.rglob("*.png"):
        path.write_bytes(f"no image: {path}".encode())
    features = extracted(examine(scan(dataset.source.root))[0], exported)
    assert (len(features.unreadable), features.vectors.shape, features.seen.shape) == (5, (0, 1280), (0, 1792))


def test_interrupted_shard_is_ignored(dataset: Dataset, exported: Exported, own_cache: Path):
    extracted(dataset, exported)
    [shard] = shards(own_cache)
    shard.rename(shard.with_name(".half.tmp"))
    assert extracted(dataset, exported).computed == 5


def test_finished_pass_leaves_nothing_but_shards(dataset: Dataset, exported: Exported, own_cache: Path):
    extracted(dataset, exported)
    files = [path for path in (own_cache / "features").rglob("*") if path.is_file()]
    assert files == shards(own_cache)
    assert len(files) == 1


def test_damaged_shard_is_made_again(dataset: Dataset, exported: Exported, own_cache: Path):
    extracted(dataset, exported)
    [shard] = shards(own_cache)
    shard.write_bytes(shard.read_bytes()[:200])  # as after a power cut
    assert extracted(dataset, exported).computed == 5


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("del one, other", id="the older one first"),
        pytest.param(
            "held = [one]; del other, one; t = threading.Thread(target=held.clear); t.start(); t.join()", id="in another thread"
        ),
    ],
)
def test_signals_still_arrive_after_graphs_have_ended(exported: Exported, end: str):
    # OpenVINO lends the thread that starts it a stack for signals, and takes it back when it ends: once too often, if two
    # of them end in the wrong order. The next signal, such as a data loader's worker ending, then kills the process.
    program = (
        "import os, signal, sys, threading; from pathlib import Path; from graft.service.inference.engine import Graph;"
        "signal.signal(signal.SIGUSR1, lambda *_: print('arrived'));"
        f"one, other = Graph(Path(sys.argv[1])), Graph(Path(sys.argv[1])); {end};"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    command = [sys.executable, "-c", program, str(exported.graph)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "arrived\n")


def test_torchs_road_gives_the_graphs_rows(dataset: Dataset, exported: Exported):
    from graft.training.features.lightning_extractor import passes

    looked = [*views(dataset), *views(dataset, mirrored=True)]
    by_graph = extract(dataset, looked, exported)
    for view, row in passes(dataset, looked, exported, accelerator="cpu"):
        expected = by_graph.of([view.sample], view.mirrored, "all")[0]
        np.testing.assert_allclose(row.astype(np.float32), expected, atol=1e-2)


def test_torchs_road_answers_every_view_once_and_in_order(dataset: Dataset, exported: Exported):
    from graft.training.features.lightning_extractor import passes

    found = [view for view, _ in passes(dataset, views(dataset), exported, accelerator="cpu")]
    assert found == views(dataset)


@pytest.mark.parametrize("n_readable", [0, 2])
def test_torchs_road_reports_unreadable_images(make_folder, exported: Exported, n_readable: int):
    from graft.training.features.lightning_extractor import passes

    folder = make_folder({"cat": 2, "dog": 2})
    for path in sorted(folder.rglob("*.png"))[n_readable:]:
        path.write_bytes(f"no image: {path}".encode())
    dataset = examine(scan(folder))[0]
    found = list(passes(dataset, views(dataset), exported, accelerator="cpu"))
    assert len(found) == 4
    reasons = [str(row) for _, row in found if isinstance(row, DatasetError)]
    assert reasons == ["This is not an image of an accepted kind (JPEG, PNG, WEBP, GIF, BMP)."] * (4 - n_readable)


def test_torchs_road_brings_reasons_out_of_the_loaders_processes(make_folder, exported: Exported):
    from torch.utils.data import DataLoader

    from graft.training.features.lightning_extractor import _collate, _Views

    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "cat/000.png").write_bytes(b"no image")
    dataset = examine(scan(folder))[0]
    items = _Views(dataset, views(dataset), exported)
    [(good, pixels, reasons)] = DataLoader(items, batch_size=4, num_workers=1, collate_fn=_collate, timeout=60)
    assert (good, pixels.shape, list(reasons)) == ([1, 2, 3], (3, 128, 128, 3), [0])


def rows_of(dataset: Dataset, exported: Exported) -> dict[str, np.ndarray]:
    return extracted(dataset, exported).stages(dataset.samples)


def test_every_stage_is_a_block_and_so_are_the_last_vectors_and_all_of_it(dataset: Dataset, exported: Exported):
    blocks = rows_of(dataset, exported)
    widths = {"stage1": 16, "stage2": 24, "stage3": 40, "stage4": 112, "stage5": 320, "last": 1280, "all": 1792}
    assert {name: block.shape for name, block in blocks.items()} == {name: (5, width) for name, width in widths.items()}
    assert blocks["all"].dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([blocks[name] for name in list(widths)[:-1]], axis=1), blocks["all"])


def test_last_block_is_what_of_gives(dataset: Dataset, exported: Exported):
    features = extracted(dataset, exported)
    np.testing.assert_array_equal(features.stages(dataset.samples)["last"], features.of(dataset.samples))


def test_a_stage_is_the_mean_of_timms_own_stage_over_all_positions(dataset: Dataset, exported: Exported):
    import torch

    from graft.training.backbones import pretrained

    network = pretrained.load(registry.choose("tf_efficientnet_lite0")).eval()
    pixels = np.stack([decode(dataset.read(sample), exported.preprocessing).pixels for sample in dataset.samples])
    upright = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        maps = network.forward_intermediates(upright, intermediates_only=True)
    blocks = rows_of(dataset, exported)
    for number, stage in enumerate(maps):
        expected = stage.numpy().mean(axis=(2, 3))
        np.testing.assert_allclose(blocks[f"stage{number + 1}"], expected, atol=2e-3 * np.abs(expected).max())


def test_blocks_survive_the_cache(dataset: Dataset, exported: Exported):
    np.testing.assert_array_equal(rows_of(dataset, exported)["all"], rows_of(dataset, exported)["all"])


def test_features_beyond_half_precision_are_kept_finite():
    row = halved(np.array([1.0, 1e6, -np.inf], np.float32))
    assert (row.dtype, row.tolist()) == (np.float16, [1.0, 65504.0, -65504.0])


def test_file_that_vanished_is_reported_like_any_unreadable_one(dataset: Dataset, exported: Exported):
    (dataset.source.root / "dog/001.png").unlink()
    features = extracted(dataset, exported)
    assert list(features.unreadable) == ["dog/001.png"]
    assert "dog/001.png cannot be read" in features.unreadable["dog/001.png"]
    assert len(features.rows) == 4


def test_a_pass_goes_through_the_files_in_their_order_on_the_disk(dataset: Dataset, exported: Exported):
    asked: list[tuple[str, bool]] = []

    def noted(_: Dataset, wanted: list[View], __: Exported):
        asked.extend((view.sample.path, view.mirrored) for view in wanted)
        return ((view, np.zeros(1792, np.float16)) for view in wanted)

    shuffled = [*views(dataset)[::-1], *views(dataset, mirrored=True)]
    extract(dataset, shuffled, exported, noted)
    paths = ["cat/000.png", "cat/001.png", "cat/002.png", "dog/000.png", "dog/001.png"]
    assert asked == [(path, mirrored) for path in paths for mirrored in (False, True)]


def test_a_shard_of_another_width_is_made_again(dataset: Dataset, exported: Exported, own_cache: Path):
    extracted(dataset, exported)
    [shard] = shards(own_cache)
    with np.load(shard) as arrays:
        keys, seen = arrays["keys"], arrays["seen"]
    np.savez(shard, keys=keys, seen=seen[:, :7])
    assert extracted(dataset, exported).computed == 5


def distinct(n_images: int) -> list[View]:
    """Views of images that do not exist, each with a digest of its own."""
    return [View(Sample(f"{number:05d}.png", (0,), "", number.to_bytes(32, "big"))) for number in range(n_images)]


def numbered(_: Dataset, wanted: list[View], __: Exported):
    """A pass that computes nothing: a view's row holds its number."""
    return ((view, np.full(1792, int(view.sample.path[:5]), np.float16)) for view in wanted)


@pytest.mark.parametrize("cached", [False, True])
def test_features_of_many_images_are_never_all_in_memory(dataset, exported, monkeypatch, cached: bool):
    monkeypatch.setattr("graft.training.features.extraction.SHARD", 128)
    if cached:
        extract(dataset, distinct(2_000), exported, numbered)
    tracemalloc.start()
    found = extract(dataset, distinct(2_000), exported, numbered)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.computed == (0 if cached else 2_000)
    assert peak < found.seen.nbytes / 2  # 7 MB of them; what is kept of an image beside them is 500 bytes
    samples = [view.sample for view in distinct(2_000)][::-1]
    np.testing.assert_array_equal(found.of(samples)[:, 0], np.arange(2_000)[::-1].astype(np.float16))


def test_a_full_disk_is_explained_before_anything_is_computed(dataset, exported, monkeypatch):
    monkeypatch.setattr("graft.training.runtime.atomic_files.free", lambda folder: 1_000)
    with pytest.raises(OSError, match=r"The disk is full: 17,920 bytes are needed and 1,000 are free"):
        extract(dataset, views(dataset), exported, numbered)


def test_features_outlive_the_pass_without_a_file_of_their_own(dataset: Dataset, exported: Exported, own_cache: Path):
    features = extracted(dataset, exported)
    assert [path for path in (own_cache / "features").rglob("*") if path.is_file()] == shards(own_cache)
    for shard in shards(own_cache):
        shard.unlink()
    assert features.of(dataset.samples).shape == (5, 1280)
