"""Every image goes through the backbone once, ever, and comes out the same on both roads."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.engine import VECTORS, Graph
from service.preprocess import ImageError, decode
from training import backbones, graphs
from training.dataset import Dataset, digested, scan
from training.features import Features, View, extract
from training.graphs import Exported

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exported(fitted) -> Exported:
    """The graph that the session's fit has made already."""
    return graphs.export(backbones.choose("tf_efficientnet_lite0"), 128, 28, "crop")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dataset(make_folder) -> Dataset:
    return digested(scan(make_folder({"cat": 3, "dog": 2})))


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
    more = digested(scan(make_folder({"hen": 2}, seed=1)))
    assert extracted(more, exported).computed == 2


def test_same_image_under_another_name_is_not_computed_again(dataset: Dataset, exported: Exported):
    extracted(dataset, exported)
    os.rename(dataset.source.root / "cat/000.png", dataset.source.root / "cat/renamed.png")
    assert extracted(digested(scan(dataset.source.root)), exported).computed == 0


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
    damaged = digested(scan(dataset.source.root))
    features = extracted(damaged, exported)
    assert features.unreadable == {"cat/bad.png": "The image's header is damaged or cut off."}
    assert len(features.rows) == 5


def test_unreadable_image_is_not_cached(dataset: Dataset, exported: Exported):
    (dataset.source.root / "cat/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    damaged = digested(scan(dataset.source.root))
    extracted(damaged, exported)
    again = extracted(damaged, exported)
    assert (again.computed, list(again.unreadable)) == (1, ["cat/bad.png"])


def test_no_readable_image_at_all_leaves_no_rows(dataset: Dataset, exported: Exported):
    for path in dataset.source.root.rglob("*.png"):
        path.write_bytes(f"no image: {path}".encode())
    features = extracted(digested(scan(dataset.source.root)), exported)
    assert (len(features.unreadable), features.vectors.shape) == (5, (0, 1280))


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
        "import os, signal, sys, threading; from pathlib import Path; from service.engine import Graph;"
        "signal.signal(signal.SIGUSR1, lambda *_: print('arrived'));"
        f"one, other = Graph(Path(sys.argv[1])), Graph(Path(sys.argv[1])); {end};"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    command = [sys.executable, "-c", program, str(exported.graph)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "arrived\n")


def test_torchs_road_gives_the_graphs_vectors(dataset: Dataset, exported: Exported):
    from training.extractor import passes

    looked = [*views(dataset), *views(dataset, mirrored=True)]
    by_graph = extract(dataset, looked, exported)
    for view, vector in passes(dataset, looked, exported, accelerator="cpu"):
        expected = by_graph.of([view.sample], view.mirrored)[0]
        np.testing.assert_allclose(vector.astype(np.float32), expected, atol=1e-2)


def test_torchs_road_answers_every_view_once_and_in_order(dataset: Dataset, exported: Exported):
    from training.extractor import passes

    found = [view for view, _ in passes(dataset, views(dataset), exported, accelerator="cpu")]
    assert found == views(dataset)


@pytest.mark.parametrize("n_readable", [0, 2])
def test_torchs_road_reports_unreadable_images(make_folder, exported: Exported, n_readable: int):
    from training.extractor import passes

    folder = make_folder({"cat": 2, "dog": 2})
    for path in sorted(folder.rglob("*.png"))[n_readable:]:
        path.write_bytes(f"no image: {path}".encode())
    dataset = digested(scan(folder))
    found = list(passes(dataset, views(dataset), exported, accelerator="cpu"))
    assert len(found) == 4
    assert sum(isinstance(vector, ImageError) for _, vector in found) == 4 - n_readable
