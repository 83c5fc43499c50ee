"""Model: loading, the golden check, and classification."""

import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from int8_packages import add_int8
from PIL import Image

from graft.service.artifact import ArtifactError, file_record, read
from graft.service.errors import ImageError
from graft.service.imaging.preprocess import ImageLimits
from graft.service.inference import engine_speed, loader
from graft.service.inference.engine import DeviceFailed, Engine, Outputs
from graft.service.inference.golden import GoldenSamples
from graft.service.inference.model import MIN_INT8_SPEEDUP, Model, load, select_faster
from graft.service.inference.neighbors import NeighborIndex, Thumbnails
from graft.service.manifest import GOLDEN, MANIFEST, NEIGHBORS, THUMBNAILS, ErrorLevel, LabelFrequencies, Manifest
from graft.training.packaging.emulation import EmulatedNetwork


@pytest.fixture
def package(fitted, tmp_path) -> Path:
    return Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))


def reseal(package: Path, **changes: object) -> None:
    """Recomputes every digest, as an attacker could."""
    manifest = Manifest.model_validate_json((package / MANIFEST).read_bytes())
    files = {name: file_record(package / name) for name in manifest.files}
    (package / MANIFEST).write_bytes(manifest.model_copy(update={"files": files, **changes}).with_digest().to_bytes())


def change_golden(package: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the golden logits of every precision."""
    golden = GoldenSamples.load(package / GOLDEN, read(package).manifest.fidelity)
    replace(golden, logits={name: change(logits) for name, logits in golden.logits.items()}).save(package / GOLDEN)


def test_drift_is_small_on_the_packaging_machine(model):
    assert model.golden_difference < 1e-4


def test_a_package_with_changed_golden_logits_is_rejected(package):
    change_golden(package, lambda logits: np.roll(logits, 1, axis=1))
    reseal(package)
    with pytest.raises(ArtifactError) as caught:
        load(package)
    assert str(caught.value).startswith(f"{package / GOLDEN}: this machine's probabilities differ by ")


def test_a_package_with_nan_golden_logits_is_rejected(package):
    change_golden(package, lambda logits: np.full_like(logits, np.nan))
    reseal(package)
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        load(package)


def test_golden_logits_within_the_tolerance_are_accepted(package):
    change_golden(package, lambda logits: logits * np.float32(1.001))
    reseal(package, tolerance=0.01)
    assert 1e-6 < load(package).golden_difference <= 0.01


def set_fidelity(package: Path, precision: str, **changes: float) -> None:
    """Sets what was measured of one precision, as if nothing had changed but this."""
    fidelity = read(package).manifest.fidelity
    reseal(package, fidelity=fidelity | {precision: fidelity["f32"].model_copy(update=changes)})


class Clock:
    """A clock that only a paced engine moves, so that a busy machine changes no speed."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(engine_speed, "time", clock)
    return clock


class Paced:
    """An engine that takes a while for each image by the clock, and otherwise is the one of the package."""

    def __init__(self, engine: Engine, seconds: float, clock: Clock) -> None:
        self._engine, self._seconds, self._clock = engine, seconds, clock
        self.device, self.precision = engine.device, engine.precision
        self.streams, self.max_batch = 1, 2

    def __call__(self, batch: np.ndarray) -> Outputs:
        self._clock.now += self._seconds * len(batch)
        return self._engine(batch[:1])


needs_bf16 = pytest.mark.skipif("bf16" not in loader.supported_precisions("cpu"), reason="this CPU does not support bf16")


@pytest.fixture
def rounding_cpu(monkeypatch, clock):
    """A CPU that has bf16, is twice as fast with it, and rounds as a GPU does."""
    exact = loader.load

    def load_paced(artifact, device, precision="f32"):
        return Paced(exact(artifact, device), 0.004, clock) if precision == "f32" else Bf16Engine(artifact)

    class Bf16Engine(Paced):
        def __init__(self, artifact):
            super().__init__(exact(artifact, "cpu"), 0.002, clock)
            self.precision = "bf16"
            self._network = EmulatedNetwork(artifact.graph, "bf16")

        def __call__(self, batch):
            if batch.any():  # an image, not the blank ones with which the speed is measured
                return Outputs(self._network(batch), np.zeros((len(batch), 1280), np.float32))
            return super().__call__(batch)

    monkeypatch.setattr(loader, "load", load_paced)
    monkeypatch.setattr(loader, "supported_precisions", lambda device: ("f32", "bf16"))


def test_auto_takes_a_faster_precision_that_is_equivalent(package, rounding_cpu):
    set_fidelity(package, "bf16", max_probability_shift=0.2)
    assert load(package, "cpu").engine.precision == "bf16"
    assert load(package, "cpu", precision="f32").engine.precision == "f32"


def test_auto_keeps_f32_if_another_precision_does_not_fit_into_the_memory(package, rounding_cpu, monkeypatch, caplog):
    load_paced = loader.load

    def load_or_fail(artifact, device, precision="f32"):
        if precision == "bf16":
            raise DeviceFailed("CUDA out of memory. Tried to allocate 2.00 GiB")
        return load_paced(artifact, device, precision)

    monkeypatch.setattr(loader, "load", load_or_fail)
    set_fidelity(package, "bf16")
    assert load(package, "cpu").engine.precision == "f32"
    assert "bf16 is not used: CUDA out of memory." in caplog.text


@pytest.mark.parametrize("changes", [{"agreement": 0.98}, {"accuracy_change": -0.05}, {"log_loss_change": 0.02}])
def test_auto_skips_a_precision_that_is_not_equivalent(package, rounding_cpu, changes):
    set_fidelity(package, "bf16", max_probability_shift=0.2, **changes)
    assert load(package, "cpu").engine.precision == "f32"
    assert load(package, "cpu", precision="bf16").engine.precision == "bf16"  # whoever asks for it knows


def test_auto_skips_a_precision_that_does_not_reproduce_its_own_golden_answers(package, rounding_cpu):
    golden = GoldenSamples.load(package / GOLDEN, read(package).manifest.fidelity)
    replace(golden, logits={**golden.logits, "bf16": golden.logits["bf16"][:, ::-1].copy()}).save(package / GOLDEN)
    reseal(package)
    set_fidelity(package, "bf16")
    assert load(package, "cpu").engine.precision == "f32"
    with pytest.raises(ArtifactError, match="this machine's probabilities differ by"):
        load(package, "cpu", precision="bf16")


@pytest.mark.parametrize(("seconds", "chosen"), [((0.004, 0.002), 1), ((0.002, 0.004), 0)])
def test_the_fastest_model_is_selected(fitted, clock, seconds, chosen):
    engine = loader.load(fitted.artifact, "cpu")
    models = [Model(fitted.artifact, Paced(engine, each, clock)) for each in seconds]
    assert select_faster(*models) is models[chosen]


@pytest.mark.parametrize(("speedup", "chosen"), [(MIN_INT8_SPEEDUP - 0.02, 0), (MIN_INT8_SPEEDUP + 0.02, 1)])
def test_an_int8_model_must_be_faster_by_more_than_noise(package, clock, speedup, chosen):
    artifact = read(add_int8(package))
    engine = loader.load(artifact, "cpu")
    models = [
        Model(artifact, Paced(engine, 0.004, clock)),
        Model(artifact.int8_model(), Paced(engine, 0.004 / speedup, clock)),
    ]
    assert select_faster(*models) is models[chosen]


@pytest.fixture
def int8_cpu(monkeypatch, clock):
    """A CPU that is twice as fast with int8."""
    exact = loader.load

    def load_paced(artifact, device, precision="f32"):
        engine = Paced(exact(artifact, device), 0.002 if precision == "int8" else 0.004, clock)
        engine.precision = precision
        return engine

    monkeypatch.setattr(loader, "load", load_paced)
    monkeypatch.setattr(loader, "supported_precisions", lambda device: ("f32", "int8"))


def test_auto_serves_an_int8_model_with_all_that_was_fitted_to_it(package, int8_cpu):
    # Other labels than in f32, but as good on the whole.
    served = load(
        add_int8(package, lambda fields: fields.update(temperature=3.0, fidelity=fields["fidelity"] | {"agreement": 0.9}))
    )
    assert served.engine.precision == "int8"
    assert served.manifest.temperature == 3.0
    assert served.artifact.graph.samefile(served.artifact.files.path("model.int8.onnx"))
    assert served.manifest.sha256 == read(package).manifest.sha256
    exact = load(package, precision="f32")
    assert exact.manifest.temperature == read(package).manifest.temperature != 3.0
    assert list(exact.manifest.precisions) == [*exact.manifest.fidelity, "int8"]


@pytest.mark.parametrize("changes", [{"accuracy_change": -0.05}, {"log_loss_change": 0.02}])
def test_auto_does_not_serve_an_int8_model_that_is_worse(package, int8_cpu, changes):
    add_int8(package, lambda fields: fields["fidelity"].update(changes))
    assert load(package).engine.precision == "f32"
    assert load(package, precision="int8").engine.precision == "int8"


def test_auto_does_not_serve_an_int8_model_that_answers_differently_here(package, int8_cpu):
    add_int8(package)
    golden = GoldenSamples.load(package / GOLDEN, read(package).manifest.precisions)
    replace(golden, logits={**golden.logits, "int8": golden.logits["int8"][:, ::-1].copy()}).save(package / GOLDEN)
    reseal(package)
    assert load(package).engine.precision == "f32"


def test_a_package_without_an_int8_model_says_how_to_create_one(package, int8_cpu):
    with pytest.raises(ArtifactError, match=r"has no int8 model\. Create one with: graft fit DIR --int8"):
        load(package, precision="int8")


def test_a_precision_whose_range_the_network_exceeds_is_refused_with_the_reason(package, monkeypatch):
    fidelity = read(package).manifest.fidelity
    golden = GoldenSamples.load(package / GOLDEN, fidelity)
    replace(golden, logits={"f32": golden.logits["f32"]}).save(package / GOLDEN)
    reseal(package, fidelity={"f32": fidelity["f32"]})
    monkeypatch.setattr(loader, "supported_precisions", lambda device: ("f32", "f16"))
    with pytest.raises(ArtifactError, match="f16 is too narrow for the network of this package"):
        load(package, "cpu", precision="f16")


@needs_bf16
def test_bf16_can_be_requested(package, clothes):
    set_fidelity(package, "bf16", max_probability_shift=0.2)
    exact, fast = load(package, "cpu", precision="f32"), load(package, "cpu", precision="bf16")
    assert (fast.engine.precision, fast.golden_tolerance) == ("bf16", pytest.approx(0.4 + fast.manifest.tolerance))
    image = clothes[0][1]
    assert 0 < abs(fast.classify(image, 1).ranked[0].probability - exact.classify(image, 1).ranked[0].probability) < 0.2


def test_an_unsupported_precision_is_rejected(package):
    with pytest.raises(ArtifactError, match="This machine's cpu does not support tf32; it supports f32"):
        load(package, "cpu", precision="tf32")


@pytest.mark.parametrize("change", [lambda labels: (*labels, "hat"), lambda labels: labels[:-1]])
def test_a_package_with_another_number_of_labels_than_its_head_is_rejected(package, change):
    manifest = read(package).manifest
    labels = change(manifest.labels)
    calibration = manifest.calibration.model_copy(
        update={"thresholds": (0.5,) * len(labels), "set_thresholds": (0.5,) * len(labels)}
    )
    equal = (1 / len(labels),) * len(labels)
    frequencies = LabelFrequencies(training=equal, assumed=equal)
    reseal(package, labels=labels, calibration=calibration, label_frequencies=frequencies)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors has head\.weight of F32 and shape \(10, 1280\)"):
        load(package)


def test_a_damaged_package_never_reaches_the_engine(package):
    (package / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"model\.onnx has 8 bytes"):
        load(package)


def test_a_package_is_read_from_an_unusual_path(package, clothes):
    moved = package.rename(package.parent / "käse чай 🧦")
    assert len(load(moved).classify(clothes[0][1], 3).ranked) == 3


def test_probabilities_are_sorted_and_sum_to_one(model, clothes):
    ranked = model.classify(clothes[0][1], 10).ranked
    chances = [probability for _, probability in ranked]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-9)
    assert {label for label, _ in ranked} == set(model.manifest.labels)


def test_results_are_deterministic(model, clothes):
    assert model.classify(clothes[0][1], 10) == model.classify(clothes[0][1], 10)


def test_a_higher_temperature_lowers_the_top_probability(fitted, model, clothes):
    outputs = model.engine(model.decode(clothes[0][1]).pixels[None])
    hotter = Model(replace(fitted.artifact, manifest=model.manifest.model_copy(update={"temperature": 100.0})), model.engine)
    [warm], [cool] = hotter.postprocess(outputs, 1).ranked, model.postprocess(outputs, 1).ranked
    assert warm.label == cool.label
    assert warm.probability < cool.probability


def test_image_limits_are_enforced(fitted, model, encode, photo):
    strict = Model(fitted.artifact, model.engine, ImageLimits(max_side=79))
    with pytest.raises(ImageError, match="the limit for the longer side is 79"):
        strict.decode(encode(photo))


def with_calibration(model: Model, **changes: object) -> Model:
    """The same network with another calibration."""
    calibration = model.manifest.calibration.model_copy(update=changes)
    manifest = model.manifest.model_copy(update={"calibration": calibration})
    return Model(replace(model.artifact, manifest=manifest), model.engine)


def as_multilabel(model: Model, threshold: float) -> Model:
    """The same network as a multilabel model with one threshold for all labels."""
    rules = {"thresholds": (threshold,) * 10, "coverage": None, "set_thresholds": None}
    calibration = model.manifest.calibration.model_copy(update=rules)
    manifest = model.manifest.model_copy(update={"calibration": calibration, "multilabel": True})
    return Model(replace(model.artifact, manifest=manifest), model.engine)


def test_the_prediction_set_holds_labels_above_the_threshold(model, clothes):
    answer = with_calibration(model, set_thresholds=(0.05,) * 10).classify(clothes[6][1], 10)
    expected = tuple(ranked.label for ranked in answer.ranked if ranked.probability >= 0.05)
    assert answer.prediction_set == expected


def test_the_prediction_set_is_never_empty(model, clothes):
    answer = with_calibration(model, set_thresholds=(1.0,) * 10).classify(clothes[6][1], 1)
    assert answer.prediction_set == (answer.ranked[0].label,)


def test_a_typical_image_has_no_abstain_reason(model, clothes):
    reasons = [model.classify(encoded, 1).abstain_reason for _, encoded in clothes]
    assert reasons.count(None) >= 8


def test_an_out_of_distribution_image_is_an_outlier(model, encode):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    answer = model.classify(encode(noise), 1)
    assert answer.outlier_score > model.manifest.calibration.outlier_threshold
    assert answer.abstain_reason == "outlier"


def test_labels_have_their_own_thresholds_in_the_prediction_set(model, clothes):
    thresholds = (1.0,) * 4 + (0.0,) * 6
    answer = with_calibration(model, set_thresholds=thresholds).classify(clothes[6][1], 10)
    assert set(answer.prediction_set) == {answer.ranked[0].label, *model.manifest.labels[4:]}


def levels(*pairs: tuple[float, float | None]) -> tuple[ErrorLevel, ...]:
    return tuple(ErrorLevel(max_error=error, min_probability=probability, answered=0.5) for error, probability in pairs)


@pytest.mark.parametrize(
    ("max_error", "min_probability"),
    [(None, 0.9), (0.02, 0.9), (0.01, math.inf), (0, math.inf), (0.019, math.inf), (0.09, 0.9), (0.1, 0.6), (0.3, 0.6), (1, 0)],
)
def test_wanted_error_chooses_the_threshold(model, max_error, min_probability):
    calibration = with_calibration(
        model, max_error=0.02, error_levels=levels((0.01, None), (0.02, 0.9), (0.1, 0.6))
    ).manifest.calibration
    assert calibration.min_probability(max_error) == min_probability


def test_a_prediction_below_the_threshold_is_unsure(model, clothes):
    probability = model.classify(clothes[6][1], 1).ranked[0].probability
    for threshold, reason in ((probability, None), (math.nextafter(probability, 1), "unsure"), (None, "unsure")):
        strict = with_calibration(model, max_error=0.1, error_levels=levels((0.1, threshold)), outlier_threshold=2.0)
        assert strict.classify(clothes[6][1], 1).abstain_reason == reason


def test_a_request_can_want_another_error(model, clothes):
    strict = with_calibration(model, max_error=0.1, error_levels=levels((0.1, 1.0), (0.3, 0.1)), outlier_threshold=2.0)
    outputs = strict.engine(strict.decode(clothes[6][1]).pixels[None])
    reasons = [strict.postprocess(outputs, 1, max_error).abstain_reason for max_error in (None, 0.2, 0.3, 1.0)]
    assert reasons == ["unsure", "unsure", None, None]


def test_without_a_wanted_error_only_outliers_abstain(model, clothes):
    free = with_calibration(model, max_error=None, error_levels=levels((0.1, 1.0)), outlier_threshold=2.0)
    assert free.classify(clothes[6][1], 1).abstain_reason is None


@pytest.mark.parametrize(("threshold", "n_labels"), [(0.0, 10), (1.0, 0)])
def test_multilabel_predictions_use_the_thresholds(model, clothes, threshold, n_labels):
    answer = as_multilabel(with_calibration(model, outlier_threshold=2.0), threshold).classify(clothes[0][1], 10)
    assert (len(answer.prediction_set), answer.abstain_reason) == (n_labels, None)


def test_multilabel_probabilities_need_not_sum_to_one(model, clothes):
    outputs = model.engine(model.decode(clothes[0][1]).pixels[None])
    answer = as_multilabel(model, 0.5).postprocess(outputs, 1)
    logit = float(outputs.logits.max()) / model.manifest.temperature
    assert answer.ranked[0].probability == pytest.approx(1 / (1 + np.exp(-logit)))


def test_a_training_image_is_its_own_nearest_neighbor(fitted, model):
    from graft.training.data.dataset import scan
    from graft.training.sample import SAMPLE

    dataset = scan(SAMPLE)
    path = model.neighbors.paths[0]
    [sample] = [sample for sample in dataset.samples if sample.path == path]
    outputs = model.engine(model.decode(dataset.read(sample)).pixels[None])
    assert model.neighbors.outlier_score(outputs.vectors[0], 1) == pytest.approx(0, abs=1e-4)
    assert model.neighbors.labels[0] == sample.labels


@pytest.mark.parametrize("shape", [(20, 8), (5, 1280)])
def test_a_package_with_neighbors_of_another_network_is_rejected(package, shape):
    NeighborIndex(np.ones(shape, np.float32), ((0,),) * shape[0], ("",) * shape[0]).save(package / NEIGHBORS)
    reseal(package)
    with pytest.raises(ArtifactError, match=r"neighbors\.npz has \d+ vectors of width \d+"):
        load(package)


def test_a_thumbnail_matches_its_neighbor(model):
    from graft.training.data.dataset import scan
    from graft.training.sample import SAMPLE

    dataset = scan(SAMPLE)
    for row in (0, 400, 849):
        [sample] = [sample for sample in dataset.samples if sample.path == model.neighbors.paths[row]]
        shown, image = (Image.open(io.BytesIO(file)) for file in (model.thumbnails[row], dataset.read(sample)))
        assert (shown.format, shown.size) == ("JPEG", (28, 28))
        assert np.abs(np.asarray(shown, int) - np.asarray(image.convert("RGB"), int)).mean() < 10


def test_a_package_with_a_wrong_number_of_thumbnails_is_rejected(package):
    Thumbnails.from_jpegs([b"picture"] * 849).save(package / THUMBNAILS)
    reseal(package)
    with pytest.raises(ArtifactError, match=r"thumbnails\.npz has 849 thumbnails; expected: 850"):
        _ = load(package).thumbnails
