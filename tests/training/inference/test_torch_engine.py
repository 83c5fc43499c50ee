"""A trained network scores images on the device that trained it; the engine that will serve it checks a few of them."""

import dataclasses

import numpy as np
import pytest

from graft.service.artifact import ArtifactError
from graft.service.networks import network as networks
from graft.training.data.dataset import scan
from graft.training.inference import torch_engine
from graft.training.inference.bulk import predict_dataset
from graft.training.inference.torch_engine import TorchEngine, check_scores, scoring_engine
from graft.training.packaging.writer import MAX_EXPORT_DIFFERENCE
from graft.training.sample import SAMPLE


@pytest.fixture(scope="module")
def scored(model):
    """The sample, twenty of its test images, and the predictions by a torch network on the CPU."""
    dataset = scan(SAMPLE)
    samples = tuple(sample for sample in dataset.samples if sample.split == "test")[:20]
    engine = TorchEngine(networks.load(model.artifact), "cpu")
    return dataset, samples, predict_dataset(engine, model.manifest.preprocessing, dataset, samples, "scoring")


def check(model, dataset, samples, predictions) -> None:
    check_scores(model.engine, predictions, samples, dataset, model.manifest.preprocessing)


def test_torch_predicts_what_the_exported_network_predicts(model, scored):
    dataset, samples, predictions = scored
    expected = predict_dataset(model.engine, model.manifest.preprocessing, dataset, samples, "scoring")
    np.testing.assert_allclose(predictions.logits, expected.logits, atol=1e-3)
    np.testing.assert_array_equal(predictions.targets, expected.targets)
    check(model, dataset, samples, predictions)


def test_scores_of_another_network_are_refused(model, scored):
    dataset, samples, predictions = scored
    logits = predictions.logits.copy()
    logits[7, 0] += 0.01 + 5
    with pytest.raises(ArtifactError, match=r"other probabilities than the exported network on the CPU: they differ by \d"):
        check(model, dataset, samples, dataclasses.replace(predictions, logits=logits))


def test_vectors_of_another_network_are_refused(model, scored):
    dataset, samples, predictions = scored
    shifted = dataclasses.replace(predictions, vectors=predictions.vectors[:] + 0.1)
    with pytest.raises(ArtifactError, match="other unit vectors than"):
        check(model, dataset, samples, shifted)


def test_outputs_that_are_not_numbers_are_refused(model, scored):
    dataset, samples, predictions = scored
    broken = dataclasses.replace(predictions, logits=np.full_like(predictions.logits, np.nan))
    with pytest.raises(ArtifactError, match="differ by nan"):
        check(model, dataset, samples, broken)


def test_only_a_few_images_are_checked(model, scored, monkeypatch):
    dataset, samples, predictions = scored
    monkeypatch.setattr(torch_engine, "N_CHECKED", 3)
    checked = []
    monkeypatch.setattr(torch_engine, "predict_dataset", lambda *call: checked.extend(call[3]) or predict_dataset(*call))
    check(model, dataset, samples, predictions)
    assert [sample.digest for sample in checked] == sorted(sample.digest for sample in samples)[:3]


def test_a_cpu_run_is_scored_by_the_engine_that_serves_it(model):
    with scoring_engine(networks.load(model.artifact), "cpu", model.engine) as engine:
        assert engine is model.engine


def test_a_gpu_run_is_scored_by_its_network_which_returns_to_the_cpu(model):
    moves = []

    class Fake:
        def to(self, device: str):
            moves.append(device)
            return self

        def eval(self):
            return self

    def interrupt() -> None:
        with scoring_engine(Fake(), "cuda", model.engine) as engine:
            assert (engine.device, engine.precision) == ("cuda", "f32")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert moves == ["cuda", "cpu"]


def test_allowed_difference_is_that_of_packaging():
    assert torch_engine.MAX_DIFFERENCE == MAX_EXPORT_DIFFERENCE
