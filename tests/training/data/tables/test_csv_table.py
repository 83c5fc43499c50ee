"""CSV tables: dialects, labels, splits, groups and the issues of invalid rows."""

import os
from collections import Counter
from pathlib import Path

import pytest

from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, describe, scan

IMAGES = {"a": 3, "b": 3}
FOUR = "path,label\na/000.png,cat\na/001.png,cat\nb/000.png,dog\nb/001.png,dog\n"


@pytest.fixture
def table(make_folder) -> Path:
    """Path of a table next to two folders with six images."""
    return make_folder(IMAGES) / "labels.csv"


def write_table(table: Path, text: str | bytes) -> Path:
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return table


def rows(dataset: Dataset) -> dict[str, str]:
    return {sample.path: "|".join(dataset.labels[label] for label in sample.labels) for sample in dataset.samples}


def findings_by_kind(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...], str]]:
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
def test_all_csv_dialects_are_read(table: Path, text: str | bytes):
    dataset = scan(write_table(table, text))
    assert rows(dataset) == EXPECTED
    assert (dataset.labels, dataset.multilabel, dataset.findings) == (("cat", "dog"), False, ())


def test_tab_separated_file_is_a_table(table: Path):
    assert rows(scan(write_table(table.with_suffix(".tsv"), FOUR.replace(",", "\t")))) == EXPECTED


def test_paths_are_relative_to_the_table(table: Path):
    dataset = scan(write_table(table, FOUR))
    assert dataset.read(dataset.samples[2]) == (table.parent / "b/000.png").read_bytes()


def test_quoted_separators_are_part_of_the_value(table: Path, encode, photo):
    (table.parent / 'a "b", c.png').write_bytes(encode(photo))
    text = FOUR + '"a ""b"", c.png","big, dog"\n'
    assert rows(scan(write_table(table, text)))['a "b", c.png'] == "big, dog"


def test_only_surrounding_spaces_are_stripped(table: Path, encode, photo):
    for name in ("my photo.png", " odd.png"):
        (table.parent / name).write_bytes(encode(photo))
    labels = rows(scan(write_table(table, FOUR + 'my photo.png , sea  lion \n" odd.png",cat\n')))
    assert labels["my photo.png"] == "sea  lion"
    assert labels[" odd.png"] == "cat"


def test_utf_16_with_a_byte_order_mark_is_read(table: Path):
    assert rows(scan(write_table(table, FOUR.replace(",", "\t").encode("utf-16")))) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_rejected_with_a_fix(table: Path, encoding: str):
    with pytest.raises(DatasetError, match=r"labels\.csv is not a text file: save it as UTF-8"):
        scan(write_table(table, FOUR.encode(encoding)))


@pytest.mark.parametrize(
    ("encoding", "label"), [("cp1252", "Löwenzähnchen"), ("cp932", "たんぽぽ"), ("gbk", "蒲公英"), ("cp1251", "одуванчик")]
)
def test_code_page_of_excel_is_guessed_and_shown(table: Path, encoding: str, label: str):
    dataset = scan(write_table(table, FOUR.replace("dog", label).encode(encoding)))
    assert set(rows(dataset).values()) == {"cat", label}
    [warning] = dataset.findings
    assert (warning.kind, warning.severity) == ("guessed-encoding", "warning")
    assert f"labels.csv as {encoding}" in warning.text


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("path", r"no column has labels\. The columns are path\. Say which one has: --label-column NAME"),
        ("path,label,label", r"several columns may have the labels: label, label"),
        ("path,age,sex", r"several columns may have the labels: age, sex"),
    ],
)
def test_table_without_a_clear_label_column_is_rejected_with_its_columns(table: Path, header: str, reason: str):
    lines = [",".join([*line.split(","), "7", "f"][: header.count(",") + 1]) for line in FOUR.splitlines()[1:]]
    with pytest.raises(DatasetError, match=reason):
        scan(write_table(table, "\n".join([header, *lines])))


@pytest.mark.parametrize("text", ["", "path,label\n", "\n"])
def test_empty_table_is_rejected(table: Path, text: str):
    with pytest.raises(DatasetError, match=r"labels\.csv"):
        scan(write_table(table, text))


def test_missing_file_is_an_error_and_not_a_sample(table: Path):
    dataset = scan(write_table(table, FOUR + "a/9.png,cat\na,cat\n"))
    assert findings_by_kind(dataset) == {"missing": ("error", ("a/9.png", "a"), "--skip-bad")}
    assert rows(dataset) == EXPECTED


def test_many_missing_files_are_counted_with_ten_examples(table: Path):
    dataset = scan(write_table(table, FOUR + "".join(f"gone/{number:02d}.png,cat\n" for number in range(25))))
    [finding] = dataset.findings
    examples = ", ".join(f"gone/{number:02d}.png (line {number + 6})" for number in range(10))
    assert finding.text == f"rows with a missing file (25): {examples} and 15 more"
    assert len(finding.drop) == 25


def test_paths_outside_the_data_set_are_errors(table: Path, tmp_path: Path, encode, photo):
    (tmp_path / "other.png").write_bytes(encode(photo))
    (table.parent / "a" / "link.png").symlink_to(tmp_path / "other.png")
    (table.parent / "door").symlink_to(tmp_path, target_is_directory=True)
    outside = ("../other.png", str(tmp_path / "other.png"), "a/link.png", "door/other.png")
    text = FOUR + "".join(f"{path},cat\n" for path in outside)
    assert findings_by_kind(scan(write_table(table, text))) == {"outside": ("error", outside, "--skip-bad")}
    followed = scan(table, ReadOptions(follow_links=True))
    assert findings_by_kind(followed) == {"outside": ("error", outside[:2], "--skip-bad")}
    assert set(rows(followed)) == {*EXPECTED, "a/link.png", "door/other.png"}


def test_row_without_a_label_is_an_error(table: Path):
    assert findings_by_kind(scan(write_table(table, FOUR + "a/002.png, \n"))) == {
        "no-label": ("error", ("a/002.png",), "--skip-bad")
    }


def test_duplicate_row_is_an_error_and_one_sample(table: Path):
    dataset = scan(write_table(table, FOUR + "a/000.png,cat\n./a/000.png,cat\n"))
    assert findings_by_kind(dataset) == {"duplicate-row": ("error", ("a/000.png",), "")}
    assert rows(dataset) == EXPECTED


def test_conflicting_labels_are_an_error_and_not_a_sample(table: Path):
    dataset = scan(write_table(table, FOUR + "a/000.png,dog\n"))
    assert findings_by_kind(dataset) == {"conflicting-rows": ("error", ("a/000.png",), "")}
    assert "several labels joined by |" in dataset.findings[0].text
    assert set(rows(dataset)) == set(EXPECTED) - {"a/000.png"}


def test_row_with_a_wrong_cell_count_is_an_error_with_its_line(table: Path):
    dataset = scan(write_table(table, FOUR + "a/002.png,cat,fat\nb/002.png\n"))
    assert findings_by_kind(dataset) == {"bad-row": ("error", ("line 6", "line 7"), "")}


def test_labels_that_differ_only_in_case_are_an_error(table: Path):
    [finding] = scan(write_table(table, FOUR + "a/002.png,Cat\n")).findings
    assert (finding.kind, finding.severity) == ("name-collision", "error")


def test_single_label_is_rejected(table: Path):
    with pytest.raises(DatasetError, match=r"Only one label was found \(cat\)"):
        scan(write_table(table, FOUR.replace("dog", "cat")))


def test_table_with_only_invalid_rows_explains_why(table: Path):
    with pytest.raises(
        DatasetError, match=r"(?s)No label was found.*rows with a missing file \(2\): x\.png \(line 2\), y\.png \(line 3\)"
    ):
        scan(write_table(table, "path,label\nx.png,cat\ny.png,dog\n"))


SPLIT = "path,label,split\na/000.png,cat,train\na/001.png,cat,{0}\nb/000.png,dog,train\nb/001.png,dog,{0}\n"


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test", "dev"])
def test_second_of_two_splits_is_the_test_set(table: Path, name: str):
    dataset = scan(write_table(table, SPLIT.format(name)))
    assert Counter(sample.split for sample in dataset.samples) == {"train": 2, "test": 2}


def test_three_splits_are_kept(table: Path):
    text = SPLIT.format("test") + "a/002.png,cat,val\nb/002.png,dog,val\n"
    dataset = scan(write_table(table, text))
    assert Counter(sample.split for sample in dataset.samples) == {"train": 2, "validation": 2, "test": 2}
    assert describe(dataset) == "6 images, 2 labels (cat, dog); 2 train, 2 validation, 2 test"


def test_empty_split_column_is_ignored(table: Path):
    dataset = scan(write_table(table, "path,label,split\n" + "".join(f"{line},\n" for line in FOUR.splitlines()[1:])))
    assert {sample.split for sample in dataset.samples} == {""}


def test_unknown_and_missing_splits_are_errors(table: Path):
    dataset = scan(write_table(table, SPLIT.format("test") + "a/002.png,cat,fold3\nb/002.png,dog,\n"))
    assert findings_by_kind(dataset)["bad-split"] == ("error", ("a/002.png",), "")
    assert "a/002.png (line 6): fold3" in dataset.findings[0].text
    assert findings_by_kind(dataset)["no-split"] == ("error", ("b/002.png",), "")


def test_test_label_without_training_images_is_an_error(table: Path):
    [finding] = scan(write_table(table, SPLIT.format("test") + "a/002.png,zebra,test\n")).findings
    assert (finding.kind, finding.severity) == ("unknown-label", "error")


def test_several_labels_make_the_task_multi_label(table: Path):
    dataset = scan(write_table(table, FOUR + "a/002.png,dog| wet |cat|dog\n"))
    assert dataset.multilabel
    assert rows(dataset)["a/002.png"] == "cat|dog|wet"
    assert [sample.labels for sample in dataset.samples] == [(0,), (0,), (1,), (1,), (0, 1, 2)]


def test_empty_cell_means_no_label_only_in_a_labels_column(table: Path):
    assert findings_by_kind(scan(write_table(table, FOUR + "a/002.png,cat|dog\nb/002.png,\n")))["no-label"][1] == ("b/002.png",)
    dataset = scan(write_table(table, FOUR.replace("label", "labels") + "b/002.png,\n"))
    assert (dataset.multilabel, dataset.findings) == (True, ())
    assert dataset.samples[-1].labels == ()


def test_group_column_is_used_by_default(table: Path):
    text = "path,label,group\na/000.png,cat,ann\na/001.png,cat,bob\nb/000.png,dog,ann\nb/001.png,dog,\n"
    groups = [sample.group for sample in scan(write_table(table, text)).samples]
    assert groups[0] == groups[2] != groups[1]
    assert groups[3] == b""


def test_any_column_can_be_the_group_column(table: Path):
    text = "path,label,patient\na/000.png,cat,7\na/001.png,cat,8\nb/000.png,dog,7\n"
    groups = [sample.group for sample in scan(write_table(table, text), ReadOptions(group_by="patient")).samples]
    assert groups[0] == groups[2] != groups[1]


def test_group_by_regex_works_for_a_table(table: Path):
    groups = [sample.group for sample in scan(write_table(table, FOUR), ReadOptions(group_by=r"/(\d+)\.")).samples]
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_unknown_group_column_is_rejected_with_the_columns(table: Path):
    with pytest.raises(DatasetError, match=r"--group-by patient: the table has no such column; its columns are path, label\."):
        scan(write_table(table, FOUR), ReadOptions(group_by="patient"))


def test_unclosed_quote_is_a_bad_row(table: Path):
    dataset = scan(write_table(table, FOUR + '"a/002.png,cat\nb/002.png,dog\n'))
    assert findings_by_kind(dataset) == {"bad-row": ("error", ("line 7",), "")}


def test_too_large_files_and_pipes_are_errors(table: Path):
    with (table.parent / "huge.png").open("wb") as file:
        file.truncate(256 * 2**20 + 1)
    os.mkfifo(table.parent / "pipe.png")
    dataset = scan(write_table(table, FOUR + "huge.png,cat\npipe.png,cat\n"))
    assert findings_by_kind(dataset) == {
        "too-large": ("error", ("huge.png",), "--skip-bad"),
        "missing": ("error", ("pipe.png",), "--skip-bad"),
    }


def test_damaged_utf_8_is_rejected(table: Path):
    text = FOUR.replace("dog", "größe").encode() + b"a/002.png,gr\xff\xfe\n"
    body = text + "".join(f"a/{number}.png,größe\n" for number in range(30)).encode()
    with pytest.raises(DatasetError, match=r"labels\.csv is UTF-8, but damaged at byte \d+"):
        scan(write_table(table, body))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label\na/000.png," + "x" * 1_100_000 + "\n", r"field larger than field limit \(1048576\)"),
        ("path,label\n" + "," * 5_000_000, r"the row at line 2 has more than 4,194,304 characters"),
        ("path,label\n" + "," * 200_000, r"line 2 has 200,001 cells; the most is 100,000"),
        ("path,label\na/000.png" + ',"x\n"' * 1_500_000, r"the row at line [\d,]+ has more than 4,194,304 characters"),
        ("x" * 5_000_000, r"the row at line 1 has more than 4,194,304 characters"),
    ],
)
def test_rows_without_end_are_rejected(table: Path, text: str, reason: str):
    with pytest.raises(DatasetError, match=rf"labels\.csv cannot be read: {reason}\.$"):
        scan(write_table(table, text))


def test_a_row_without_end_far_below_is_rejected(table: Path):
    text = FOUR + "a/002.png,cat\n" * 2000 + "b/002.png," + "y" * 1_100_000
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read: field larger"):
        scan(write_table(table, text))


def test_a_table_with_thousands_of_columns_is_read(table: Path):
    header = ",".join(["path", "label", *(f"column{number}" for number in range(3000))])
    lines = [f"{line}{',7' * 3000}\n" for line in FOUR.splitlines()[1:]]
    assert rows(scan(write_table(table, "\n".join([header, *lines])))) == EXPECTED


def test_a_pipe_in_a_row_is_not_opened(table: Path):
    os.mkfifo(table.parent / "a" / "pipe.png")
    dataset = scan(write_table(table, FOUR + "a/pipe.png,cat\n"))
    assert findings_by_kind(dataset)["missing"][1] == ("a/pipe.png",)


@pytest.mark.parametrize("name", ["table.csv", "set.zip", "set.parquet", "photos"])
def test_a_pipe_in_place_of_the_data_is_not_opened(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DatasetError, match="is neither a file nor a folder, but a named pipe or a device"):
        scan(tmp_path / name)


def test_a_device_in_place_of_the_data_is_not_opened():
    with pytest.raises(DatasetError, match="/dev/zero is neither a file nor a folder"):
        scan(Path("/dev/zero"))


def test_a_table_with_the_apostrophes_of_a_spreadsheet_is_read_as_it_was(table: Path):
    (table.parent / "-a.png").write_bytes((table.parent / "a/000.png").read_bytes())
    text = "path,label\n'-a.png,'=cat\na/001.png,'=cat\nb/000.png,dog\nb/001.png,''tis\n"
    assert rows(scan(write_table(table, text))) == {
        "-a.png": "=cat",
        "a/001.png": "=cat",
        "b/000.png": "dog",
        "b/001.png": "''tis",
    }
