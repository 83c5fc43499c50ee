"""Strategies from features to a head; what they end in is tested with the package, how they learn in test_finetune.py."""

import pytest

from graft.training.audit.image_scan import examine
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import split
from graft.training.features.extraction import View, extract
from graft.training.runs.run_folder import Folder
from graft.training.strategies import probe
from graft.training.strategies.context import Ground, readable


@pytest.fixture(scope="module")
def photos(cache, tmp_path_factory):
    """Sixty images of three labels: (dataset, splits, exported backbone)."""
    import zipfile

    from graft.training.sample import SAMPLE

    folder = tmp_path_factory.mktemp("ladder")
    with zipfile.ZipFile(SAMPLE) as archive:
        for name in archive.namelist():
            part, label, number = name.split("/")
            if part == "train" and label in {"bag", "coat", "sandal"} and int(number[:3]) <= 20:
                (folder / label).mkdir(exist_ok=True)
                (folder / label / number).write_bytes(archive.read(name))
    dataset = examine(scan(folder))[0]
    return dataset, split(dataset, seed=0), onnx_cache.export(registry.choose("tf_efficientnet_lite0"), None, 28, "crop")


@pytest.mark.parametrize("flips", [True, False])
def test_a_probe_learns_from_the_views_that_were_looked_at(photos, flips, tmp_path):
    dataset, splits, exported = photos
    choices = Recipe(flips=flips)
    features, splits, _ = readable(dataset, splits, exported, choices)
    n_views = sum(len(samples) for samples in splits.named().values())
    n_mirrored = len(splits.train) + len(splits.validation) if flips else 0
    assert len(features.rows) == n_views + n_mirrored
    ground = Ground(dataset, splits, exported, features, choices, Folder(tmp_path))
    assert len(ground.seen(splits.train)) == (2 if flips else 1)
    assert probe.probe(ground).final.weight.shape == (3, 1280)


def test_a_probe_needs_no_mirror_images_that_were_never_looked_at(photos, tmp_path):
    # The recipe asks for them up to 5,000 images; leaving files out can bring a larger set below that after the pass.
    dataset, splits, exported = photos
    views = [View(sample) for samples in splits.named().values() for sample in samples]
    features = extract(dataset, views, exported)
    ground = Ground(dataset, splits, exported, features, Recipe(flips=True), Folder(tmp_path))
    assert probe.probe(ground).start.weight.shape == (3, 1280)


def test_leaving_nothing_of_a_label_to_learn_from_is_refused(photos):
    from dataclasses import replace

    from graft.training.data.dataset import DatasetError

    dataset, splits, exported = photos
    few = replace(splits, train=tuple(sample for sample in splits.train if sample.label != 0))
    with pytest.raises(DatasetError, match="'bag' has too few images: 0 to learn from"):
        readable(dataset, few, exported, Recipe())
