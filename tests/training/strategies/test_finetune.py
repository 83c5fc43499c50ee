"""Linear probes on extracted features. Fine-tuning is tested in test_lightning_module.py, packages in test_writer.py."""

import pytest

from graft.training.audit.image_scan import scan_images
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import split
from graft.training.features.extraction import View, extract
from graft.training.runs.run_folder import RunFolder
from graft.training.strategies import probe
from graft.training.strategies.context import TrainingContext, extract_or_exclude


@pytest.fixture(scope="module")
def photos(cache, tmp_path_factory):
    """Sixty images of three labels: (dataset, splits, exported backbone)."""
    import zipfile

    from graft.training.sample import SAMPLE

    folder = tmp_path_factory.mktemp("photos")
    with zipfile.ZipFile(SAMPLE) as archive:
        for name in archive.namelist():
            split_name, label, number = name.split("/")
            if split_name == "train" and label in {"bag", "coat", "sandal"} and int(number[:3]) <= 20:
                (folder / label).mkdir(exist_ok=True)
                (folder / label / number).write_bytes(archive.read(name))
    dataset = scan_images(scan(folder))[0]
    return (
        dataset,
        split(dataset, seed=0),
        onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), None, 28, "crop"),
    )


@pytest.mark.parametrize("flips", [True, False])
def test_probe_trains_on_the_extracted_views(photos, flips, tmp_path):
    dataset, splits, exported = photos
    recipe = Recipe(flips=flips)
    features, splits, _ = extract_or_exclude(dataset, splits, exported, recipe)
    n_views = sum(len(samples) for samples in splits.to_dict().values())
    n_mirrored = len(splits.train) + len(splits.validation) if flips else 0
    assert len(features.row_index) == n_views + n_mirrored
    context = TrainingContext(dataset, splits, exported, features, recipe, RunFolder(tmp_path))
    assert len(context.view_features(splits.train)) == (2 if flips else 1)
    assert probe.fit_probe(context).final_head.weight.shape == (3, 1280)


def test_probe_works_without_features_of_mirror_images(photos, tmp_path):
    # The recipe mirrors up to 5,000 images; excluding files after the extraction can bring a larger set below that.
    dataset, splits, exported = photos
    views = [View(sample) for samples in splits.to_dict().values() for sample in samples]
    features = extract(dataset, views, exported)
    context = TrainingContext(dataset, splits, exported, features, Recipe(flips=True), RunFolder(tmp_path))
    assert probe.fit_probe(context).train_head.weight.shape == (3, 1280)


def test_label_without_training_images_is_rejected(photos):
    from dataclasses import replace

    from graft.training.data.dataset import DatasetError

    dataset, splits, exported = photos
    few = replace(splits, train=tuple(sample for sample in splits.train if sample.label != 0))
    with pytest.raises(DatasetError, match="'bag' has too few images: 0 for training"):
        extract_or_exclude(dataset, few, exported, Recipe())
