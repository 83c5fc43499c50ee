"""Predictions into a folder of Parquet files: complete, restartable, and the same as those of `graft predict`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from graft.service.inference.model import Model
from graft.training.data.dataset import DatasetError
from graft.training.inference import scoring
from graft.training.inference.scoring import RECORD, Scoring, score
from graft.training.pipelines import predict as pipeline
from graft.training.runtime.folder_lock import FolderInUse, locked

N_IMAGES, CHUNK = 10, 4


@pytest.fixture
def photos(tmp_path, clothes) -> Path:
    folder = tmp_path / "photos"
    for index, (_, image) in enumerate(clothes[:N_IMAGES]):
        path = folder / f"day {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return folder


@pytest.fixture
def wanted(model: Model) -> Scoring:
    return Scoring(model.manifest.sha256, model.engine.precision, 3, chunk_size=CHUNK)


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(path).to_pylist()]


def test_every_image_has_the_row_that_graft_predict_gives(model, photos, tmp_path, wanted):
    result = score(model, photos, tmp_path / "parts", wanted)
    assert (result.n_images, result.n_failed, result.n_parts, result.n_computed) == (N_IMAGES, 0, 3, 3)
    rows = rows_of(tmp_path / "parts")
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    for row in rows:
        expected = model.classify((photos / row["path"]).read_bytes(), 3)
        assert (row["label"], row["probability"]) == (expected.ranked[0].label, expected.ranked[0].probability)
        assert row["top_labels"] == [one.label for one in expected.ranked]
        assert row["top_probabilities"] == [one.probability for one in expected.ranked]
        assert row["prediction_set"] == list(expected.prediction_set)
        assert (row["outlier_score"], row["abstain_reason"]) == (expected.outlier_score, expected.abstain_reason)
        assert row["error"] is None
    stored = parquet.read_schema(next((tmp_path / "parts").glob("part-*"))).metadata[b"graft"]
    assert Scoring(**json.loads(stored)) == wanted


def test_parts_that_are_there_are_not_computed_again(model, photos, tmp_path, wanted, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    score(model, photos, whole, wanted)
    scored, exact = [], scoring.score_images

    def interrupt(*call):
        for row in exact(*call):
            if len(scored) == CHUNK + 1:  # in the second part
                raise KeyboardInterrupt
            scored.append(row["path"])
            yield row

    monkeypatch.setattr(scoring, "score_images", interrupt)
    with pytest.raises(KeyboardInterrupt):
        score(model, photos, parts, wanted)
    assert "parts written: 1. The same command goes on from there" in capsys.readouterr().err
    monkeypatch.setattr(scoring, "score_images", exact)
    result = score(model, photos, parts, wanted)
    assert (result.n_images, result.n_parts, result.n_computed) == (N_IMAGES, 3, 2)
    assert rows_of(parts) == rows_of(whole)


def test_images_that_cannot_be_used_are_rows_with_a_reason(model, photos, tmp_path, wanted, monkeypatch):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (photos / "vanished.png").write_bytes(b"\x89PNG")
    read = scoring.Source.read

    def vanish(source, path):
        (photos / "vanished.png").unlink(missing_ok=True)
        return read(source, path)

    monkeypatch.setattr(scoring.Source, "read", vanish)
    result = score(model, photos, tmp_path / "parts", wanted)
    assert (result.n_images, result.n_failed) == (N_IMAGES + 2, 2)
    failed = {row["path"]: row for row in rows_of(tmp_path / "parts") if row["error"]}
    assert set(failed) == {"broken.png", "vanished.png"}
    assert failed["vanished.png"]["error"] == scoring.UNREADABLE
    assert "cannot be read: No such file" in failed["vanished.png"]["error_detail"]
    assert all(row["label"] is None and row["error_detail"] for row in failed.values())
    again = score(model, photos, tmp_path / "parts", wanted)
    assert (again.n_images, again.n_failed) == (N_IMAGES + 1, 1)  # the one that has vanished is not listed any more


def test_a_damaged_part_is_computed_again(model, photos, tmp_path, wanted):
    score(model, photos, tmp_path / "parts", wanted)
    before, part = rows_of(tmp_path / "parts"), next((tmp_path / "parts").glob("part-000001-*"))
    part.write_bytes(part.read_bytes()[:-10])
    assert score(model, photos, tmp_path / "parts", wanted).n_computed == 1
    assert rows_of(tmp_path / "parts") == before


def test_outputs_that_are_not_finite_are_an_error(model, photos, tmp_path, wanted, monkeypatch):
    class Broken:
        streams = max_batch = 1
        precision = "f32"

        def __call__(self, batch):
            return type(model.engine(batch))(np.full((len(batch), 10), np.nan, np.float32), np.zeros((len(batch), 4)))

    broken = Model(model.artifact, Broken())
    assert score(broken, photos, tmp_path / "parts", wanted).n_failed == N_IMAGES
    assert {row["error"] for row in rows_of(tmp_path / "parts")} == {"not_finite"}


def test_an_archive_has_the_same_rows_as_its_folder(model, photos, tmp_path, wanted):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    score(model, photos, tmp_path / "a", wanted)
    score(model, Path(archive), tmp_path / "b", wanted)
    by_path = [{row["path"]: row for row in rows_of(tmp_path / name)} for name in "ab"]
    assert by_path[0] == by_path[1]


def test_parts_whose_images_have_changed_are_replaced(model, photos, tmp_path, wanted, capsys):
    parts = tmp_path / "parts"
    score(model, photos, parts, wanted)
    before = {path.name for path in parts.glob("part-*")}
    next((photos / "day 1").iterdir()).unlink()
    (parts / ".part-000009-0.parquet.77.tmp").write_bytes(b"half")  # of a run that was killed
    result = score(model, photos, parts, wanted)
    after = {path.name for path in parts.glob("part-*")}
    assert result.n_computed == len(after - before) >= 1
    assert {row["path"] for row in rows_of(parts)} == {str(path.relative_to(photos)) for path in photos.rglob("*.png")}
    assert "their images are no longer the same" in capsys.readouterr().err
    assert not list(parts.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 5}, "top_k was 3, and is 5"),
        ({"model": "other"}, "model was .*, and is other"),
        ({"precision": "int8"}, "precision was f32, and is int8"),
        ({"max_error": 0.1}, "max_error was None, and is 0.1"),
    ],
)
def test_rows_of_another_run_are_not_mixed_in(model, photos, tmp_path, wanted, change, message):
    score(model, photos, tmp_path / "parts", wanted)
    with pytest.raises(ValueError, match=f"has rows of another run: {message}"):
        score(model, photos, tmp_path / "parts", replace(wanted, **change))


def test_a_folder_with_other_files_is_left_alone(model, photos, tmp_path, wanted):
    with pytest.raises(ValueError, match=r"is not empty, and has no scoring\.json"):
        score(model, photos, photos, wanted)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / RECORD).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        score(model, photos, tmp_path / "parts", wanted)


def test_two_processes_do_not_write_to_one_folder(model, photos, tmp_path, wanted):
    parts = tmp_path / "parts"
    score(model, photos, parts, wanted)
    program = "import sys; from pathlib import Path; from graft.training.runtime.folder_lock import locked\n"
    program += "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(parts)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(FolderInUse, match=f"is in use by process {other.pid}"):
            score(model, photos, parts, wanted)
        other.stdin.close()
    with locked(parts):
        pass


def test_a_folder_without_images_is_an_error(model, tmp_path, wanted):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="contains no images"):
        score(model, tmp_path / "empty", tmp_path / "parts", wanted)


def test_the_next_run_computes_in_the_precision_of_the_first(fitted, photos, tmp_path, monkeypatch):
    asked, load = [], pipeline.load_model
    monkeypatch.setattr(
        pipeline, "load_model", lambda *args, precision: asked.append(precision) or load(*args, precision="f32")
    )
    for _ in range(2):
        pipeline.predict_to_parts(fitted.package, photos, tmp_path / "parts", 3, device="cpu")
    assert asked == ["auto", "f32"]


def test_missing_pyarrow_is_reported_before_anything_is_loaded(fitted, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pyarrow is not installed"):
        pipeline.predict_to_parts(fitted.package, photos, tmp_path / "parts", 3)


PROGRAM = """
import sys
from pathlib import Path
from graft.service.inference.model import load
from graft.training.inference import scoring
package, data, out = map(Path, sys.argv[1:])
model = load(package, "cpu", precision="f32")
print(scoring.score(model, data, out, scoring.Scoring(model.manifest.sha256, "f32", 3, chunk_size=20)).n_computed)
"""


@pytest.mark.slow
def test_a_killed_run_is_continued(fitted, photos, model, tmp_path):
    for index, path in enumerate(sorted(photos.rglob("*.png"))):
        for copy in range(30):
            os.link(path, path.with_name(f"{index}-{copy}.png"))
    command = [sys.executable, "-c", PROGRAM, str(fitted.package), str(photos), str(tmp_path / "parts")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(list((tmp_path / "parts").glob("part-*"))) < 3:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    n_parts = len(list((tmp_path / "parts").glob("part-*")))
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) == 16 - n_parts < 16
    score(model, photos, tmp_path / "whole", Scoring(model.manifest.sha256, "f32", 3, chunk_size=20))
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
