"""What speaks for a label: class activation maps that add up to the logit, and occlusion that finds what matters."""

import dataclasses
import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service import model as models
from service.artifact import ArtifactError, Preprocessing
from service.explain import (
    Explainer,
    Explanation,
    Region,
    Unexplainable,
    Unwanted,
    activation,
    log_odds,
    occlusion,
    overlay,
    region,
    strength,
)
from service.preprocess import EXIF_ORIENTATION, Decoded, ImageError, decode

ROOT = Path(__file__).parent.parent
# How a camera would have stored an upright scene, for each of EXIF's orientations.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def explainer(model) -> Explainer:
    return Explainer(model)


def logits(model: models.Model, encoded: bytes) -> np.ndarray:
    return model.engine(model.decode(encoded).pixels[None]).logits[0]


def test_positions_of_a_map_add_up_to_the_logit_of_every_label(model, explainer, clothes):
    for label, (_, encoded) in enumerate(clothes):
        found = explainer.explain(encoded, label)
        assert found.map.shape == (4, 4)
        assert found.map.mean() + found.bias == pytest.approx(logits(model, encoded)[label], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "sees", "shape"),
    [("resnet18", "last", (2, 2)), ("resnet18", "all", (2, 2)), ("swin_tiny_patch4_window7_224", "all", (2, 2))],
)
def test_positions_add_up_for_other_networks_and_heads_on_every_stage(pack, encode, name, sees, shape):
    packed = pack(name, sees)
    noise = encode(np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    said = logits(packed, noise)
    for label in (0, 9):
        found = Explainer(packed).explain(noise, label)
        assert (found.method, found.map.shape, found.map.dtype) == ("cam", shape, np.float32)
        assert found.map.mean() + found.bias == pytest.approx(said[label], abs=1e-4 * max(1.0, abs(float(said[label]))))
        assert np.ptp(found.map) > 0


def test_network_whose_vector_is_no_mean_is_explained_by_occlusion(pack, encode, photo):
    explainer = Explainer(pack("lcnet_035", "last"))
    assert not explainer.exact
    found = explainer.explain(encode(photo))
    assert (found.method, found.map.shape, found.bias) == ("occlusion", (8, 8), 0)
    with pytest.raises(Unexplainable, match="no class activation maps; occlusion explains it"):
        explainer.explain(encode(photo), method="cam")


def test_most_probable_label_is_explained_unless_another_is_asked_for(model, explainer, clothes):
    _, encoded = clothes[0]
    ranked = model.classify(encoded, 10).ranked
    found = explainer.explain(encoded)
    assert (found.label, found.method) == (ranked[0].label, "cam")
    assert found.probability == pytest.approx(ranked[0].probability, abs=1e-5)
    other = explainer.explain(encoded, model.manifest.labels.index(ranked[3].label))
    assert other.label == ranked[3].label
    assert other.probability == pytest.approx(ranked[3].probability, abs=1e-5)


def test_a_map_and_occlusion_tell_of_the_same_image(explainer, clothes):
    _, encoded = clothes[0]
    by_map, by_occlusion = explainer.explain(encoded, 2, "cam"), explainer.explain(encoded, 2, "occlusion")
    assert (by_map.label, by_map.region) == (by_occlusion.label, by_occlusion.region)
    assert by_map.probability == by_occlusion.probability
    assert np.array_equal(by_map.decoded.pixels, by_occlusion.decoded.pixels)


def test_facts_of_the_image_are_told(explainer, encode, photo):
    found = explainer.explain(encode(photo, "WEBP"))
    assert (found.decoded.width, found.decoded.height, found.decoded.format) == (80, 60, "WEBP")
    assert found.decoded.pixels.shape == (128, 128, 3)


def test_what_is_no_image_is_not_explained(explainer):
    with pytest.raises(ImageError):
        explainer.explain(b"no image")


def test_nothing_is_begun_that_nobody_wants(explainer, encode, photo):
    with pytest.raises(Unwanted):
        explainer.explain(encode(photo), wanted=lambda: False)


def test_occlusion_ends_as_soon_as_nobody_wants_it(explainer, encode, photo):
    patience = iter([True] * 7)
    with pytest.raises(Unwanted):
        explainer.explain(encode(photo), method="occlusion", wanted=lambda: next(patience, False))
    assert next(patience, None) is None
    assert explainer.explain(encode(photo)).method == "cam"


def test_a_network_that_says_nan_explains_nothing(model, encode, photo):
    class Broken(Explainer):
        _graph = staticmethod(lambda batch: {"logits": np.full((1, 10), np.nan, np.float32)})

    with pytest.raises(FloatingPointError, match="not a number"):
        Broken(model).explain(encode(photo))


def test_a_pickle_in_place_of_the_weights_is_never_loaded(model, tmp_path, encode, photo):
    folder = Path(shutil.copytree(model.artifact.path, tmp_path / "package"))
    (folder / "weights.safetensors").write_bytes(pickle.dumps(print))
    forged = models.Model(dataclasses.replace(model.artifact, path=folder), model.engine)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors does not hold the head"):
        Explainer(forged).explain(encode(photo))


def test_explaining_loads_no_torch(fitted, encode, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(photo))
    program = (
        "import sys; from pathlib import Path; from service import model; from service.explain import Explainer, overlay;"
        f"explainer = Explainer(model.load(Path({str(fitted.artifact.path)!r}), 'cpu'));"
        f"overlay(explainer.explain(Path({str(tmp_path / 'photo.png')!r}).read_bytes()));"
        "print(*sorted({'torch', 'timm', 'training', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).strip() == ""


def test_what_a_position_contributes_by_hand():
    maps = np.array([[[1, 2], [3, 4]], [[10, 0], [0, 0]]], np.float32)
    assert activation([maps], np.array([2.0, -1.0])).tolist() == [[-8, 4], [6, 8]]


def test_a_finer_map_is_brought_to_the_last_ones_grid():
    finer = np.array([[[4, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 8], [0, 0, 0, 0]]], np.float32)
    assert activation([finer, np.zeros((3, 2, 2), np.float32)], np.array([1.0, 5, 5, 5])).tolist() == [[1, 1], [0, 2]]


@pytest.mark.parametrize(("tall", "wide"), [(5, 7), (1, 1), (2, 3), (28, 56)])
def test_a_maps_mean_survives_any_change_of_grid(tall, wide):
    random = np.random.default_rng(0)
    other, last = random.normal(size=(4, tall, wide)), random.normal(size=(2, 2, 3))
    weights = random.normal(size=6)
    expected = weights @ np.concatenate([other.mean(axis=(1, 2)), last.mean(axis=(1, 2))])
    assert activation([other, last], weights).mean() == pytest.approx(expected, abs=1e-12)


def test_occlusion_finds_the_only_cell_that_matters():
    for row, column in ((2, 5), (0, 0), (7, 3)):
        place = np.s_[7 * row : 7 * row + 7, 7 * column : 7 * column + 7]  # of 56 pixels, 8 cells
        pixels = np.zeros((56, 56, 3), np.uint8)
        pixels[place] = 200
        found = occlusion(lambda shown, place=place: float(shown[place].mean()), pixels, np.zeros(3, np.uint8))
        expected = np.zeros((8, 8))
        expected[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 50  # a corner of a patch on it lies here
        expected[row, max(0, column - 1) : column + 2] = expected[max(0, row - 1) : row + 2, column] = 100
        expected[row, column] = 200
        assert found.tolist() == expected.tolist()


def test_occlusion_covers_everything_with_the_colour():
    seen = []
    occlusion(lambda shown: float(seen.append(shown) or 0), np.zeros((30, 30, 3), np.uint8), np.array([1, 2, 3], np.uint8))
    covered = np.stack(seen[1:])
    assert (len(seen), seen[0].any()) == (82, False)
    assert covered.any(axis=(0, 3)).all()
    assert covered.any(axis=(1, 2, 3)).all()
    assert {tuple(pixel) for pixel in np.unique(covered.reshape(-1, 3), axis=0).tolist()} == {(0, 0, 0), (1, 2, 3)}


def test_occlusion_of_what_rises_is_negative():
    found = occlusion(lambda shown: float(shown.sum()), np.zeros((16, 16, 3), np.uint8), np.ones(3, np.uint8))
    assert (found[1:-1, 1:-1] == -48).all()
    assert found[0, 0] == -27  # patches over the edge cover less


def test_log_odds_by_hand():
    assert log_odds(np.log([1.0, 2.0, 6.0]), 2, multilabel=False) == pytest.approx(np.log(6 / 3))
    assert log_odds(np.log([1.0, 2.0, 6.0]), 2, multilabel=True) == pytest.approx(np.log(6))
    assert log_odds(np.array([0.0, 2000.0]), 1, multilabel=False) == 2000


def spec(fit: str, resize: int = 40, crop: int = 32) -> Preprocessing:
    return Preprocessing(resize=resize, crop=crop, fit=fit, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("fit", "width", "height", "expected"),
    [
        ("crop", 80, 60, (16, 6, 48, 48)),
        ("crop", 60, 80, (6, 16, 48, 48)),
        ("crop", 20, 20, (2, 2, 16, 16)),
        ("squash", 80, 60, (0, 0, 80, 60)),
        ("letterbox", 80, 60, (0, -10, 80, 80)),
        ("letterbox", 60, 80, (-10, 0, 80, 80)),
        ("letterbox", 64, 64, (0, 0, 64, 64)),
        ("letterbox", 16, 1, (0, -7.5, 16, 16)),
    ],
)
def test_region_is_what_the_network_sees(fit, width, height, expected):
    assert region(width, height, spec(fit)) == pytest.approx(expected)


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(320, 240), (199, 300)])
def test_pixels_lie_where_the_region_says_even_in_turned_images(encode, fit, orientation, width, height):
    across, down = np.meshgrid((np.arange(width) + 0.5) * 255 / width, (np.arange(height) + 0.5) * 255 / height)
    scene = Image.fromarray(np.stack([across, down, 0 * down], axis=-1).round().astype(np.uint8))
    notes = Image.Exif()
    notes[EXIF_ORIENTATION] = orientation
    stored = scene.transpose(STORED[orientation]) if orientation in STORED else scene
    seen = decode(encode(stored, exif=notes), spec(fit))
    found = region(seen.width, seen.height, spec(fit))
    middles = (np.arange(32) + 0.5) / 32
    x, y = np.meshgrid(found.left + middles * found.width, found.top + middles * found.height)
    inside = (x > 12) & (x < width - 12) & (y > 12) & (y < height - 12)
    assert (seen.width, seen.height, inside.sum() > 400) == (width, height, True)
    assert np.abs(seen.pixels[..., 0] - x * 255 / width)[inside].max() < 255 / 32 / 2  # half a pixel of the network's
    assert np.abs(seen.pixels[..., 1] - y * 255 / height)[inside].max() < 255 / 32 / 2


def explained(map: list[list[float]], bias: float = 0.0, colour: int = 128) -> Explanation:
    decoded = Decoded(np.full((32, 32, 3), colour, np.uint8), 40, 40, "PNG", ())
    return Explanation("cat", 0.9, "cam", np.array(map, np.float32), bias, Region(4, 4, 32, 32), decoded)


def drawn(explanation: Explanation) -> np.ndarray:
    image = Image.open(io.BytesIO(overlay(explanation)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (448, 448))
    return np.asarray(image).astype(int)


def test_overlay_glows_where_the_label_is_spoken_for_and_nowhere_else():
    picture = drawn(explained([[0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0], [-5, 0, 0, 0]]))
    glow, quiet = picture[168, 280], picture[392, 56]
    assert glow[0] - glow[2] > 40  # warm
    assert glow.sum() > quiet.sum()
    assert np.abs(quiet - 128).max() <= 2


def test_overlay_of_what_nothing_speaks_for_is_the_picture():
    assert np.abs(drawn(explained([[-1, -2], [-3, 0]])) - 128).max() <= 1


def test_overlay_keeps_the_picture_visible_below_the_glow():
    dark, bright = (drawn(explained([[1, 1], [1, 1]], colour=colour)) for colour in (0, 255))
    assert (bright - dark).min() >= 100


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(0, [[0, 0.5], [0.25, 1]]), (4, [[0, 2 / 3], [0.5, 1]]), (-4, [[0, 0], [0, 1]]), (-9, [[0, 0], [0, 0]])],
)
def test_strength_is_of_positions_whose_own_logit_is_above_zero(bias, expected):
    found = strength(explained([[-4, 4], [2, 8]], bias))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
