"""The embedded sample: small, balanced, and free to pass on."""

import io
import zipfile
from collections import Counter

import pytest
from PIL import Image

from graft.training.sample import SAMPLE
from graft.training.sample.make import LABELS, SPLITS


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with zipfile.ZipFile(SAMPLE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_sample_is_at_most_1_1_megabytes():
    assert SAMPLE.stat().st_size <= 1_100_000


def test_sample_has_ten_labels():
    assert len(set(LABELS)) == 10


def test_every_label_has_100_images_to_learn_from_and_50_held_out(files: dict[str, bytes]):
    counts = Counter(name.rpartition("/")[0] for name in files)
    assert counts == {f"{part}/{label}": {"train": 100, "test": 50}[part] for part in SPLITS for label in LABELS}


def test_every_image_is_28_by_28_and_gray(files: dict[str, bytes]):
    kinds = {(image.format, image.mode, image.size) for image in map(Image.open, map(io.BytesIO, files.values()))}
    assert kinds == {("PNG", "L", (28, 28))}


def test_no_image_occurs_twice(files: dict[str, bytes]):
    assert len(set(files.values())) == 1500


def test_license_lies_beside_the_images():
    text = SAMPLE.with_name("LICENSE").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge" in text
    assert "Zalando" in text
