"""Explainer: class activation maps add up to the logit, and occlusion finds planted evidence."""

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft.service.artifact import ArtifactError, file_record, read
from graft.service.explain.explainer import Cancelled, Explainer, UnsupportedMethod, class_activation_map, input_region
from graft.service.imaging.preprocess import EXIF_ORIENTATION, DecodedImage, decode
from graft.service.inference import model as models
from graft.service.inference.head import Head, load_head
from graft.service.manifest import GRAPH, MANIFEST, WEIGHTS, Preprocessing
from graft.service.networks import network as networks

ROOT = Path(__file__).parents[3]
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
    return Explainer(model.artifact)


def logits(model: models.Model, encoded: bytes) -> np.ndarray:
    return model.engine(model.decode(encoded).pixels[None]).logits[0]


def test_mean_of_cam_plus_bias_is_the_logit(model, explainer, clothes):
    for label, (_, encoded) in enumerate(clothes):
        found = explainer.explain(model.decode(encoded), label)
        assert found.map.shape == (4, 4)
        assert found.map.mean() + found.bias == pytest.approx(logits(model, encoded)[label], abs=1e-4)
        assert found.bias == pytest.approx(load_head(model.artifact).bias[label], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "head_input", "shape"),
    [
        ("resnet18", "last", (2, 2)),
        ("resnet18", "all", (2, 2)),
        pytest.param("swin_tiny_patch4_window7_224", "all", (2, 2), marks=pytest.mark.slow),
    ],
)
def test_mean_of_cam_plus_bias_is_the_logit_for_other_networks(pack, encode, name, head_input, shape):
    package = pack(name, head_input)
    noise = encode(np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    expected = logits(package, noise)
    for label in (0, 9):
        found = Explainer(package.artifact).explain(package.decode(noise), label)
        rounding = 1e-4 * max(1.0, abs(float(expected[label])))
        assert (found.method, found.map.shape, found.map.dtype) == ("cam", shape, np.float32)
        assert found.map.mean() + found.bias == pytest.approx(expected[label], abs=rounding)
        assert found.bias == pytest.approx(load_head(package.artifact).bias[label], abs=rounding)
        assert np.ptp(found.map) > 0


def test_cam_of_a_kernel_machine_is_the_gradient_at_the_image(pack, encode):
    """Its sum is the change of the logit if all features grow by the same factor, to first order."""
    package = pack("resnet18", "all", 11)
    noise = encode(np.random.default_rng(1).integers(0, 256, (80, 90, 3), dtype=np.uint8))
    decoded = package.decode(noise)
    network = networks.load(package.artifact).eval()
    with torch.inference_mode():
        inputs, _ = network.head_inputs(torch.from_numpy(decoded.pixels[None].copy()))
        larger, smaller = (network.head(inputs * factor)[0].numpy() for factor in (1.01, 0.99))
    for label in (0, 9):
        found = Explainer(package.artifact).explain(decoded, label)
        assert found.map.mean() == pytest.approx((larger[label] - smaller[label]) / 0.02, rel=0.02, abs=1e-2)
        assert found.map.mean() + found.bias == pytest.approx(logits(package, noise)[label], abs=1e-3)


def test_network_without_global_pooling_is_explained_by_occlusion(pack, encode, photo):
    package = pack("lcnet_035", "last")
    explainer, decoded = Explainer(package.artifact), package.decode(encode(photo))
    assert not explainer.has_cam
    found = explainer.explain(decoded)
    assert (found.method, found.map.shape, found.bias) == ("occlusion", (8, 8), 0)
    with pytest.raises(UnsupportedMethod, match="no class activation maps; use occlusion"):
        explainer.explain(decoded, method="cam")


def test_default_label_is_the_most_probable(model, explainer, clothes):
    _, encoded = clothes[0]
    ranked = model.classify(encoded, 10).ranked
    found = explainer.explain(model.decode(encoded))
    assert (found.label, found.method) == (ranked[0].label, "cam")
    assert found.probability == pytest.approx(ranked[0].probability, abs=1e-5)
    other = explainer.explain(model.decode(encoded), model.manifest.labels.index(ranked[3].label))
    assert other.label == ranked[3].label
    assert other.probability == pytest.approx(ranked[3].probability, abs=1e-5)


def test_cam_and_occlusion_share_label_region_and_pixels(model, explainer, clothes):
    decoded = model.decode(clothes[0][1])
    cam, occlusion = explainer.explain(decoded, 2, "cam"), explainer.explain(decoded, 2, "occlusion")
    assert (cam.label, cam.region) == (occlusion.label, occlusion.region)
    assert cam.probability == occlusion.probability
    assert np.array_equal(cam.decoded.pixels, occlusion.decoded.pixels)


def test_explanation_has_the_image_metadata(model, explainer, encode, photo):
    found = explainer.explain(model.decode(encode(photo, "WEBP")))
    assert (found.decoded.width, found.decoded.height, found.decoded.format) == (80, 60, "WEBP")
    assert found.decoded.pixels.shape == (128, 128, 3)


def test_cancelled_explanation_does_not_start(model, explainer, encode, photo):
    with pytest.raises(Cancelled):
        explainer.explain(model.decode(encode(photo)), should_continue=lambda: False)


def test_occlusion_stops_when_cancelled(model, explainer, encode, photo):
    continues = iter([True] * 7)
    with pytest.raises(Cancelled):
        explainer.explain(model.decode(encode(photo)), method="occlusion", should_continue=lambda: next(continues, False))
    assert next(continues, None) is None
    assert explainer.explain(model.decode(encode(photo))).method == "cam"


def test_deletion_stops_when_cancelled(model, explainer, encode, photo):
    found, continues = explainer.explain(model.decode(encode(photo))), iter([True] * 7)
    with pytest.raises(Cancelled):
        explainer.deletion(found, lambda: next(continues, False))
    assert next(continues, None) is None


def test_deletion_curve_starts_at_the_labels_probability(model, explainer, clothes):
    found = explainer.explain(model.decode(clothes[3][1]), 3)
    score = explainer.deletion(found, n_steps=4, n_random_maps=2)
    assert len(score.probabilities) == 5
    assert score.probabilities[0] == pytest.approx(found.probability, abs=1e-6)


class Planted(Explainer):
    """An explainer with a planted network: the fourth label's logit is the mean red value of the image."""

    @property
    def _graph(self):
        def asked(batch: np.ndarray) -> dict[str, np.ndarray]:
            red = batch[..., 0].reshape(1, 8, 16, 8, 16).mean(axis=(2, 4)) / 16
            logits, maps = np.zeros((1, 10), np.float32), np.zeros((1, 1280, 8, 8), np.float32)
            logits[0, 3], maps[0, 77] = red.mean(), red
            return {"logits": logits, "maps": maps}

        return asked

    @property
    def _head(self) -> Head:
        weight = np.zeros((10, 1280))
        weight[3, 77] = 1
        return Head(weight, np.zeros(10))


@pytest.mark.parametrize("method", ["cam", "occlusion"])
def test_every_method_finds_the_planted_corner(model, method):
    pixels = np.full((128, 128, 3), 124, np.uint8)  # the fill color, so that masking elsewhere changes nothing
    pixels[:32, 96:, 0] = 255
    found = Planted(model.artifact).explain(DecodedImage(pixels, 128, 128, "PNG", ()), 3, method)
    row, column = np.unravel_index(found.map.argmax(), (8, 8))
    assert (row <= 1, column >= 6) == (True, True)
    assert Planted(model.artifact).deletion(found).explains
    assert not Planted(model.artifact).deletion(dataclasses.replace(found, map=found.map[::-1, ::-1])).explains


def test_nan_output_raises(model, encode, photo):
    class Broken(Explainer):
        _graph = staticmethod(lambda batch: {"logits": np.full((1, 10), np.nan, np.float32)})

    with pytest.raises(FloatingPointError, match="not finite"):
        Broken(model.artifact).explain(model.decode(encode(photo)))


def test_pickle_in_place_of_weights_is_not_loaded(model, tmp_path, encode, photo):
    folder = Path(shutil.copytree(model.artifact.path, tmp_path / "package"))
    (folder / WEIGHTS).write_bytes(pickle.dumps(print))
    files = model.manifest.files | {WEIGHTS: file_record(folder / WEIGHTS)}
    (folder / MANIFEST).write_bytes(model.manifest.model_copy(update={"files": files}).with_digest().to_bytes())
    with pytest.raises(ArtifactError, match=r"weights\.safetensors does not contain the head"):
        Explainer(read(folder)).explain(model.decode(encode(photo)))


def test_deleting_the_package_does_not_change_explanations(model, tmp_path, encode, photo):
    folder, decoded = Path(shutil.copytree(model.artifact.path, tmp_path / "package")), model.decode(encode(photo))
    late, expected = Explainer(read(folder)), Explainer(model.artifact).explain(decoded)
    shutil.rmtree(folder)
    found = late.explain(decoded)
    assert (found.label, found.map.tolist()) == (expected.label, expected.map.tolist())


def test_an_overwritten_package_is_not_explained(model, tmp_path, encode, photo):
    folder = Path(shutil.copytree(model.artifact.path, tmp_path / "package"))
    explainer = Explainer(read(folder))
    (folder / GRAPH).write_bytes((folder / WEIGHTS).read_bytes())
    with pytest.raises(ArtifactError, match=r"model\.onnx has .* bytes"):
        explainer.explain(model.decode(encode(photo)))


def test_explaining_loads_no_torch(fitted, encode, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(photo))
    program = (
        "import sys; from pathlib import Path; from graft.service.inference import model;"
        "from graft.service.explain.explainer import Explainer;"
        "from graft.service.explain.overlay import overlay;"
        f"loaded = model.load(Path({str(fitted.artifact.path)!r}), 'cpu');"
        f"found = Explainer(loaded.artifact).explain(loaded.decode(Path({str(tmp_path / 'photo.png')!r}).read_bytes()));"
        "overlay(found);"
        "print(*sorted({'torch', 'timm', 'training', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).strip() == ""


def test_class_activation_map_by_hand():
    maps = np.array([[[1, 2], [3, 4]], [[10, 0], [0, 0]]], np.float32)
    assert class_activation_map([maps], np.array([2.0, -1.0])).tolist() == [[-8, 4], [6, 8]]


def test_finer_map_is_resampled_to_the_last_grid():
    finer = np.array([[[4, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 8], [0, 0, 0, 0]]], np.float32)
    assert class_activation_map([finer, np.zeros((3, 2, 2), np.float32)], np.array([1.0, 5, 5, 5])).tolist() == [[1, 1], [0, 2]]


@pytest.mark.parametrize(("tall", "wide"), [(5, 7), (1, 1), (2, 3), (28, 56)])
def test_resampling_preserves_the_mean(tall, wide):
    random = np.random.default_rng(0)
    other, last = random.normal(size=(4, tall, wide)), random.normal(size=(2, 2, 3))
    weights = random.normal(size=6)
    expected = weights @ np.concatenate([other.mean(axis=(1, 2)), last.mean(axis=(1, 2))])
    assert class_activation_map([other, last], weights).mean() == pytest.approx(expected, abs=1e-12)


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
def test_input_region(fit, width, height, expected):
    assert input_region(width, height, spec(fit)) == pytest.approx(expected)


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(320, 240), (199, 300)])
def test_input_region_matches_the_pixels_for_every_orientation(encode, fit, orientation, width, height):
    across, down = np.meshgrid((np.arange(width) + 0.5) * 255 / width, (np.arange(height) + 0.5) * 255 / height)
    scene = Image.fromarray(np.stack([across, down, 0 * down], axis=-1).round().astype(np.uint8))
    notes = Image.Exif()
    notes[EXIF_ORIENTATION] = orientation
    stored = scene.transpose(STORED[orientation]) if orientation in STORED else scene
    seen = decode(encode(stored, exif=notes), spec(fit))
    found = input_region(seen.width, seen.height, spec(fit))
    middles = (np.arange(32) + 0.5) / 32
    x, y = np.meshgrid(found.left + middles * found.width, found.top + middles * found.height)
    inside = (x > 12) & (x < width - 12) & (y > 12) & (y < height - 12)
    assert (seen.width, seen.height, inside.sum() > 400) == (width, height, True)
    assert np.abs(seen.pixels[..., 0] - x * 255 / width)[inside].max() < 255 / 32 / 2  # half a pixel of the network's
    assert np.abs(seen.pixels[..., 1] - y * 255 / height)[inside].max() < 255 / 32 / 2
