"""A .csv of paths and labels: what every spelling of it means, and what each bad row is called."""

import os
from collections import Counter
from pathlib import Path

import pytest

from graft.training.data.dataset import Dataset, DatasetError, describe, scan

IMAGES = {"a": 3, "b": 3}
FOUR = "path,label\na/000.png,cat\na/001.png,cat\nb/000.png,dog\nb/001.png,dog\n"


@pytest.fixture
def table(make_folder) -> Path:
    """Where a table stands beside folders of six images."""
    return make_folder(IMAGES) / "labels.csv"


def written(table: Path, text: str | bytes) -> Path:
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return table


def rows(dataset: Dataset) -> dict[str, str]:
    return {sample.path: "|".join(dataset.labels[label] for label in sample.labels) for sample in dataset.samples}


def found(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...], str]]:
    return {finding.kind: (finding.severity, finding.paths, finding.flag) for finding in dataset.findings}


EXPECTED = {"a/000.png": "cat", "a/001.png": "cat", "b/000.png": "dog", "b/001.png": "dog"}


@pytest.mark.parametrize(
    "text",
    [
        FOUR,
        FOUR.replace("\n", "\r\n"),
        FOUR.replace("\n", "\r\n").encode("utf-8-sig"),
        FOUR.replace(",", ";"),
        FOUR.replace(",", "\t"),
        FOUR.replace(",", ", "),
        FOUR.replace(",", " , "),
        FOUR.rstrip("\n"),
        FOUR + "\n\n",
        FOUR.replace("path,label", "Path, LABEL"),
        FOUR.replace("a/", "./a/"),
        FOUR.replace("path,label", '"path","label"').replace("a/000.png", '"a/000.png"'),
        "label,path\n" + "".join(",".join(reversed(line.split(","))) + "\n" for line in FOUR.splitlines()[1:]),
        "path,label,photographer\n" + "".join(f"{line},somebody\n" for line in FOUR.splitlines()[1:]),
    ],
)
def test_every_spelling_of_one_table_means_the_same(table: Path, text: str | bytes):
    dataset = scan(written(table, text))
    assert rows(dataset) == EXPECTED
    assert (dataset.labels, dataset.multilabel, dataset.findings) == (("cat", "dog"), False, ())


def test_tab_separated_file_is_a_table(table: Path):
    assert rows(scan(written(table.with_suffix(".tsv"), FOUR.replace(",", "\t")))) == EXPECTED


def test_images_are_read_from_beside_the_table(table: Path):
    dataset = scan(written(table, FOUR))
    assert dataset.read(dataset.samples[2]) == (table.parent / "b/000.png").read_bytes()


def test_quoted_commas_belong_to_the_name(table: Path, encode, photo):
    (table.parent / 'a "b", c.png').write_bytes(encode(photo))
    text = FOUR + '"a ""b"", c.png","big, dog"\n'
    assert rows(scan(written(table, text)))['a "b", c.png'] == "big, dog"


def test_spaces_in_names_are_kept_and_around_them_are_not(table: Path, encode, photo):
    for name in ("my photo.png", " odd.png"):
        (table.parent / name).write_bytes(encode(photo))
    found = rows(scan(written(table, FOUR + 'my photo.png , sea  lion \n" odd.png",cat\n')))
    assert found["my photo.png"] == "sea  lion"
    assert found[" odd.png"] == "cat"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_with_what_to_do(table: Path, encoding: str):
    with pytest.raises(DatasetError, match=r"labels\.csv is UTF-16, or no text: save it as UTF-8"):
        scan(written(table, FOUR.encode(encoding)))


def test_text_that_is_not_utf_8_is_refused(table: Path):
    with pytest.raises(DatasetError, match=r"labels\.csv is not UTF-8 at byte \d+: save it as UTF-8"):
        scan(written(table, FOUR.replace("dog", "café").encode("latin-1")))


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("image,class", "'image,class'"),
        ("a/000.png,cat", "'a/000.png,cat'"),
        ("path", "'path'"),
        ("path,label,label", "label,label"),
    ],
)
def test_wrong_header_is_shown_beside_the_expected_one(table: Path, header: str, shown: str):
    with pytest.raises(DatasetError, match=rf"has the header .*{shown}.*\. Expected a header path,label"):
        scan(written(table, FOUR.replace("path,label", header)))


@pytest.mark.parametrize("text", ["", "path,label\n", "\n"])
def test_empty_table_is_refused(table: Path, text: str):
    with pytest.raises(DatasetError, match=r"labels\.csv"):
        scan(written(table, text))


def test_file_that_is_missing_is_an_error_and_no_sample(table: Path):
    dataset = scan(written(table, FOUR + "a/9.png,cat\na,cat\n"))
    assert found(dataset) == {"missing": ("error", ("a/9.png", "a"), "--skip-bad")}
    assert rows(dataset) == EXPECTED


def test_many_missing_files_are_counted_and_ten_are_listed(table: Path):
    dataset = scan(written(table, FOUR + "".join(f"gone/{number:02d}.png,cat\n" for number in range(25))))
    [finding] = dataset.findings
    listed = ", ".join(f"gone/{number:02d}.png" for number in range(10))
    assert finding.text == f"rows whose file does not exist (25): {listed} and 15 more"
    assert len(finding.drop) == 25


def test_paths_that_lead_out_are_errors(table: Path, tmp_path: Path, encode, photo):
    (tmp_path / "other.png").write_bytes(encode(photo))
    (table.parent / "a" / "link.png").symlink_to(tmp_path / "other.png")
    (table.parent / "door").symlink_to(tmp_path, target_is_directory=True)
    outside = ("../other.png", str(tmp_path / "other.png"), "a/link.png", "door/other.png")
    text = FOUR + "".join(f"{path},cat\n" for path in outside)
    assert found(scan(written(table, text))) == {"outside": ("error", outside, "--skip-bad")}
    followed = scan(table, follow_links=True)
    assert found(followed) == {"outside": ("error", outside[:2], "--skip-bad")}
    assert set(rows(followed)) == {*EXPECTED, "a/link.png", "door/other.png"}


def test_row_without_a_label_is_an_error(table: Path):
    assert found(scan(written(table, FOUR + "a/002.png, \n"))) == {"no-label": ("error", ("a/002.png",), "--skip-bad")}


def test_repeated_row_is_an_error_and_one_sample(table: Path):
    dataset = scan(written(table, FOUR + "a/000.png,cat\n./a/000.png,cat\n"))
    assert found(dataset) == {"duplicate-row": ("error", ("a/000.png",), "")}
    assert rows(dataset) == EXPECTED


def test_file_under_two_labels_is_an_error_and_no_sample(table: Path):
    dataset = scan(written(table, FOUR + "a/000.png,dog\n"))
    assert found(dataset) == {"conflicting-rows": ("error", ("a/000.png",), "")}
    assert "several labels joined by |" in dataset.findings[0].text
    assert set(rows(dataset)) == set(EXPECTED) - {"a/000.png"}


def test_row_of_another_length_is_an_error_with_its_line(table: Path):
    dataset = scan(written(table, FOUR + "a/002.png,cat,fat\nb/002.png\n"))
    assert found(dataset) == {"bad-row": ("error", ("line 6", "line 7"), "")}


def test_names_that_differ_only_in_case_are_an_error(table: Path):
    [finding] = scan(written(table, FOUR + "a/002.png,Cat\n")).findings
    assert (finding.kind, finding.severity) == ("name-collision", "error")


def test_single_label_is_refused(table: Path):
    with pytest.raises(DatasetError, match=r"Only one label was found \(cat\)"):
        scan(written(table, FOUR.replace("dog", "cat")))


def test_table_whose_rows_are_all_bad_says_why(table: Path):
    with pytest.raises(DatasetError, match=r"(?s)No label was found.*rows whose file does not exist \(2\): x\.png, y\.png"):
        scan(written(table, "path,label\nx.png,cat\ny.png,dog\n"))


SPLIT = "path,label,split\na/000.png,cat,train\na/001.png,cat,{0}\nb/000.png,dog,train\nb/001.png,dog,{0}\n"


@pytest.mark.parametrize("word", ["test", "val", "valid", "validation", "Test", "dev"])
def test_second_part_is_held_out_whatever_it_is_called(table: Path, word: str):
    dataset = scan(written(table, SPLIT.format(word)))
    assert Counter(sample.part for sample in dataset.samples) == {"train": 2, "test": 2}


def test_three_parts_are_kept_apart(table: Path):
    text = SPLIT.format("test") + "a/002.png,cat,val\nb/002.png,dog,val\n"
    dataset = scan(written(table, text))
    assert Counter(sample.part for sample in dataset.samples) == {"train": 2, "validation": 2, "test": 2}
    assert describe(dataset) == "6 images of 2 labels (cat, dog), 2 to learn from, 2 to choose by and 2 held out"


def test_empty_split_column_says_nothing(table: Path):
    dataset = scan(written(table, "path,label,split\n" + "".join(f"{line},\n" for line in FOUR.splitlines()[1:])))
    assert {sample.part for sample in dataset.samples} == {""}


def test_split_that_is_none_and_split_that_is_missing_are_errors(table: Path):
    dataset = scan(written(table, SPLIT.format("test") + "a/002.png,cat,fold3\nb/002.png,dog,\n"))
    assert found(dataset)["bad-split"] == ("error", ("a/002.png (fold3)",), "")
    assert found(dataset)["no-split"] == ("error", ("b/002.png",), "")


def test_label_of_the_test_part_that_nothing_can_be_learned_of_is_an_error(table: Path):
    [finding] = scan(written(table, SPLIT.format("test") + "a/002.png,zebra,test\n")).findings
    assert (finding.kind, finding.severity) == ("unknown-label", "error")


def test_several_labels_make_the_task_multi_label(table: Path):
    dataset = scan(written(table, FOUR + "a/002.png,dog| wet |cat|dog\n"))
    assert dataset.multilabel
    assert rows(dataset)["a/002.png"] == "cat|dog|wet"
    assert [sample.labels for sample in dataset.samples] == [(0,), (0,), (1,), (1,), (0, 1, 2)]


def test_empty_cell_means_no_label_only_in_a_column_of_several(table: Path):
    assert found(scan(written(table, FOUR + "a/002.png,cat|dog\nb/002.png,\n")))["no-label"][1] == ("b/002.png",)
    dataset = scan(written(table, FOUR.replace("label", "labels") + "b/002.png,\n"))
    assert (dataset.multilabel, dataset.findings) == (True, ())
    assert dataset.samples[-1].labels == ()


def test_column_named_group_groups(table: Path):
    text = "path,label,group\na/000.png,cat,ann\na/001.png,cat,bob\nb/000.png,dog,ann\nb/001.png,dog,\n"
    groups = [sample.group for sample in scan(written(table, text)).samples]
    assert groups[0] == groups[2] != groups[1]
    assert groups[3] == b""


def test_any_column_can_group(table: Path):
    text = "path,label,patient\na/000.png,cat,7\na/001.png,cat,8\nb/000.png,dog,7\n"
    groups = [sample.group for sample in scan(written(table, text), group_by="patient").samples]
    assert groups[0] == groups[2] != groups[1]


def test_expression_on_the_path_groups_a_table_too(table: Path):
    groups = [sample.group for sample in scan(written(table, FOUR), group_by=r"/(\d+)\.").samples]
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_unknown_column_is_refused_with_those_there_are(table: Path):
    with pytest.raises(DatasetError, match=r"--group-by patient: .*no such column; it has path, label\."):
        scan(written(table, FOUR), group_by="patient")


def test_unclosed_quote_swallows_rows_and_is_named(table: Path):
    dataset = scan(written(table, FOUR + '"a/002.png,cat\nb/002.png,dog\n'))
    assert found(dataset) == {"bad-row": ("error", ("line 7",), "")}


def test_large_files_and_pipes_are_no_images(table: Path):
    with (table.parent / "huge.png").open("wb") as file:
        file.truncate(256 * 2**20 + 1)
    os.mkfifo(table.parent / "pipe.png")
    dataset = scan(written(table, FOUR + "huge.png,cat\npipe.png,cat\n"))
    assert found(dataset) == {
        "too-large": ("error", ("huge.png",), "--skip-bad"),
        "missing": ("error", ("pipe.png",), "--skip-bad"),
    }
