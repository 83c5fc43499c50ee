"""`graft fit --from`: training starts from an earlier run or package, with the same labels or others."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from graft.service.artifact import ArtifactError
from graft.training.audit.image_scan import scan_images
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import scan
from graft.training.data.splits import assign_groups, split
from graft.training.pipelines import fit
from graft.training.strategies import starting_point

pytestmark = pytest.mark.slow
QUICK = {"input_size": 64, "flips": False, "thumbnails": False}


@pytest.fixture(scope="module")
def earlier(cache, tmp_path_factory: pytest.TempPathFactory) -> fit.FitResult:
    """A run on 16 images of dots and 16 of stripes."""
    folder = tmp_path_factory.mktemp("earlier")
    return fit.fit(write_textures(folder / "first", ("dots", "stripes"), 16), folder / "run", Recipe(strategy="probe", **QUICK))


def write_textures(folder: Path, labels: tuple[str, ...], n_images: int, seed: int = 0) -> Path:
    """Write noisy images that any network can tell apart: stripes, dots or plain."""
    from PIL import Image

    random = np.random.default_rng(seed)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(n_images):
            pixels = random.integers(0, 90, (48, 48), dtype=np.uint8)
            pixels[:: 4 if label == "stripes" else 48] += 120
            pixels[::8, :: 8 if label == "dots" else 48] += 120
            Image.fromarray(pixels).save(folder / label / f"{number:02d}.png")
    return folder


def splits(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as file:
        return {row["sha256"]: row["split"] for row in csv.DictReader(file)}


def test_known_images_keep_their_split_and_new_ones_are_split(earlier: fit.FitResult, tmp_path: Path):
    data = write_textures(tmp_path / "more", ("dots", "stripes"), 16)
    write_textures(tmp_path / "new", ("dots", "stripes"), 12, seed=1)
    for label in ("dots", "stripes"):
        shutil.move(tmp_path / "new" / label, data / label / "new")
    dataset, scanned = scan_images(scan(data))
    known = starting_point.load(earlier.run).split_of
    result = split(assign_groups(dataset, scanned.near_duplicates), seed=5, known=known)
    for name, samples in result.to_dict().items():
        assert {known[sample.digest] for sample in samples if sample.digest in known} == {name}
        assert any(sample.digest not in known for sample in samples)


def test_training_starts_from_the_backbone_of_the_model(earlier: fit.FitResult, tmp_path: Path):
    # An altered backbone is told apart from the pretrained one; an export of its weights checks the rest.
    from safetensors.numpy import save_file

    weights = earlier.package / "weights.safetensors"
    tensors = load_file(weights)
    tensors["backbone.conv_stem.weight"] = tensors["backbone.conv_stem.weight"] * 1.01
    altered = tmp_path / "altered.safetensors"
    save_file(tensors, altered)
    data = write_textures(tmp_path / "other", ("plain", "stripes", "dots"), 8)
    result = fit.fit(data, tmp_path / "run", Recipe(strategy="probe", weights=str(altered), **QUICK))
    learned = load_file(result.package / "weights.safetensors")
    assert np.array_equal(learned["backbone.conv_stem.weight"], tensors["backbone.conv_stem.weight"])
    again = fit.fit(
        data, tmp_path / "next", Recipe(strategy="probe", from_model=str(result.run), thumbnails=False, flips=False)
    )
    learned = load_file(again.package / "weights.safetensors")
    assert np.array_equal(learned["backbone.conv_stem.weight"], tensors["backbone.conv_stem.weight"])
    assert again.artifact.manifest.preprocessing.crop == 64
    assert "then other" in again.artifact.manifest.backbone.weights
    assert splits(again.run) == splits(result.run)


def test_earlier_model_is_kept_if_nothing_is_better_on_new_images(earlier: fit.FitResult, tmp_path: Path):
    data = write_textures(tmp_path / "new", ("stripes", "dots"), 8, seed=1)
    result = fit.fit(
        data, tmp_path / "run", Recipe(strategy="auto", from_model=str(earlier.run), budget="1s", thumbnails=False)
    )
    assert result.attempts[0].strategy == "previous"
    assert result.artifact.manifest.strategy == "previous"
    head = load_file(earlier.package / "weights.safetensors")["head.weight"]
    assert np.array_equal(load_file(result.package / "weights.safetensors")["head.weight"], head)


def test_earlier_model_is_no_candidate_on_images_that_it_knows(earlier: fit.FitResult, tmp_path: Path, capsys):
    data = write_textures(tmp_path / "same", ("dots", "stripes"), 16)
    result = fit.fit(
        data, tmp_path / "run", Recipe(strategy="auto", from_model=str(earlier.run), budget="1s", thumbnails=False)
    )
    assert "previous" not in [attempt.strategy for attempt in result.attempts]
    assert "is not a candidate itself" in capsys.readouterr().err


def test_package_outside_its_run_warns_that_scores_may_be_too_high(earlier: fit.FitResult, tmp_path: Path, capsys):
    package = shutil.copytree(earlier.package, tmp_path / "package")
    recipe, _ = starting_point.resolve(Recipe(from_model=str(package)))
    assert (recipe.backbone, recipe.weights) == ("tf_efficientnet_lite0", str(package / "weights.safetensors"))
    assert "it is not known which images it has learned from" in capsys.readouterr().err


@pytest.mark.parametrize("option", [{"backbone": "resnet18"}, {"weights": "none"}, {"init": "random"}])
def test_option_that_contradicts_the_model_is_refused(earlier: fit.FitResult, option: dict[str, str]):
    with pytest.raises(ValueError, match=f"--{next(iter(option))} cannot be combined with --from"):
        starting_point.resolve(Recipe(from_model=str(earlier.run), **option))


def test_recorded_recipe_can_be_used_again(earlier: fit.FitResult):
    recipe, _ = starting_point.resolve(Recipe(from_model=str(earlier.run)))
    assert starting_point.resolve(recipe)[0] == recipe


def test_missing_model_is_refused(tmp_path: Path):
    with pytest.raises(ArtifactError, match="nowhere is not a package"):
        starting_point.load(tmp_path / "nowhere")


def test_resume_of_a_finished_run_compares_the_data(earlier: fit.FitResult, tmp_path: Path):
    data = write_textures(tmp_path / "first", ("dots", "stripes"), 16)
    assert fit.fit(data, earlier.run, Recipe(), resume=True).package == earlier.package
    (data / "dots" / "00.png").unlink()
    with pytest.raises(fit.lifecycle.RunError, match=r"(?s)started with different inputs.*dots/00\.png.*missing"):
        fit.fit(data, earlier.run, Recipe(), resume=True)


def test_resume_in_a_folder_that_does_not_exist_is_refused(make_folder, tmp_path: Path):
    with pytest.raises(fit.lifecycle.RunError, match="typo does not exist, so there is no run to resume"):
        fit.fit(make_folder({"a": 2, "b": 2}), tmp_path / "typo", Recipe(), resume=True)
    assert not (tmp_path / "typo").exists()
