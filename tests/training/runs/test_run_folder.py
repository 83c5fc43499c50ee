"""What a run's folder holds is whole, and a later start that means another run is told what differs."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from conftest import files_of_at_most

from graft.training.audit.image_scan import examine
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, scan
from graft.training.data.splits import split
from graft.training.runs.run_folder import Folder, RunDiffers, RunError, read, recorded_recipe, table

FACTS = {"labels": ("cat", "dog"), "backbone": "resnet18", "weights": "a" * 64, "input size": 224}


def examined(folder: Path) -> Dataset:
    return examine(scan(folder))[0]


def begun(photos: Path, run: Path) -> Folder:
    """A run that has recorded which image went where."""
    run.mkdir(exist_ok=True)
    dataset = examined(photos)
    Folder(run).record(dataset, split(dataset, seed=0), {})
    return Folder(run)


@pytest.fixture
def photos(make_folder) -> Path:
    return make_folder({"cat": 8, "dog": 8})


def test_decision_is_made_once(tmp_path: Path):
    folder, asked = Folder(tmp_path), []
    assert [folder.decided("speed", lambda: asked.append(1) or 30) for _ in range(3)] == [30, 30, 30]
    assert asked == [1]


def test_decision_has_the_same_type_whether_just_made_or_read(tmp_path: Path):
    made = Folder(tmp_path).decided("plan", lambda: {"counts": (1, 2)})
    assert made == Folder(tmp_path).decided("plan", dict) == {"counts": [1, 2]}


def test_decisions_of_a_run_that_is_repeated_are_taken_over(tmp_path: Path):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    Folder(before).decided("speed", lambda: 30)
    again = Folder(after, like=before)
    assert again.decided("speed", lambda: 99) == 30
    assert again.decided("new", lambda: 7) == 7
    assert json.loads((after / "plan.json").read_text()) == {"speed": 30, "new": 7}
    assert json.loads((before / "plan.json").read_text()) == {"speed": 30}


def test_decision_that_finds_no_room_leaves_the_earlier_ones(tmp_path: Path):
    folder = Folder(tmp_path)
    folder.decided("speed", lambda: 30)
    with files_of_at_most(1000), pytest.raises(OSError, match="The disk is full"):
        folder.decided("long", lambda: "x" * 5000)
    assert read(tmp_path / "plan.json") == {"speed": 30}


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
def test_what_a_run_depends_on_is_compared_by_name(tmp_path: Path, name: str, now: object, row: str):
    Folder(tmp_path).agree(FACTS)
    Folder(tmp_path).agree(FACTS)
    with pytest.raises(RunDiffers) as refused:
        Folder(tmp_path).agree(FACTS | {name: now})
    first, header, difference, way = str(refused.value).splitlines()
    assert first == f"{tmp_path} began with something else:"
    assert header.split() == ["before", "now"]
    assert difference == f"  {name}  {row}"
    assert way.startswith("Give back what it began with, or begin another run")


def test_recorded_splits_are_made_again_of_the_same_images(photos: Path, tmp_path: Path):
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    assert {name: {s.path for s in samples} for name, samples in folder.splits(dataset).named().items()} == {
        name: {s.path for s in samples} for name, samples in split(dataset, seed=0).named().items()
    }


def test_recorded_splits_do_not_follow_the_seed_of_today(photos: Path, tmp_path: Path):
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    assert set(folder.splits(dataset).test) != set(split(dataset, seed=5).test)


def test_nothing_recorded_is_no_split(photos: Path, tmp_path: Path):
    assert Folder(tmp_path).splits(examined(photos)) is None


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
    ("change", "said"),
    [
        (removed, [r"  cat/000.png  cat, sha256 \w{12}…  missing"]),
        (replaced, [r"  cat/000.png  cat, sha256 \w{12}…  cat, sha256 \w{12}…"]),
        (added, [r"  cat/new.png  not there  cat, sha256 \w{12}…"]),
        (moved, [r"  cat/000.png    cat, sha256 \w{12}…  missing", r"  dog/moved.png  not there +dog, sha256 \w{12}…"]),
        (renamed, [r"  cat/\d\d\d.png   cat, sha256 \w{12}…  missing", "  and 6 more"]),
    ],
)
def test_images_that_are_not_as_they_were_are_listed(photos: Path, tmp_path: Path, change, said: list[str]):
    folder = begun(photos, tmp_path / "run")
    change(photos)
    with pytest.raises(RunDiffers) as refused:
        folder.splits(examined(photos))
    lines = str(refused.value).splitlines()
    assert all(any(re.fullmatch(pattern, line) for line in lines) for pattern in said), lines


def test_label_that_moved_to_another_place_is_the_same_label(photos: Path, tmp_path: Path):
    # Numbers change when a label is added before it; names say what was meant.
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    swapped = tuple(dataclasses.replace(sample, labels=(1 - sample.label,)) for sample in dataset.samples)
    again = folder.splits(dataclasses.replace(dataset, labels=("dog", "cat"), samples=swapped))
    assert sum(map(len, again.named().values())) == 16


def test_image_left_out_then_is_left_out_again(photos: Path, tmp_path: Path):
    dataset = examined(photos)
    kept = dataset.without(["cat/000.png"])
    Folder(tmp_path).record(kept, split(kept, seed=0), {"cat/000.png": "unreadable"})
    again = Folder(tmp_path).splits(dataset)
    assert "cat/000.png" not in {sample.path for samples in again.named().values() for sample in samples}


def test_record_says_where_each_image_went_by_content_and_why_one_was_left_out(photos: Path, tmp_path: Path):
    dataset = examined(photos)
    kept = dataset.without(["cat/000.png"])
    Folder(tmp_path).record(kept, split(kept, seed=0), {"cat/000.png": "over-limits"})
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    digests = {sample.path: sample.digest.hex() for sample in kept.samples}
    assert {path: row["sha256"] for path, row in rows.items() if row["sha256"]} == digests
    assert rows["cat/000.png"] == {"path": "cat/000.png", "label": "", "split": "left out: over-limits", "sha256": ""}
    assert rows["dog/000.png"]["label"] == "dog"


def test_record_is_never_written_over(photos: Path, tmp_path: Path):
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    before = (folder.path / "splits.csv").read_bytes()
    folder.record(dataset, split(dataset, seed=5), {})
    assert (folder.path / "splits.csv").read_bytes() == before


def test_strange_names_survive_the_record(make_folder, tmp_path: Path):
    photos = make_folder({'a, "b"': 6, "line\nbreak": 6, "🦊": 6})
    folder, dataset = begun(photos, tmp_path / "run"), examined(photos)
    assert sum(map(len, folder.splits(dataset).named().values())) == 18


def test_recipe_of_a_run_is_taken_as_it_was(tmp_path: Path):
    Recipe(epochs=3, seed=7).save(tmp_path / "recipe.yaml")
    assert recorded_recipe(tmp_path, {}) == Recipe(epochs=3, seed=7)
    assert recorded_recipe(tmp_path, {"epochs": 3}) == Recipe(epochs=3, seed=7)


def test_other_choices_than_a_run_began_with_are_listed(tmp_path: Path):
    Recipe(epochs=3, seed=7).save(tmp_path / "recipe.yaml")
    with pytest.raises(RunDiffers) as refused:
        recorded_recipe(tmp_path, {"epochs": 4, "backbone": "resnet18", "input_size": 96, "seed": 7})
    assert [line.split() for line in str(refused.value).splitlines()[2:-1]] == [
        ["--backbone", "tf_efficientnet_lite0", "resnet18"],
        ["--input-size", "None", "96"],
        ["--epochs", "3", "4"],
    ]


def test_run_that_recorded_nothing_begins_with_the_choices_made_now(tmp_path: Path, capsys):
    assert recorded_recipe(tmp_path, {"epochs": 4}) == Recipe(epochs=4)
    assert f"nothing was recorded in {tmp_path} yet" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b'{"begun": 1', b"", b"\xff\xfe"])
def test_damaged_record_is_refused_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json is damaged: .*Begin another run"):
        read(tmp_path / "run.json")


def test_missing_record_is_empty(tmp_path: Path):
    assert read(tmp_path / "run.json") == {}


def test_table_shows_the_first_ten_and_counts_the_rest():
    shown = table([(f"image {number}", 1, 22) for number in range(13)]).splitlines()
    assert (len(shown), shown[1], shown[-1]) == (12, "  image 0  1       22", "  and 3 more")
