"""The block that tells the labels apart is found, and its head answers the same wherever it runs."""

from pathlib import Path

import numpy as np
import pytest
from other_predictions import answering

from graft.service.inference.engine import LOGITS, VECTORS
from graft.service.inference.openvino import CpuEngine
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import STAGES, Exported, columns
from graft.training.data.splits import Splits
from graft.training.features.linear_probe import with_head
from graft.training.features.stage_selection import Candidate, best_of, learn

COLUMNS = {"stage1": slice(0, 8), "stage2": slice(8, 20), "last": slice(20, 50), "all": slice(0, 50)}


@pytest.fixture(scope="module")
def exported(fitted) -> Exported:
    return onnx_cache.export(registry.choose("tf_efficientnet_lite0"), 128, 28, "crop")


def rows(where: dict[str, float], n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Rows (1, n, 50) of noise on very different scales, with this much of the label in some of the blocks."""
    random = np.random.default_rng(0)
    labels, seen = np.arange(n) % 3, random.normal(size=(n, 50))
    for block, strength in where.items():
        width = COLUMNS[block].stop - COLUMNS[block].start
        seen[:, COLUMNS[block]] += strength * random.normal(size=(3, width))[labels]
    seen *= np.repeat([0.01, 100.0, 1.0], [8, 12, 30])
    return seen.astype(np.float32)[None], labels


@pytest.mark.parametrize("block", ["stage1", "stage2", "last"])
def test_the_block_that_knows_the_labels_is_found(block: str):
    seen, labels = rows({block: 1.0})
    chosen = best_of(seen, COLUMNS, labels, n_folds=3, seed=0)
    assert chosen.best.block == block
    assert chosen.best.accuracy > 0.75
    assert chosen.best.sees == ("last" if block == "last" else "all")


def test_all_is_chosen_where_every_block_knows_a_part():
    seen, labels = rows({"stage1": 0.6, "stage2": 0.6, "last": 0.6})
    assert best_of(seen, COLUMNS, labels, n_folds=3, seed=0).best.block == "all"


def test_the_table_has_every_block_with_either_kind_and_the_finalists_first():
    table = best_of(*pairs(rows({"stage2": 1.0})), n_folds=3, seed=0).table
    assert {(one.block, one.kind) for one in table} == {(block, kind) for block in COLUMNS for kind in ("logistic", "svm")}
    assert len(table) == 8
    losses = [one.loss for one in table]
    assert losses[:3] == sorted(losses[:3])
    assert losses[3:] == sorted(losses[3:])


def pairs(found: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, dict[str, slice], np.ndarray]:
    return found[0], COLUMNS, found[1]


def test_of_many_images_a_part_screens_and_all_parts_judge_the_finalists(monkeypatch):
    monkeypatch.setattr("graft.training.features.stage_selection.MOST_FOR_SCREENING", 100)
    monkeypatch.setattr("graft.training.features.stage_selection.ENOUGH_TO_SCREEN", 20)
    table = best_of(*pairs(rows({"stage2": 1.0})), n_folds=5, seed=0).table
    assert [one.n_judged for one in table] == [150] * 3 + [20] * 5


def test_without_stages_there_is_only_the_last_vector_to_see():
    seen, labels = rows({"last": 1.0})
    only = {"last": slice(0, 30), "all": slice(0, 30)}
    table = best_of(seen[:, :, 20:], only, labels, n_folds=3, seed=0).table
    assert [one.block for one in table] == ["last", "last"]


def test_several_labels_an_image_have_their_block_too():
    seen, labels = rows({"stage1": 1.5})
    has = np.stack([labels == 0, labels != 2], axis=1)
    chosen = best_of(seen, COLUMNS, has, n_folds=3, seed=0)
    assert chosen.best.block == "stage1"
    assert learn(chosen.best, seen, COLUMNS, has).weight.shape == (2, 50)


def test_the_same_seed_makes_the_same_choice():
    found = pairs(rows({"stage2": 0.5}))
    assert best_of(*found, n_folds=3, seed=5) == best_of(*found, n_folds=3, seed=5)


@pytest.mark.parametrize(("block", "used"), [("stage1", slice(0, 8)), ("stage2", slice(8, 20)), ("all", slice(0, 50))])
def test_a_head_takes_whole_rows_and_heeds_its_own_block(block: str, used: slice):
    seen, labels = rows({block: 1.0})
    head = learn(Candidate(block, "logistic", 0.1, 0.5, 0.8, 150), seen, COLUMNS, labels)
    assert head.weight.shape == (3, 50)
    assert np.flatnonzero(head.weight.any(axis=0)).tolist() == list(range(50))[used]
    assert (head(seen[0]).argmax(axis=1) == labels).mean() > 0.75


def test_a_head_on_the_last_vector_takes_nothing_else():
    seen, labels = rows({"last": 1.0})
    head = learn(Candidate("last", "svm", 0.1, 0.5, 0.8, 150), seen, COLUMNS, labels)
    assert head.weight.shape == (3, 30)
    assert (head(seen[0, :, 20:]).argmax(axis=1) == labels).mean() > 0.75


@pytest.mark.parametrize("block", ["stage3", "last", "all"])
def test_graph_and_torch_answer_as_the_head_does(exported: Exported, tmp_path: Path, block: str):
    import torch
    from safetensors.torch import load_file

    from graft.service.inference.openvino import Graph
    from graft.service.networks import network as networks
    from graft.training.finetuning.lightning_module import set_head

    random, places = np.random.default_rng(0), columns(exported.backbone)
    batch = random.integers(0, 256, (12, 128, 128, 3), dtype=np.uint8)
    said = Graph(exported.graph)(batch)
    seen = np.concatenate([said[STAGES], said[VECTORS]], axis=1)[None]
    candidate = Candidate(block, "logistic", 0.01, 0.5, 0.8, 12)
    head = learn(candidate, seen, places, np.arange(12) % 3)
    expected = head(seen[0] if candidate.sees == "all" else said[VECTORS])

    (tmp_path / "model.onnx").write_bytes(with_head(exported.graph, head, candidate.sees))
    by_graph = CpuEngine(tmp_path / "model.onnx")(batch)
    facts = exported.backbone.model_copy(update={"sees": candidate.sees})
    network = networks.build(facts, 3, exported.preprocessing)
    network.load_state_dict(load_file(exported.weights), strict=False)
    set_head(network, head)
    with torch.inference_mode():
        logits, vectors = network.eval()(torch.from_numpy(batch))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(by_graph.logits, expected, atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(vectors.numpy(), by_graph.vectors, atol=1e-3)
    assert LOGITS in Graph(tmp_path / "model.onnx").outputs


def test_a_package_remembers_what_its_head_sees(fitted, exported: Exported, tmp_path: Path):
    import dataclasses

    import torch
    from safetensors.numpy import load_file

    from graft.service.artifact import read
    from graft.service.inference.engine import Outputs
    from graft.service.inference.openvino import Graph
    from graft.service.networks import network as networks
    from graft.training.data.dataset import scan
    from graft.training.features.linear_probe import Head
    from graft.training.packaging import writer
    from graft.training.sample import SAMPLE

    head = Head(np.random.default_rng(0).normal(size=(10, 1792)).astype(np.float32) / 100, np.zeros(10, np.float32), 1.0)
    backbone = Graph(exported.graph)

    def network(batch: np.ndarray) -> Outputs:
        said = backbone(batch)
        return Outputs(head(np.concatenate([said[STAGES], said[VECTORS]], axis=1)), said[VECTORS])

    trained = dataclasses.replace(
        fitted.trained,
        backbone=exported.backbone.model_copy(update={"sees": "all"}),
        network=network,
        graph=with_head(exported.graph, head, "all"),
        weights={**load_file(exported.weights), "head.weight": head.weight, "head.bias": head.bias},
    )
    dataset = scan(SAMPLE)
    splits = Splits(*[dataset.samples[:8]] * 3)
    writer.write(answering(trained, dataset, splits), dataset, splits, "stages", tmp_path / "package")
    artifact = read(tmp_path / "package")
    assert (artifact.manifest.backbone.sees, artifact.manifest.backbone.stages) == ("all", exported.backbone.stages)
    batch = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits, _ = networks.load(artifact).eval()(torch.from_numpy(batch))
    np.testing.assert_allclose(logits.numpy(), CpuEngine(artifact.graph)(batch).logits, atol=1e-4)
