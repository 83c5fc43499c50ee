"""Files of a run folder are atomic, and a resumed run with different inputs is rejected."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from conftest import file_size_limit

from graft.training.audit.image_scan import scan_images
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, scan
from graft.training.data.splits import split
from graft.training.runs.run_folder import RunError, RunFolder, RunMismatchError, format_differences, load_recipe, read_json

FACTS = {"labels": ("cat", "dog"), "backbone": "resnet18", "weights": "a" * 64, "input size": 224}


def examined(folder: Path) -> Dataset:
    return scan_images(scan(folder))[0]


def begun(photos: Path, run: Path) -> RunFolder:
    """A run with recorded splits."""
    run.mkdir(exist_ok=True)
    dataset = examined(photos)
    RunFolder(run).write_splits(dataset, split(dataset, seed=0), {})
    return RunFolder(run)


@pytest.fixture
def photos(make_folder) -> Path:
    return make_folder({"cat": 8, "dog": 8})


def test_decision_is_made_once(tmp_path: Path):
    folder, asked = RunFolder(tmp_path), []
    assert [folder.decide_once("speed", lambda: asked.append(1) or 30) for _ in range(3)] == [30, 30, 30]
    assert asked == [1]


def test_new_and_recorded_decisions_have_the_same_type(tmp_path: Path):
    made = RunFolder(tmp_path).decide_once("plan", lambda: {"counts": (1, 2)})
    assert made == RunFolder(tmp_path).decide_once("plan", dict) == {"counts": [1, 2]}


def test_replay_reuses_the_decisions_of_the_original_run(tmp_path: Path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    RunFolder(before).decide_once("speed", lambda: 30)
    again = RunFolder(after, replay_of=before)
    assert again.decide_once("speed", lambda: 99) == 30
    assert again.decide_once("new", lambda: 7) == 7
    assert json.loads((after / "decisions.json").read_text()) == {"speed": 30, "new": 7}
    assert json.loads((before / "decisions.json").read_text()) == {"speed": 30}


def test_full_disk_keeps_earlier_decisions(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.decide_once("speed", lambda: 30)
    with file_size_limit(1000), pytest.raises(OSError, match="The disk is full"):
        folder.decide_once("long", lambda: "x" * 5000)
    assert read_json(tmp_path / "decisions.json") == {"speed": 30}


@pytest.mark.parametrize(
    ("name", "now", "row"),
    [
        ("labels", ("cat", "dog", "emu"), "['cat', 'dog']  ['cat', 'dog', 'emu']"),
        ("labels", ("dog", "cat"), "['cat', 'dog']  ['dog', 'cat']"),
        ("labels", ("cat", "hen"), "['cat', 'dog']  ['cat', 'hen']"),
        ("backbone", "resnet50", "resnet18  resnet50"),
        ("weights", "b" * 64, f"{'a' * 64}  {'b' * 64}"),
        ("input size", 256, "224     256"),
    ],
)
def test_changed_inputs_are_listed_by_name(tmp_path: Path, name: str, now: object, row: str):
    RunFolder(tmp_path).check_fingerprint(FACTS)
    RunFolder(tmp_path).check_fingerprint(FACTS)
    with pytest.raises(RunMismatchError) as raised:
        RunFolder(tmp_path).check_fingerprint(FACTS | {name: now})
    first, header, difference, remedy = str(raised.value).splitlines()
    assert first == f"{tmp_path} was started with different inputs:"
    assert header.split() == ["before", "now"]
    assert difference == f"  {name}  {row}"
    assert remedy.startswith("Restore the original inputs, or start a new run")


def test_recorded_splits_are_restored(photos: Path, tmp_path: Path):
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    assert {name: {s.path for s in samples} for name, samples in folder.load_splits(dataset).to_dict().items()} == {
        name: {s.path for s in samples} for name, samples in split(dataset, seed=0).to_dict().items()
    }


def test_recorded_splits_do_not_depend_on_the_current_seed(photos: Path, tmp_path: Path):
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    assert set(folder.load_splits(dataset).test) != set(split(dataset, seed=5).test)


def test_new_run_has_no_splits(photos: Path, tmp_path: Path):
    assert RunFolder(tmp_path).load_splits(examined(photos)) is None


def removed(photos: Path) -> None:
    (photos / "cat/000.png").unlink()


def replaced(photos: Path) -> None:
    (photos / "cat/000.png").write_bytes((photos / "cat/001.png").read_bytes() + b"\0")


def added(photos: Path) -> None:
    (photos / "cat/new.png").write_bytes((photos / "cat/001.png").read_bytes() + b"\0")


def moved(photos: Path) -> None:
    (photos / "cat/000.png").rename(photos / "dog/moved.png")


def renamed(photos: Path) -> None:
    (photos / "cat").rename(photos / "lion")


@pytest.mark.parametrize(
    ("change", "expected_lines"),
    [
        (removed, [r"  cat/000.png  cat, sha256 \w{12}…  missing"]),
        (replaced, [r"  cat/000.png  cat, sha256 \w{12}…  cat, sha256 \w{12}…"]),
        (added, [r"  cat/new.png  missing  cat, sha256 \w{12}…"]),
        (moved, [r"  cat/000.png    cat, sha256 \w{12}…  missing", r"  dog/moved.png  missing +dog, sha256 \w{12}…"]),
        (renamed, [r"  cat/\d\d\d.png   cat, sha256 \w{12}…  missing", "  and 6 more"]),
    ],
)
def test_changed_images_are_listed(photos: Path, tmp_path: Path, change, expected_lines: list[str]):
    folder = begun(photos, tmp_path / "run")
    change(photos)
    with pytest.raises(RunMismatchError) as raised:
        folder.load_splits(examined(photos))
    lines = str(raised.value).splitlines()
    assert all(any(re.fullmatch(pattern, line) for line in lines) for pattern in expected_lines), lines


def test_label_with_another_index_is_the_same_label(photos: Path, tmp_path: Path):
    # Label indices change when a label is added; names do not.
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    swapped = tuple(dataclasses.replace(sample, labels=(1 - sample.label,)) for sample in dataset.samples)
    again = folder.load_splits(dataclasses.replace(dataset, labels=("dog", "cat"), samples=swapped))
    assert sum(map(len, again.to_dict().values())) == 16


def test_excluded_image_stays_excluded(photos: Path, tmp_path: Path):
    dataset = examined(photos)
    kept = dataset.exclude(["cat/000.png"])
    RunFolder(tmp_path).write_splits(kept, split(kept, seed=0), {"cat/000.png": "unreadable"})
    again = RunFolder(tmp_path).load_splits(dataset)
    assert "cat/000.png" not in {sample.path for samples in again.to_dict().values() for sample in samples}


def test_splits_file_has_digests_and_reasons_for_exclusion(photos: Path, tmp_path: Path):
    dataset = examined(photos)
    kept = dataset.exclude(["cat/000.png"])
    RunFolder(tmp_path).write_splits(kept, split(kept, seed=0), {"cat/000.png": "over-limits"})
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    digests = {sample.path: sample.digest.hex() for sample in kept.samples}
    assert {path: row["sha256"] for path, row in rows.items() if row["sha256"]} == digests
    assert rows["cat/000.png"] == {"path": "cat/000.png", "label": "", "split": "excluded: over-limits", "sha256": ""}
    assert rows["dog/000.png"]["label"] == "dog"


def test_splits_file_is_not_overwritten(photos: Path, tmp_path: Path):
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    before = (folder.path / "splits.csv").read_bytes()
    folder.write_splits(dataset, split(dataset, seed=5), {})
    assert (folder.path / "splits.csv").read_bytes() == before


def test_unusual_names_survive_the_splits_file(make_folder, tmp_path: Path):
    photos = make_folder({'a, "b"': 6, "line\nbreak": 6, "🦊": 6})
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    assert sum(map(len, folder.load_splits(dataset).to_dict().values())) == 18


def test_recipe_of_a_run_is_restored(tmp_path: Path):
    Recipe(epochs=3, seed=7).save(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path, {}) == Recipe(epochs=3, seed=7)
    assert load_recipe(tmp_path, {"epochs": 3}) == Recipe(epochs=3, seed=7)


def test_changed_options_are_listed(tmp_path: Path):
    Recipe(epochs=3, seed=7).save(tmp_path / "recipe.yaml")
    with pytest.raises(RunMismatchError) as raised:
        load_recipe(tmp_path, {"epochs": 4, "backbone": "resnet18", "input_size": 96, "seed": 7})
    assert [line.split() for line in str(raised.value).splitlines()[2:-1]] == [
        ["--backbone", "tf_efficientnet_lite0", "resnet18"],
        ["--input-size", "None", "96"],
        ["--epochs", "3", "4"],
    ]


def test_run_without_a_recipe_uses_the_current_options(tmp_path: Path, capsys):
    assert load_recipe(tmp_path, {"epochs": 4}) == Recipe(epochs=4)
    assert f"{tmp_path} has no recorded recipe" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b'{"begun": 1', b"", b"\xff\xfe"])
def test_corrupt_json_is_rejected_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json is corrupt: .*Start a new run"):
        read_json(tmp_path / "run.json")


def test_missing_json_file_is_empty(tmp_path: Path):
    assert read_json(tmp_path / "run.json") == {}


def test_table_has_ten_rows_and_counts_the_rest():
    shown = format_differences([(f"image {number}", 1, 22) for number in range(13)]).splitlines()
    assert (len(shown), shown[1], shown[-1]) == (12, "  image 0  1       22", "  and 3 more")


def test_formulas_are_text_in_the_splits_file_and_come_back(make_folder, tmp_path: Path):
    photos = make_folder({"=1+1": 8, "-b": 8, "'@c": 8})
    folder = begun(photos, tmp_path / "run")
    with (tmp_path / "run" / "splits.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert {label for _, label, *_ in rows[1:]} == {"'=1+1", "'-b", "''@c"}
    assert not any(cell.startswith(tuple("=+-@")) for row in rows for cell in row)
    dataset = examined(photos)
    assert folder.load_splits(dataset) == split(dataset, seed=0)
