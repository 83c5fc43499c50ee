"""Bulk prediction matches the model's own predictions, and one bad file does not affect the others."""

import csv
import json
from pathlib import Path

import pytest

from graft.service.api.schemas import Classification, ImageFacts, ModelReference, Prediction
from graft.service.errors import ImageError
from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import MAX_PENDING_PER_WORKER
from graft.training.data.dataset import DatasetError
from graft.training.inference.bulk import infer_encoded
from graft.training.pipelines.predict import predict, to_dict, to_json, to_text, write_csv


def ranked(answer: Classification) -> tuple[tuple[str, float], ...]:
    return tuple((prediction.label, prediction.probability) for prediction in answer.predictions)


def make_answer(label: str, abstain_reason: str | None) -> Classification:
    return Classification(
        predictions=[Prediction(label=label, probability=0.5)],
        prediction_set=[label],
        outlier_score=0.1,
        abstain=abstain_reason is not None,
        abstain_reason=abstain_reason,
        model=ModelReference(name="clothes", version="1", sha256="0"),
        image=ImageFacts(width=1, height=1, format="PNG"),
        warnings=[],
        timing_ms={},
        request_id="",
    )


@pytest.fixture
def wardrobe(clothes, tmp_path: Path) -> Path:
    folder = tmp_path / "wardrobe"
    folder.mkdir()
    for label, encoded in clothes:
        (folder / f"{label}.png").write_bytes(encoded)
    return folder


def test_file_prediction_equals_the_models(classifier, model, wardrobe: Path):
    bag = wardrobe / "bag.png"
    [(path, answer)] = predict(classifier, [bag], top_k=3)
    assert (path, ranked(answer)) == (bag, model.classify(bag.read_bytes(), 3).ranked)


def test_folder_is_predicted_in_sorted_order(classifier, model, wardrobe: Path):
    found = list(predict(classifier, [wardrobe], top_k=10))
    assert [path for path, _ in found] == sorted(wardrobe.iterdir())
    assert [ranked(answer) for _, answer in found] == [model.classify(path.read_bytes(), 10).ranked for path, _ in found]


def test_top_k_limits_the_number_of_labels(classifier, wardrobe: Path):
    [(_, answer)] = predict(classifier, [wardrobe / "bag.png"], top_k=2)
    assert len(answer.predictions) == 2
    assert answer.predictions[0].probability >= answer.predictions[1].probability


def test_paths_are_predicted_in_argument_order(classifier, wardrobe: Path):
    paths = [wardrobe / "trouser.png", wardrobe / "bag.png"]
    assert [path for path, _ in predict(classifier, paths, top_k=1)] == paths


def test_unreadable_file_does_not_affect_the_others(classifier, model, wardrobe: Path):
    (wardrobe / "bag.png").write_bytes((wardrobe / "bag.png").read_bytes()[:100])
    found = dict(predict(classifier, [wardrobe], top_k=1))
    assert [path.name for path, answer in found.items() if isinstance(answer, ImageError)] == ["bag.png"]
    assert found[wardrobe / "bag.png"].code == "corrupt_image"
    assert ranked(found[wardrobe / "coat.png"]) == model.classify((wardrobe / "coat.png").read_bytes(), 1).ranked


def test_explicit_path_to_a_non_image_is_an_error(classifier, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("about clothes")
    [(_, answer)] = predict(classifier, [tmp_path / "notes.txt"], top_k=1)
    assert answer.code == "unsupported_format"


def test_non_images_in_a_folder_are_skipped(classifier, wardrobe: Path):
    (wardrobe / "notes.txt").write_text("about clothes")
    (wardrobe / ".ipynb_checkpoints").mkdir()
    (wardrobe / ".ipynb_checkpoints" / "bag.png").write_bytes((wardrobe / "bag.png").read_bytes())
    assert len(list(predict(classifier, [wardrobe], top_k=1))) == 10


def test_hidden_files_in_a_folder_are_skipped(classifier, wardrobe: Path):
    (wardrobe / "._bag.png").write_bytes(b"\0\x05\x16\x07 what macOS writes beside files")
    assert len(list(predict(classifier, [wardrobe], top_k=1))) == 10


def test_image_in_a_folder_is_detected_by_its_first_bytes(classifier, wardrobe: Path):
    (wardrobe / "bag.png").rename(wardrobe / "bag")
    assert wardrobe / "bag" in dict(predict(classifier, [wardrobe], top_k=1))


def test_missing_path_is_rejected_before_any_prediction(classifier, wardrobe: Path):
    with pytest.raises(DatasetError, match=r"gone\.png does not exist"):
        next(predict(classifier, [wardrobe, wardrobe / "gone.png"], top_k=1))


def test_folder_without_images_is_rejected(classifier, tmp_path: Path):
    with pytest.raises(DatasetError, match="contains no images"):
        next(predict(classifier, [tmp_path], top_k=1))


def test_json_fields_match_the_service_schema(classifier, wardrobe: Path):
    [(_, answer)] = predict(classifier, [wardrobe / "bag.png"], top_k=2)
    assert to_dict(answer) == {
        "predictions": [prediction.model_dump() for prediction in answer.predictions],
        "prediction_set": answer.prediction_set,
        "outlier_score": answer.outlier_score,
        "abstain": False,
        "abstain_reason": None,
    }
    assert set(to_dict(answer)) < set(Classification.model_fields)


def test_line_includes_the_abstain_reason():
    assert to_text(make_answer("bag", "outlier")) == "bag 50.0%\t(outlier)"
    assert to_text(make_answer("bag", None)) == "bag 50.0%"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_for_every_image(classifier, model, wardrobe: Path, tmp_path: Path):
    (wardrobe / "cut.png").write_bytes((wardrobe / "bag.png").read_bytes()[:100])
    answers = list(write_csv(predict(classifier, [wardrobe], top_k=1), tmp_path / "table.csv"))
    table = rows(tmp_path / "table.csv")
    assert [row["path"] for row in table] == [str(path) for path, _ in answers]
    by_name = {Path(row["path"]).stem: row for row in table}
    assert by_name["cut"] | {"path": ""} == dict.fromkeys(by_name["cut"], "") | {"error": "corrupt_image"}
    bag = model.classify((wardrobe / "bag.png").read_bytes(), 1)
    assert float(by_name["bag"]["probability"]) == bag.ranked[0].probability
    assert float(by_name["bag"]["outlier_score"]) == bag.outlier_score
    assert by_name["bag"]["prediction_set"].split("|") == list(bag.prediction_set)
    assert (by_name["bag"]["abstain"], by_name["bag"]["error"]) == ("false", "")


def test_unusual_names_survive_csv(tmp_path: Path):
    answer = make_answer('a, "b"\n', "unsure")
    odd = Path("caf\udce9,\n.png")  # a file name that is not valid UTF-8
    list(write_csv(iter([(odd, answer)]), tmp_path / "table.csv"))
    [row] = rows(tmp_path / "table.csv")
    assert (row["path"], row["label"], row["abstain"]) == (str(odd), 'a, "b"\n', "true")


def test_csv_is_written_atomically(tmp_path: Path):
    def failing():
        yield Path("a.png"), ImageError("empty_image", "")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(write_csv(failing(), tmp_path / "table.csv"))
    assert list(tmp_path.iterdir()) == []


def test_first_prediction_is_available_before_the_last_file_is_read(model, clothes):
    n_read = []

    def read(number: int) -> bytes:
        n_read.append(number)
        return clothes[number % len(clothes)][1]

    answers = infer_encoded(model.engine, model.manifest.preprocessing, range(1_000), read, "predicting")
    next(answers)
    max_ahead = (available_cpus() + model.engine.streams * model.engine.max_batch) * MAX_PENDING_PER_WORKER
    assert len(n_read) <= max_ahead < 1_000
    answers.close()


def test_json_is_streamed(classifier, model):
    answer = make_answer("bag", None)
    requested = []

    def answers():
        for name in ("a.png", "b.png"):
            requested.append(name)
            yield Path(name), answer

    chunks = to_json(classifier, answers())
    first = next(chunks)
    assert (requested, "a.png" in first) == (["a.png"], True)
    document = json.loads(first + "".join(chunks))
    assert document["model"] == model.manifest.sha256
    assert document["images"] == [{"path": name} | to_dict(answer) for name in ("a.png", "b.png")]


def test_no_partial_json_is_written_on_error(classifier, wardrobe: Path):
    with pytest.raises(DatasetError, match="does not exist"):
        next(to_json(classifier, predict(classifier, [wardrobe / "gone.png"], top_k=1)))
