"""The label frequencies that `--metric` makes a model assume: the same shift in every form of the model, and what it brings."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graft.service.inference.head import Head
from graft.service.inference.openvino import OpenVinoModel
from graft.service.inference.postprocess import to_probabilities
from graft.training.config.recipe import Recipe
from graft.training.evaluation.calibration import per_sample_nll
from graft.training.evaluation.macro_f1 import macro_f1
from graft.training.evaluation.paired import per_sample_score
from graft.training.evaluation.predictions import Predictions
from graft.training.finetuning import checkpoints
from graft.training.pipelines import evaluate, fit
from graft.training.results import StrategyAttempt
from graft.training.runs.run_folder import RunFolder
from graft.training.sample import SAMPLE
from graft.training.strategies import auto, label_prior, starting_point
from graft.training.strategies.context import TrainingContext, prepare
from graft.training.strategies.trained_model import TrainedModel

pytestmark = pytest.mark.slow

RECIPE = Recipe(strategy="probe", input_size=64, device="cpu", flips=False, thumbnails=False, test_share=0.4)
COUNTS = {"coat": 24, "pullover": 135, "shirt": 24}  # similar clothes
FREQUENCIES = np.array([24, 135, 24]) / 183


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of similar clothes, one kind more than five times as frequent as the others."""
    folder = tmp_path_factory.mktemp("imbalanced") / "clothes"
    with zipfile.ZipFile(SAMPLE) as archive:
        for label, count in COUNTS.items():
            (folder / label).mkdir(parents=True)
            names = [name for name in archive.namelist() if f"/{label}/" in name and name.endswith(".png")]
            for number, name in enumerate(names[:count]):
                (folder / label / f"{number:03d}.png").write_bytes(archive.read(name))
    return folder


@pytest.fixture(scope="module")
def context(cache, data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingContext:
    return prepare(data, RunFolder(tmp_path_factory.mktemp("run")), RECIPE)


def trained(context: TrainingContext, **choices: object) -> TrainedModel:
    recipe = Recipe.model_validate(RECIPE.model_dump() | choices)
    return auto.select_strategy(replace(context, recipe=recipe), 0.0, lambda model: None).model


def measured(model: TrainedModel) -> Predictions:
    """Predictions that no head was trained on: out of fold, and on test."""
    held_out, test = model.held_out, model.test
    return replace(
        test,
        logits=np.concatenate([held_out.logits, test.logits]),
        targets=np.concatenate([held_out.targets, test.targets]),
    )


def log_loss(model: TrainedModel) -> float:
    predictions = measured(model)
    return float(per_sample_nll(predictions.logits, predictions.targets, model.temperature).mean())


def balanced_accuracy(model: TrainedModel) -> float:
    predictions = measured(model)
    return float(per_sample_score(predictions.logits, predictions.targets, "balanced-accuracy").mean())


def mean_probabilities(model: TrainedModel) -> np.ndarray:
    return to_probabilities(measured(model).logits, model.temperature).mean(axis=0)


@pytest.fixture(scope="module")
def default(context: TrainingContext) -> TrainedModel:
    return trained(context)


@pytest.fixture(scope="module")
def balanced(context: TrainingContext) -> TrainedModel:
    return trained(context, metric="balanced-accuracy")


def test_balanced_accuracy_is_higher_with_its_metric_and_log_loss_lower_without(default: TrainedModel, balanced: TrainedModel):
    assert balanced_accuracy(balanced) > balanced_accuracy(default) + 0.1
    assert log_loss(default) < log_loss(balanced) - 0.1


def test_macro_f1_chooses_the_frequencies_on_held_out_images(context: TrainingContext, default: TrainedModel):
    model = trained(context, metric="f1-macro")
    scores = [macro_f1(one.held_out.logits.argmax(axis=1), one.held_out.targets) for one in (model, default)]
    assert scores[0] > scores[1] + 0.02


@pytest.mark.parametrize("metric", ["log-loss", "accuracy"])
def test_nothing_is_shifted_by_default(context: TrainingContext, default: TrainedModel, metric: str):
    model = trained(context, metric=metric)
    assert not model.label_frequencies.is_shifted
    assert (model.graph, model.temperature) == (default.graph, default.temperature)
    np.testing.assert_array_equal(model.test.logits, default.test.logits)


@pytest.mark.parametrize("strategy", ["probe", "svm", "kernel"])
def test_balanced_learning_is_adjusted_back_to_the_natural_frequencies(context: TrainingContext, strategy: str):
    model = trained(context, strategy=strategy, balance="weights")
    assert not model.label_frequencies.is_shifted
    np.testing.assert_allclose(mean_probabilities(model), FREQUENCIES, atol=0.05)


def test_balanced_accuracy_assumes_equal_frequencies_however_the_head_learned(context: TrainingContext, balanced: TrainedModel):
    model = trained(context, balance="weights", metric="balanced-accuracy")
    assert model.label_frequencies == balanced.label_frequencies
    np.testing.assert_allclose(mean_probabilities(model), mean_probabilities(balanced), atol=0.03)


@pytest.mark.parametrize("strategy", ["probe", "kernel"])
def test_every_form_of_a_head_is_shifted(context: TrainingContext, data: Path, tmp_path: Path, strategy: str):
    default, balanced = trained(context, strategy=strategy), trained(context, strategy=strategy, metric="balanced-accuracy")
    frequencies = balanced.label_frequencies
    shift = balanced.temperature * (np.log(frequencies.assumed) - np.log(frequencies.training))
    assert np.ptp(shift) > 1
    for one, other in ((balanced.test, default.test), (balanced.held_out, default.held_out)):
        np.testing.assert_allclose(one.logits - other.logits, np.tile(shift, (len(one.logits), 1)), atol=1e-5)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    logits = {}
    for name, model in (("default", default), ("balanced", balanced)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.graph)
        logits[name] = [
            model.network(pixels).logits,
            OpenVinoModel(path, streams=1)(pixels)["logits"],
        ]
    for one, other in zip(logits["balanced"], logits["default"], strict=True):
        np.testing.assert_allclose(one - other, np.tile(shift, (4, 1)), atol=1e-4)
    heads = [Head.from_tensors(model.weights) for model in (balanced, default)]
    np.testing.assert_allclose(heads[0].bias - heads[1].bias, shift, atol=1e-5)
    np.testing.assert_array_equal(heads[0].weight, heads[1].weight)


def test_fine_tuned_package_serves_the_shifted_probabilities(data: Path, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"strategy": "finetune-last", "epochs": 1, "metric": "balanced-accuracy"})
    result = fit.fit(data, tmp_path / "run", recipe)
    manifest, model = result.artifact.manifest, result.trained
    assert (manifest.metric, manifest.label_frequencies) == ("balanced-accuracy", model.label_frequencies)
    vectors = np.asarray(model.test.vectors[:], np.float32)
    served = vectors @ model.weights["head.weight"].T + model.weights["head.bias"]
    np.testing.assert_allclose(model.test.logits, served, atol=1e-3)
    shift = model.temperature * (np.log(manifest.label_frequencies.assumed) - np.log(manifest.label_frequencies.training))
    trained_bias = checkpoints.load_best(tmp_path / "run/finetune-last/checkpoints")["state_dict"]["network.head.bias"]
    np.testing.assert_allclose(model.weights["head.bias"] - trained_bias.numpy(), shift, atol=1e-5)
    text = "The probabilities assume equally frequent labels; among the training images, the most frequent label is"
    card, report = result.package / "README.md", (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert text in card.read_text(encoding="utf-8")
    assert text in report
    lines = fit.summary_lines(result)
    assert any(line.startswith(text) and "Log-loss" in line for line in lines)
    assert any(", balanced accuracy " in line for line in lines)
    again = evaluate.evaluate(result.package, data, include_training=True).evaluation
    assert again.label_frequencies == result.evaluation.label_frequencies
    head = starting_point.load(tmp_path / "run").head_for(manifest.labels)
    np.testing.assert_allclose(head.bias, trained_bias.numpy(), atol=1e-5)
    assert starting_point.resolve(Recipe(from_model=str(tmp_path / "run")))[0].metric == "balanced-accuracy"


def test_graph_without_a_bias_is_refused():
    from onnx import TensorProto, helper

    node = helper.make_node("Relu", ["pixels"], ["logits"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("pixels", "logits")]
    model = helper.make_model(helper.make_graph([node], "graph", ends[:1], ends[1:]))
    with pytest.raises(ValueError, match="no bias of its logits"):
        label_prior.shift_graph(model.SerializeToString(), np.ones(3, np.float32))


def test_models_are_compared_by_the_metric(context: TrainingContext, balanced: TrainedModel):
    attempts: list[StrategyAttempt] = []
    other = trained(context, strategy="svm", metric="balanced-accuracy")
    auto._select(balanced, other, auto._attempt(other, 1.0, ""), attempts)
    assert ": balanced accuracy " in attempts[0].verdict


def test_early_exit_waits_for_rare_labels(context: TrainingContext, default: TrainedModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(auto.model_selection, "MIN_GAIN", 1.0)
    assert auto._early_exit_reason(default, "log-loss")
    assert auto._early_exit_reason(default, "accuracy")
    assert not auto._early_exit_reason(default, "balanced-accuracy")
    assert not auto._early_exit_reason(default, "f1-macro")


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "f1-macro"])
def test_multilabel_data_are_judged_by_log_loss_only(tmp_path: Path, encode, metric: str):
    rows = ["path,labels"]
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(encode(np.full((40, 40, 3), 12 * number, np.uint8)))
        rows.append(f"{number}.png,{'a|b' if number % 2 else 'a'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    recipe = RECIPE.model_copy(update={"metric": metric})
    with pytest.raises(ValueError, match=f"--metric {metric} does not support multilabel data; remove it, or choose log-loss."):
        prepare(tmp_path / "labels.csv", RunFolder(tmp_path), recipe)
