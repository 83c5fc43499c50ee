"""Selection of a feature set, and equal outputs of its head in numpy, ONNX and torch."""

from pathlib import Path

import numpy as np
import pytest
from other_predictions import with_predictions

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.openvino import OpenVinoEngine
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import STAGES, ExportedBackbone, feature_slices
from graft.training.data.splits import Splits
from graft.training.features.onnx_head import append_head
from graft.training.features.stage_selection import Candidate, fit_candidate, select_features

COLUMNS = {"stage1": slice(0, 8), "stage2": slice(8, 20), "last": slice(20, 50), "all": slice(0, 50)}


@pytest.fixture(scope="module")
def exported(fitted) -> ExportedBackbone:
    return onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), 128, 28, "crop")


def make_features(signals: dict[str, float], n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Noise features (1, n, 50) on very different scales, with a label signal of this strength in some feature sets."""
    random = np.random.default_rng(0)
    labels, features = np.arange(n) % 3, random.normal(size=(n, 50))
    for name, signal in signals.items():
        width = COLUMNS[name].stop - COLUMNS[name].start
        features[:, COLUMNS[name]] += signal * random.normal(size=(3, width))[labels]
    features *= np.repeat([0.01, 100.0, 1.0], [8, 12, 30])
    return features.astype(np.float32)[None], labels


@pytest.mark.parametrize("feature_set", ["stage1", "stage2", "last"])
def test_feature_set_with_the_signal_is_selected(feature_set: str):
    features, labels = make_features({feature_set: 1.0})
    selection = select_features(features, COLUMNS, labels, n_folds=3, seed=0)
    assert selection.best.feature_set == feature_set
    assert selection.best.accuracy > 0.75
    assert selection.best.head_input == ("last" if feature_set == "last" else "all")


def test_all_is_selected_if_every_stage_has_some_signal():
    features, labels = make_features({"stage1": 0.6, "stage2": 0.6, "last": 0.6})
    assert select_features(features, COLUMNS, labels, n_folds=3, seed=0).best.feature_set == "all"


def test_candidates_are_all_feature_sets_and_kinds_with_the_finalists_first():
    candidates = select_features(*arguments(make_features({"stage2": 1.0})), n_folds=3, seed=0).candidates
    assert {(candidate.feature_set, candidate.kind) for candidate in candidates} == {
        (feature_set, kind) for feature_set in COLUMNS for kind in ("logistic", "svm")
    }
    assert len(candidates) == 8
    losses = [candidate.loss for candidate in candidates]
    assert losses[:3] == sorted(losses[:3])
    assert losses[3:] == sorted(losses[3:])


def arguments(data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, dict[str, slice], np.ndarray]:
    return data[0], COLUMNS, data[1]


def test_candidates_are_screened_with_fewer_images_than_the_finalists(monkeypatch):
    monkeypatch.setattr("graft.training.features.stage_selection.MAX_SCREENING_IMAGES", 100)
    monkeypatch.setattr("graft.training.features.stage_selection.SCREENING_HELD_OUT_IMAGES", 20)
    candidates = select_features(*arguments(make_features({"stage2": 1.0})), n_folds=5, seed=0).candidates
    assert [candidate.n_held_out for candidate in candidates] == [150] * 3 + [20] * 5


def test_without_stages_only_the_last_vector_is_a_candidate():
    features, labels = make_features({"last": 1.0})
    only = {"last": slice(0, 30), "all": slice(0, 30)}
    candidates = select_features(features[:, :, 20:], only, labels, n_folds=3, seed=0).candidates
    assert [candidate.feature_set for candidate in candidates] == ["last", "last"]


def test_multilabel_feature_set_is_selected():
    features, labels = make_features({"stage1": 1.5})
    targets = np.stack([labels == 0, labels != 2], axis=1)
    selection = select_features(features, COLUMNS, targets, n_folds=3, seed=0)
    assert selection.best.feature_set == "stage1"
    assert fit_candidate(selection.best, features, COLUMNS, targets).weight.shape == (2, 50)


def test_same_seed_gives_the_same_selection():
    args = arguments(make_features({"stage2": 0.5}))
    assert select_features(*args, n_folds=3, seed=5) == select_features(*args, n_folds=3, seed=5)


@pytest.mark.parametrize(("feature_set", "used"), [("stage1", slice(0, 8)), ("stage2", slice(8, 20)), ("all", slice(0, 50))])
def test_head_takes_all_features_and_has_weights_only_for_its_feature_set(feature_set: str, used: slice):
    features, labels = make_features({feature_set: 1.0})
    head = fit_candidate(Candidate(feature_set, "logistic", 0.1, 0.5, 0.8, 150), features, COLUMNS, labels)
    assert head.weight.shape == (3, 50)
    assert np.flatnonzero(head.weight.any(axis=0)).tolist() == list(range(50))[used]
    assert (head(features[0]).argmax(axis=1) == labels).mean() > 0.75


def test_head_on_the_last_vector_takes_only_that_vector():
    features, labels = make_features({"last": 1.0})
    head = fit_candidate(Candidate("last", "svm", 0.1, 0.5, 0.8, 150), features, COLUMNS, labels)
    assert head.weight.shape == (3, 30)
    assert (head(features[0, :, 20:]).argmax(axis=1) == labels).mean() > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("feature_set", ["stage3", "last", "all"])
def test_onnx_and_torch_outputs_equal_the_heads(exported: ExportedBackbone, tmp_path: Path, feature_set: str):
    import torch
    from safetensors.torch import load_file

    from graft.service.inference.openvino import OpenVinoModel
    from graft.service.networks import network as networks
    from graft.training.finetuning.lightning_module import set_head

    random, slices = np.random.default_rng(0), feature_slices(exported.backbone)
    batch = random.integers(0, 256, (12, 128, 128, 3), dtype=np.uint8)
    outputs = OpenVinoModel(exported.graph)(batch)
    features = np.concatenate([outputs[STAGES], outputs[VECTORS]], axis=1)[None]
    candidate = Candidate(feature_set, "logistic", 0.01, 0.5, 0.8, 12)
    head = fit_candidate(candidate, features, slices, np.arange(12) % 3)
    expected = head(features[0] if candidate.head_input == "all" else outputs[VECTORS])

    (tmp_path / "model.onnx").write_bytes(append_head(exported.graph, head, candidate.head_input))
    onnx_outputs = OpenVinoEngine(tmp_path / "model.onnx")(batch)
    backbone = exported.backbone.model_copy(update={"head_input": candidate.head_input})
    network = networks.build(backbone, 3, exported.preprocessing)
    network.load_state_dict(load_file(exported.weights), strict=False)
    set_head(network, head)
    with torch.inference_mode():
        logits, vectors = network.eval()(torch.from_numpy(batch))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(onnx_outputs.logits, expected, atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(vectors.numpy(), onnx_outputs.vectors, atol=1e-3)
    assert LOGITS in OpenVinoModel(tmp_path / "model.onnx").outputs


def test_package_stores_the_heads_input(fitted, exported: ExportedBackbone, tmp_path: Path):
    import dataclasses

    import torch
    from safetensors.numpy import load_file

    from graft.service.artifact import read
    from graft.service.inference.engine import Outputs
    from graft.service.inference.head import Head
    from graft.service.inference.openvino import OpenVinoModel
    from graft.service.networks import network as networks
    from graft.training.data.dataset import scan
    from graft.training.data.seen_images import NO_IMAGES
    from graft.training.packaging import writer
    from graft.training.sample import SAMPLE

    head = Head(np.random.default_rng(0).normal(size=(10, 1792)).astype(np.float32) / 100, np.zeros(10, np.float32))
    backbone = OpenVinoModel(exported.graph)

    def network(batch: np.ndarray) -> Outputs:
        outputs = backbone(batch)
        return Outputs(head(np.concatenate([outputs[STAGES], outputs[VECTORS]], axis=1)), outputs[VECTORS])

    model = dataclasses.replace(
        fitted.trained,
        backbone=exported.backbone.model_copy(update={"head_input": "all"}),
        network=network,
        graph=append_head(exported.graph, head, "all"),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
    )
    dataset = scan(SAMPLE)
    splits = Splits(*[dataset.samples[:8]] * 3)
    writer.write(with_predictions(model, dataset, splits), dataset, splits, NO_IMAGES, "stages", tmp_path / "package")
    artifact = read(tmp_path / "package")
    assert (artifact.manifest.backbone.head_input, artifact.manifest.backbone.stages) == ("all", exported.backbone.stages)
    batch = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits, _ = networks.load(artifact).eval()(torch.from_numpy(batch))
    np.testing.assert_allclose(logits.numpy(), OpenVinoEngine(artifact.graph)(batch).logits, atol=1e-4)
