"""Parquet files in the Hugging Face layout, written with pyarrow."""

import json
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.tables import parquet_rows

ROOT = Path(__file__).parents[4]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LABEL = {"names": ["cat", "dog"], "_type": "ClassLabel"}


def images(count: int, names: bool = True) -> pa.Array:
    values = [
        {"bytes": b"\x89PNG" + bytes([number]), "path": f"IMG_{number}.png" if names else None} for number in range(count)
    ]
    return pa.array(values, IMAGE)


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, group: int = 100) -> Path:
    """Write a file with the schema metadata of the `datasets` library."""
    table = pa.table(columns)
    if features is not None:
        metadata = {"info": {"features": {"image": {"_type": "Image"}} | features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def write_labeled(path: Path, labels: Sequence[Any], features: dict[str, Any] | None = None, **more: Any) -> Path:
    return write(path, {"image": images(len(labels)), "label": pa.array(labels), **more}, features)


def rows(dataset: Dataset) -> list[str]:
    return ["|".join(dataset.labels[label] for label in sample.labels) for sample in dataset.samples]


def findings_by_kind(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...], str]]:
    return {finding.kind: (finding.severity, finding.paths, finding.flag) for finding in dataset.findings}


def test_label_names_come_from_the_hugging_face_metadata(tmp_path: Path):
    dataset = scan(write_labeled(tmp_path / "train.parquet", [1, 0, 1], {"label": LABEL}))
    assert dataset.labels == ("cat", "dog")
    assert rows(dataset) == ["dog", "cat", "dog"]
    assert [sample.path for sample in dataset.samples] == ["train/0-IMG_0.png", "train/1-IMG_1.png", "train/2-IMG_2.png"]
    assert {sample.split for sample in dataset.samples} == {""}


def test_order_of_the_label_names_is_kept(tmp_path: Path):
    names = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    assert scan(write_labeled(tmp_path / "a.parquet", [0, 1], names)).labels == ("zebra", "ant")


def test_file_without_a_split_next_to_others_is_an_error(tmp_path: Path):
    write_labeled(tmp_path / "train.parquet", [0, 1], {"label": LABEL})
    write_labeled(tmp_path / "test.parquet", [0], {"label": LABEL})
    write_labeled(tmp_path / "more.parquet", [1], {"label": LABEL})
    assert findings_by_kind(scan(tmp_path)) == {"no-split": ("error", ("more/0-IMG_0.png",), "")}


def test_bytes_come_from_the_right_row_group(tmp_path: Path):
    file = write(tmp_path / "a.parquet", {"image": images(10), "label": pa.array([0, 1] * 5)}, {"label": LABEL}, group=3)
    dataset = scan(file)
    assert [dataset.read(sample)[-1] for sample in reversed(dataset.samples)] == list(range(9, -1, -1))
    assert dataset.source.head(dataset.samples[7].path) == b"\x89PNG\x07"


def test_path_without_a_file_name_is_the_row(tmp_path: Path):
    dataset = scan(write(tmp_path / "a.parquet", {"image": images(2, names=False), "label": pa.array(["x", "y"])}))
    assert [sample.path for sample in dataset.samples] == ["a/0", "a/1"]
    assert dataset.read(dataset.samples[1]) == b"\x89PNG\x01"


@pytest.mark.parametrize("name", ["../../x.png", "C:\\x.png", "1-2/3-4.png"])
def test_malicious_file_names_are_harmless(tmp_path: Path, name: str):
    column = pa.array([{"bytes": b"one", "path": name}, {"bytes": b"two", "path": name}], IMAGE)
    dataset = scan(write(tmp_path / "a.parquet", {"image": column, "label": pa.array(["x", "y"])}))
    assert [dataset.read(sample) for sample in dataset.samples] == [b"one", b"two"]
    assert all(sample.path.count("/") == 1 for sample in dataset.samples)


def test_shards_in_a_folder_are_one_data_set_with_splits(tmp_path: Path):
    write_labeled(tmp_path / "data/train-00000-of-00002.parquet", [0, 1], {"label": LABEL})
    write_labeled(tmp_path / "data/train-00001-of-00002.parquet", [1, 0], {"label": LABEL})
    write_labeled(tmp_path / "data/test-00000-of-00001.parquet", [1], {"label": LABEL})
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---")
    dataset = scan(tmp_path)
    assert Counter(sample.split for sample in dataset.samples) == {"train": 4, "test": 1}
    assert [dataset.read(sample)[-1] for sample in dataset.samples] == [0, 0, 1, 0, 1]


def test_folder_names_are_splits_if_file_names_are_numbers(tmp_path: Path):
    write_labeled(tmp_path / "default/train/0000.parquet", [0, 1], {"label": LABEL})
    write_labeled(tmp_path / "default/validation/0000.parquet", [0, 1], {"label": LABEL})
    assert Counter(sample.split for sample in scan(tmp_path).samples) == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["dog", "cat"]), ("cat", "dog")),
        (pa.array(["dog", "cat"]).dictionary_encode(), ("cat", "dog")),
        (pa.array([10, 9], pa.uint8()), ("9", "10")),
        (pa.array(["dog", "cat"], pa.large_string()), ("cat", "dog")),
    ],
)
def test_labels_can_be_strings_or_unnamed_integers(tmp_path: Path, labels: pa.Array, expected: tuple[str, ...]):
    assert scan(write(tmp_path / "a.parquet", {"image": images(2), "label": labels})).labels == expected


@pytest.mark.parametrize(
    "about",
    [
        {"feature": LABEL, "_type": "Sequence"},
        {"feature": LABEL, "_type": "List"},
        [LABEL],
    ],
)
def test_lists_of_labels_are_multi_label(tmp_path: Path, about: Any):
    column = pa.array([[1, 0], [], [1]], pa.list_(pa.int64()))
    dataset = scan(write(tmp_path / "a.parquet", {"image": images(3), "labels": column}, {"labels": about}))
    assert dataset.multilabel
    assert rows(dataset) == ["cat|dog", "", "dog"]


def test_lists_of_strings_are_multi_label(tmp_path: Path):
    dataset = scan(write(tmp_path / "a.parquet", {"image": images(2), "tags": pa.array([["b", "a", "b"], []])}))
    assert (dataset.labels, rows(dataset)) == (("a", "b"), ["a|b", ""])


def test_plain_column_of_bytes_is_an_image_column(tmp_path: Path):
    file = write(tmp_path / "a.parquet", {"picture": pa.array([b"one", b"two"]), "label": pa.array(["x", "y"])})
    dataset = scan(file)
    assert dataset.read(dataset.samples[1]) == b"two"


@pytest.mark.parametrize("labels", [[0, -1, 1], [0, None, 1]])
def test_row_without_a_label_is_an_error(tmp_path: Path, labels: list[int | None]):
    dataset = scan(write_labeled(tmp_path / "a.parquet", labels, {"label": LABEL}))
    assert findings_by_kind(dataset) == {"no-label": ("error", ("a/1-IMG_1.png",), "--skip-bad")}


def test_label_without_a_name_is_rejected(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"a/2-IMG_2\.png has the label 2, but the file names only 2 labels"):
        scan(write_labeled(tmp_path / "a.parquet", [0, 1, 2], {"label": LABEL}))


def test_unused_label_is_excluded_with_a_warning(tmp_path: Path):
    names = {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}
    dataset = scan(write_labeled(tmp_path / "a.parquet", [0, 1], names))
    assert dataset.labels == ("cat", "dog")
    [finding] = dataset.findings
    assert (finding.kind, finding.severity) == ("unused-label", "warning")
    assert finding.text.endswith("(1): emu")


def test_split_and_group_columns_are_used(tmp_path: Path):
    file = write_labeled(
        tmp_path / "a.parquet",
        ["x", "y", "x", "y"],
        split=pa.array(["train", "train", "test", "test"]),
        group=pa.array([1, 2, 1, 2]),
    )
    dataset = scan(file)
    assert [sample.split for sample in dataset.samples] == ["train", "train", "test", "test"]
    groups = [sample.group for sample in dataset.samples]
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_any_column_can_be_the_group_column(tmp_path: Path):
    file = write_labeled(tmp_path / "a.parquet", ["x", "y", "x"], patient=pa.array(["p", "q", "p"]))
    groups = [sample.group for sample in scan(file, ReadOptions(group_by="patient")).samples]
    assert groups[0] == groups[2] != groups[1]
    with pytest.raises(DatasetError, match=r"no such column, only image, label, patient\."):
        scan(file, ReadOptions(group_by="doctor"))


def test_group_by_regex_matches_original_file_names(tmp_path: Path):
    groups = [
        s.group for s in scan(write_labeled(tmp_path / "a.parquet", ["x", "y"]), ReadOptions(group_by=r"IMG_(\d)")).samples
    ]
    assert groups[0] != groups[1] != b""


def test_column_named_label_is_preferred(tmp_path: Path):
    file = write_labeled(tmp_path / "a.parquet", ["x", "y"], caption=pa.array(["one", "two"]))
    assert scan(file).labels == ("x", "y")


def test_ambiguous_columns_are_rejected_with_all_columns(tmp_path: Path):
    columns = {"img": images(2), "fine_label": pa.array([0, 1]), "coarse_label": pa.array([0, 1])}
    with pytest.raises(DatasetError, match=r"several candidates: fine_label, coarse_label.*img \(struct"):
        scan(write(tmp_path / "a.parquet", columns))


def test_file_without_images_is_rejected_with_its_columns(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"one image column, but has none.*Columns: label \(int64\)"):
        scan(write(tmp_path / "a.parquet", {"label": pa.array([0, 1])}))


def test_shards_with_different_schemas_are_rejected(tmp_path: Path):
    write_labeled(tmp_path / "train-0.parquet", [0, 1], {"label": LABEL})
    write_labeled(tmp_path / "train-1.parquet", [0, 1], {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}})
    with pytest.raises(DatasetError, match=r"train-1\.parquet has different columns or label names"):
        scan(tmp_path)


def test_row_without_image_bytes_is_named(tmp_path: Path):
    column = pa.array([{"bytes": b"one", "path": "1.png"}, {"bytes": None, "path": "/home/somebody/2.png"}], IMAGE)
    dataset = scan(write(tmp_path / "a.parquet", {"image": column, "label": pa.array(["x", "y"])}))
    with pytest.raises(DatasetError, match=r"a/1-2\.png cannot be read: its row has no image bytes"):
        dataset.read(dataset.samples[1])


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"PAR1" + bytes(100), lambda _: b""])
def test_damaged_file_is_named(tmp_path: Path, damage):
    file = write_labeled(tmp_path / "a.parquet", ["x", "y"])
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"a\.parquet is not a readable Parquet file"):
        scan(file)


def test_image_in_a_damaged_page_is_named(tmp_path: Path):
    file = write_labeled(tmp_path / "a.parquet", ["x", "y"])
    dataset = scan(file)
    content = bytearray(file.read_bytes())
    content[4:60] = bytes(56)
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a/0-IMG_0\.png cannot be read"):
        dataset.read(dataset.samples[0])


def test_parquet_in_a_zip_is_rejected(tmp_path: Path):
    import zipfile

    write_labeled(tmp_path / "a.parquet", ["x", "y"])
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "data/a.parquet")
    with pytest.raises(DatasetError, match=r"set\.zip contains Parquet files: extract them first"):
        scan(tmp_path / "set.zip")


def test_concurrent_reads_load_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write(tmp_path / "a.parquet", {"image": images(40), "label": pa.array([0, 1] * 20)}, {"label": LABEL}, group=10)
    dataset, read, loaded = scan(file), [], []
    decode = parquet_rows._RowGroup._decode
    monkeypatch.setattr(parquet_rows._RowGroup, "_decode", lambda group: loaded.append(group) or decode(group))

    def work(start: int) -> None:
        read.extend(dataset.read(sample)[-1] for sample in dataset.samples[start::4])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == list(range(40))
    assert len(loaded) == 4


def repeated(value: object, n_rows: int, kind: pa.DataType) -> pa.Array:
    """A column that repeats one value, which the file holds once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * n_rows, pa.int32()), pa.array([value], kind))


def write_repeated(file: Path, columns: dict[str, pa.Array]) -> Path:
    """Writes dictionaries of any size, without Arrow's own types, so that a reader expands them."""
    settings = {"use_dictionary": True, "compression": "zstd", "dictionary_pagesize_limit": 2**30, "store_schema": False}
    pq.write_table(pa.table(columns), file, **settings)
    return file


def test_an_image_that_is_repeated_a_thousand_times_does_not_fill_the_memory(tmp_path: Path):
    image, n_rows = b"\x89PNG" + bytes(30 * 2**20), 1000
    labels = pa.array(["x", "y"] * (n_rows // 2))
    file = write_repeated(tmp_path / "a.parquet", {"image": repeated(image, n_rows, pa.binary()), "label": labels})
    assert file.stat().st_size < 20_000
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from graft.training.data.dataset import DatasetError, scan\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))  # 1,000 copies are 30 GiB\n"
        "dataset, errors = scan(Path(sys.argv[1])), []\n"
        "for sample in dataset.samples:\n"
        "    try: dataset.read(sample)\n"
        "    except DatasetError as error: errors.append(str(error))\n"
        "print(len(errors), errors[0])"
    )
    output = subprocess.check_output([sys.executable, "-c", program, str(file)], text=True, cwd=ROOT)
    n_errors, message = output.split(" ", 1)
    assert 900 < int(n_errors) < 1000
    assert "its row group decodes to more than 1,073,741,824 bytes: no set of images compresses that well" in message


def test_a_long_label_in_a_dictionary_is_rejected_before_it_is_repeated(tmp_path: Path):
    columns = {"image": pa.array([b"\x89PNG"] * 2000), "label": repeated("x" * 100_000, 2000, pa.string())}
    with pytest.raises(DatasetError, match=r"a\.parquet has a label or name of 100,000 bytes; the most is 65,536"):
        scan(write_repeated(tmp_path / "a.parquet", columns))


def test_a_long_label_in_a_list_is_rejected(tmp_path: Path):
    labels = pa.array([["x" * 70_000, "y"], ["y"]])
    file = write(tmp_path / "a.parquet", {"image": images(2), "label": labels})
    with pytest.raises(DatasetError, match="a label or name of 70,000 bytes"):
        scan(file)


def test_more_rows_than_images_fit_in_the_file_are_rejected(tmp_path: Path):
    n_rows = 400_000
    labels = repeated("x", n_rows, pa.string())
    file = write_repeated(tmp_path / "a.parquet", {"image": repeated(b"\xff\xd8\xff", n_rows, pa.binary()), "label": labels})
    with pytest.raises(DatasetError, match=r"a\.parquet declares 400,000 rows in [\d,]+ bytes: those cannot be images"):
        scan(file)


def test_rows_that_were_dropped_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_rows, "MAX_CURRENT_BYTES", 20)  # of 40 images with 5 bytes
    dataset = scan(write(tmp_path / "a.parquet", {"image": images(40), "label": pa.array([0, 1] * 20)}, {"label": LABEL}))
    order = [39, 0, 1, 20, 38, 2, 2, 39]
    assert [dataset.read(dataset.samples[row])[-1] for row in order] == order


def test_a_wide_table_is_described_in_one_line(tmp_path: Path):
    columns = {f"column {number}": pa.array(["x", "y"]) for number in range(3000)}
    file = write(tmp_path / "a.parquet", {"image": images(2), **columns})
    with pytest.raises(DatasetError) as caught:
        scan(file)
    assert "3,001 in all" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_source_can_be_pickled_after_use(tmp_path: Path):
    dataset = scan(write_labeled(tmp_path / "a.parquet", ["x", "y"]))
    dataset.read(dataset.samples[0])
    again = pickle.loads(pickle.dumps(dataset.source))  # noqa: S301 - trusted bytes
    assert again.read("a/1-IMG_1.png") == b"\x89PNG\x01"


def test_missing_pyarrow_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_labeled(tmp_path / "a.parquet", ["x", "y"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"pip install 'graft-vision\[parquet\]'"):
        scan(file)


def test_pyarrow_is_imported_lazily():
    program = "import sys, graft.training.data.dataset; print('pyarrow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).strip() == "False"
