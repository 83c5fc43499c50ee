"""12-bit images in 16-bit TIFFs, as microscopes write them: from the folder to the answer of a package."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import graft
from graft.service.artifact import read

pytestmark = pytest.mark.slow
N_IMAGES = 24  # per label


def write_cells(folder: Path) -> None:
    """Two labels that differ in the size of their spots; the brightness of the images differs twentyfold."""
    random = np.random.default_rng(7)
    for label, spot in (("fine", 4), ("coarse", 16)):
        (folder / label).mkdir(parents=True)
        for number in range(N_IMAGES):
            spots = Image.fromarray(random.integers(0, 256, (96 // spot, 96 // spot), dtype=np.uint8))
            pattern = np.asarray(spots.resize((96, 96), Image.Resampling.BICUBIC)) / 255
            values = (4095 * random.uniform(0.05, 1) * pattern).astype(np.uint16)
            Image.fromarray(values).save(folder / label / f"{number}.tif", compression="tiff_lzw")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_cells(folder / "cells")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return graft.fit(folder / "cells", strategy="probe").package.absolute()


def test_the_package_records_the_bits_and_the_format(package: Path):
    manifest = read(package).manifest
    assert (manifest.preprocessing.sample_bits, manifest.formats) == (12, ("TIFF",))


def test_the_labels_are_learned(package: Path):
    assert read(package).manifest.scores["test"].accuracy == 1


def test_dark_images_are_classified_like_bright_ones(package: Path):
    answers = graft.load(package).predict(sorted((package.parents[2] / "cells" / "fine").iterdir()))
    assert sum(answer.predictions[0].label == "fine" for answer in answers) >= 0.9 * N_IMAGES
