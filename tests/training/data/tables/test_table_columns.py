"""Tables as Kaggle, Hugging Face, Roboflow, fastai, pandas, Excel and Windows write them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, scan

Write = Callable[..., Path]


@pytest.fixture
def write(make_folder) -> Write:
    """Write a table beside the folders a and b, each with the images 000.png and 001.png."""
    root = make_folder({"a": 2, "b": 2})

    def written(text: str | bytes, name: str = "data.csv") -> Path:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return root / name

    return written


def rows(dataset: Dataset) -> dict[str, str]:
    return {sample.path: "|".join(dataset.labels[label] for label in sample.labels) for sample in dataset.samples}


def splits(dataset: Dataset) -> dict[str, str]:
    return {sample.path: sample.split for sample in dataset.samples}


def found(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.paths for finding in dataset.findings}


BODY = "a/000.png,cat\na/001.png,cat\nb/000.png,dog\nb/001.png,dog\n"
EXPECTED = {"a/000.png": "cat", "a/001.png": "cat", "b/000.png": "dog", "b/001.png": "dog"}


@pytest.mark.parametrize(
    "header",
    [
        "image,label",
        "file_name,label",
        "filename,class",
        "Image Index,Finding Labels",
        "image_path,category",
        "id,breed",
        "img,tags",
        "image_name,target",
        "image_id,diagnosis",
        "File,Species",
        "path,labels",
        "picture,anything else",
    ],
)
def test_usual_names_of_columns_are_understood(write: Write, header: str):
    dataset = scan(write(f"{header}\n{BODY}"))
    assert (rows(dataset), dataset.multilabel, dataset.findings) == (EXPECTED, False, ())


def test_layout_names_the_columns(write: Write):
    layout = scan(write("image_id,breed,set\na/000.png,cat,train\nb/000.png,dog,train\nb/001.png,dog,test\n")).layout
    assert layout == "data.csv: images from image_id, labels from breed, split from set; one label per image"


def test_table_without_a_header_is_read(write: Write):
    assert rows(scan(write(BODY))) == EXPECTED
    assert rows(scan(write("".join(f"{line.split(',')[1]};{line.split(',')[0]}\n" for line in BODY.splitlines())))) == EXPECTED


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "index"])
def test_row_numbers_of_pandas_are_ignored(write: Write, index: str):
    lines = "".join(f"{number},{line}\n" for number, line in enumerate(BODY.splitlines()))
    assert rows(scan(write(f"{index},image,species\n{lines}"))) == EXPECTED


def test_columns_can_be_named(write: Write):
    lines = "".join(f"{line},{line.split(',')[0]},x{number % 2}\n" for number, line in enumerate(BODY.splitlines()))
    table = write(f"photo,label,folder,age\n{lines}")
    options = ReadOptions(path_column="photo", label_column="age")
    assert list(rows(scan(table, options)).values()) == ["x0", "x1", "x0", "x1"]
    with pytest.raises(
        DatasetError, match=r"--label-column sex: the table has no such column; its columns are photo, label, folder, age"
    ):
        scan(table, ReadOptions(label_column="sex"))


def test_names_win_over_numbers_that_say_the_same(write: Write):
    body = BODY.replace("cat", "0,cat").replace("dog", "1,dog")
    assert rows(scan(write(f"image,class_id,class_name\n{body}"))) == EXPECTED


def test_two_different_label_columns_are_refused(write: Write):
    body = "a/000.png,pug,dog\na/001.png,husky,dog\nb/000.png,manx,cat\nb/001.png,manx,cat\n"
    with pytest.raises(DatasetError, match=r"several columns may have the labels: breed, species\..*--label-column NAME"):
        scan(write(f"image,breed,species\n{body}"))
    assert set(rows(scan(write(f"image,breed,species\n{body}"), ReadOptions(label_column="species"))).values()) == {
        "cat",
        "dog",
    }


@pytest.mark.parametrize("folder", ["", "a"])
def test_names_without_a_suffix_are_searched_in_all_folders(make_folder, folder: str):
    root = make_folder({"train_images/a": 1, "train_images/b": 1})
    (root / "train_images/a/000.png").rename(root / "train_images/a/x17.png")
    table = root / "labels.csv"
    table.write_text("id,breed\nx17,pug\n000,husky\n")
    assert rows(scan(table)) == {"train_images/a/x17.png": "pug", "train_images/b/000.png": "husky"}


def test_suffix_can_be_given(write: Write):
    assert rows(scan(write("id,label\n" + BODY.replace(".png", "")), ReadOptions(suffix=".png"))) == EXPECTED


def test_name_in_several_folders_is_an_error_with_its_row(write: Write):
    dataset = scan(write(f"image,label\n{BODY}001,cat\n"))
    assert found(dataset) == {"ambiguous-file": ("001",)}
    assert "001 (line 6)" in dataset.findings[0].text


def test_copies_of_a_file_are_not_ambiguous(write: Write):
    table = write(f"image,label\n{BODY}")
    for folder in ("HAM_part_1", "ham_part_1"):
        (table.parent / folder).mkdir()
        (table.parent / folder / "x.png").write_bytes((table.parent / "a/000.png").read_bytes())
    dataset = scan(write(f"image,label\n{BODY}x,cat\n"))
    assert rows(dataset)["HAM_part_1/x.png"] == "cat"


@pytest.mark.parametrize("prefix", ["C:\\photos\\", "/home/me/photos/", "data/photos/", "..\\photos\\"])
def test_paths_that_begin_above_the_table_are_found_below_it(write: Write, prefix: str):
    separator = "\\" if "\\" in prefix else "/"
    body = "".join(f"{prefix}{line.replace('/', separator)}\n" for line in BODY.splitlines())
    assert rows(scan(write(f"image,label\n{body}"))) == EXPECTED


def test_absolute_paths_below_the_table_are_read(write: Write):
    table = write("")
    body = "".join(f"{table.parent}/{line}\n" for line in BODY.splitlines())
    assert rows(scan(write(f"image,label\n{body}"))) == EXPECTED


def test_file_of_the_same_name_in_another_folder_is_not_taken(write: Write):
    dataset = scan(write(f"image,label\n{BODY}c/000.png,cat\n"))
    assert found(dataset) == {"missing": ("c/000.png",)}


def test_path_with_another_beginning_than_the_others_is_not_taken(write: Write):
    body = "".join(f"photos/{line}\n" for line in BODY.splitlines())
    dataset = scan(write(f"image,label\n{body}others/a/000.png,dog\n"))
    assert (rows(dataset), found(dataset)) == (EXPECTED, {"missing": ("others/a/000.png",)})


ONE_HOT = "image,cat,dog\na/000.png,1,0\na/001.png,1,0\nb/000.png,0,1\nb/001.png,0,1\n"


@pytest.mark.parametrize("zero_one", [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("-1", "1"), ("", "1")])
def test_columns_of_zero_and_one_are_labels(write: Write, zero_one: tuple[str, str]):
    zero, one = zero_one
    text = ONE_HOT.replace(",0", ",zero").replace(",1", ",one").replace("zero", zero).replace(",one", f",{one}")
    dataset = scan(write(text))
    assert (rows(dataset), dataset.multilabel) == (EXPECTED, False)
    assert dataset.layout.endswith("labels from 2 columns of 0 and 1; one label per image")


@pytest.mark.parametrize(("row", "labels"), [("1,1", "cat|dog"), ("0,0", "")])
def test_columns_of_zero_and_one_are_multi_label_by_what_they_hold(write: Write, row: str, labels: str):
    dataset = scan(write(ONE_HOT.replace("b/001.png,0,1", f"b/001.png,{row}")))
    assert dataset.multilabel
    assert rows(dataset) == EXPECTED | {"b/001.png": labels}


def test_cell_that_is_neither_zero_nor_one_is_an_error_with_its_row(write: Write):
    dataset = scan(write(ONE_HOT.replace("b/001.png,0,1", "b/001.png,0,2")), ReadOptions(label_column="cat,dog"))
    assert found(dataset) == {"bad-label": ("b/001.png",)}
    assert "b/001.png (line 5): '2' is neither 0 nor 1" in dataset.findings[0].text


@pytest.mark.parametrize(
    ("header", "separator"),
    [("tags", " "), ("tags", ", "), ("label", ","), ("labels", ";"), ("label", "|"), ("attribute_ids", " ")],
)
def test_several_labels_in_a_cell_are_separated(write: Write, header: str, separator: str):
    tags = [["haze"], ["haze", "road"], ["road", "sea"], ["sea", "haze"]]
    body = "".join(f'{path},"{separator.join(names)}"\n' for path, names in zip(EXPECTED, tags, strict=True))
    dataset = scan(write(f"image,{header}\n{body}"))
    assert list(rows(dataset).values()) == ["haze", "haze|road", "road|sea", "haze|sea"]
    assert dataset.multilabel


def test_lists_of_pandas_are_several_labels(write: Write):
    body = "a/000.png,\"['cat', 'sea lion']\"\na/001.png,['cat']\nb/000.png,[]\n"
    assert list(rows(scan(write(f"image,tags\n{body}"))).values()) == ["cat|sea lion", "cat", ""]


@pytest.mark.parametrize("header", ["label", "tags", "classes"])
def test_labels_of_several_words_stay_whole(write: Write, header: str):
    names = ["golden retriever", "great dane", "sea lion", "flat-coated retriever"]
    body = "".join(f"{path},{name}\n" for path, name in zip(EXPECTED, names, strict=True))
    dataset = scan(write(f"image,{header}\n{body}"))
    assert (list(rows(dataset).values()), dataset.multilabel) == (names, False)


def test_label_with_a_comma_stays_whole(write: Write):
    body = 'a/000.png,"canis, lupus"\nb/000.png,"felis, catus"\n'
    assert list(rows(scan(write(f"image,label\n{body}"))).values()) == ["canis, lupus", "felis, catus"]


def test_excel_separator_line_is_skipped(write: Write):
    assert rows(scan(write("sep=;\r\nimage;label\r\n" + BODY.replace(",", ";")))) == EXPECTED


@pytest.mark.parametrize("name", ["set", "subset", "Usage", "partition", "phase", "split"])
def test_usual_names_of_split_columns_are_understood(write: Write, name: str):
    body = "".join(f"{line},{'Training' if number % 2 else 'Test'}\n" for number, line in enumerate(BODY.splitlines()))
    expected = {"a/000.png": "test", "a/001.png": "train", "b/000.png": "test", "b/001.png": "train"}
    assert splits(scan(write(f"image,label,{name}\n{body}"))) == expected


def test_column_that_only_is_called_like_splits_is_ignored(write: Write):
    body = "".join(f"{line},lens {number}\n" for number, line in enumerate(BODY.splitlines()))
    assert set(splits(scan(write(f"image,label,set\n{body}"))).values()) == {""}


@pytest.mark.parametrize(("name", "flagged", "other"), [("is_valid", "test", "train"), ("is_train", "train", "test")])
def test_flag_of_a_split_is_understood(write: Write, name: str, flagged: str, other: str):
    body = "".join(f"{line},{number % 2 == 0}\n" for number, line in enumerate(BODY.splitlines()))
    assert list(splits(scan(write(f"fname,labels,{name}\n{body}"))).values()) == [flagged, other, flagged, other]


def test_fold_column_makes_one_fold_the_test_set(write: Write):
    body = "".join(f"{line},{number % 2 + 1}\n" for number, line in enumerate(BODY.splitlines()))
    table = write(f"image,label,kfold\n{body}")
    assert list(splits(scan(table)).values()) == ["train", "test", "train", "test"]
    assert list(splits(scan(table, ReadOptions(fold=1))).values()) == ["test", "train", "test", "train"]


def test_web_addresses_are_refused(write: Write):
    with pytest.raises(DatasetError, match="Graft fetches nothing"):
        scan(write("image,label\nhttps://example.org/1.jpg,cat\nhttps://example.org/2.jpg,dog\n"))


def test_table_without_files_says_so_with_its_columns(write: Write):
    with pytest.raises(DatasetError, match=r"no column has the names of image files: the columns are x, y\."):
        scan(write("x,y\n1,2\n3,4\n"))


def test_table_beside_images_without_label_folders_is_read(make_folder):
    root = make_folder({"images": 4})
    (root / "train.csv").write_text("id,breed\n000,pug\n001,husky\n002,pug\n003,husky\n")
    assert rows(scan(root)) == {f"images/{n:03d}.png": breed for n, breed in enumerate(["pug", "husky"] * 2)}


def test_tables_of_splits_are_splits_and_one_without_labels_is_passed_over(make_folder):
    root = make_folder({"train": 4, "val": 2, "test": 3})
    (root / "train.csv").write_text("id,label\n000,pug\n001,husky\n002,pug\n003,husky\n")
    (root / "val.csv").write_text("id,label\n000,pug\n001,husky\n")
    (root / "test.csv").write_text("id\n000\n001\n")
    (root / "sample_submission.csv").write_text("id,label\n000,pug\n001,pug\n")
    dataset = scan(root)
    assert splits(dataset) == {f"train/{n:03d}.png": "train" for n in range(4)} | {f"val/{n:03d}.png": "test" for n in range(2)}
    assert found(dataset)["unused-table"] == ("sample_submission.csv", "test.csv")


def test_table_in_the_folder_of_each_split_is_read(make_folder):
    root = make_folder({"train": 2, "valid": 2, "test": 2})
    for split in ("train", "valid", "test"):
        (root / split / "_classes.csv").write_text("filename, ant, bee\n000.png, 1, 0\n001.png, 1, 1\n")
    dataset = scan(root)
    assert dataset.multilabel
    assert splits(dataset)["valid/000.png"] == "validation"
    assert rows(dataset) == {
        f"{split}/{name}.png": labels
        for split in ("test", "train", "valid")
        for name, labels in (("000", "ant"), ("001", "ant|bee"))
    }


def test_several_tables_without_splits_are_refused(make_folder):
    root = make_folder({"images": 2})
    for name in ("one.csv", "two.csv"):
        (root / name).write_text("id,label\n000,pug\n001,husky\n")
    with pytest.raises(DatasetError, match=r"several tables with labels: one\.csv, two\.csv"):
        scan(root)


def test_label_folders_win_over_a_table(make_folder):
    root = make_folder({"cat": 2, "dog": 2})
    (root / "meta.csv").write_text("image,label\ncat/000.png,x\ndog/000.png,y\n")
    dataset = scan(root)
    assert dataset.labels == ("cat", "dog")
    assert dataset.n_ignored == 1


def test_table_wins_over_folders_that_are_no_labels(make_folder):
    root = make_folder({"images": 2, "masks": 2})
    (root / "labels.csv").write_text("image,label\nimages/000.png,x\nimages/001.png,y\n")
    assert rows(scan(root)) == {"images/000.png": "x", "images/001.png": "y"}


def test_table_in_an_archive_is_read(make_folder, tmp_path: Path):
    import shutil

    root = make_folder({"images": 2})
    (root / "labels.csv").write_text("id,label\n000,pug\n001,husky\n")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", root))
    dataset = scan(archive)
    assert rows(dataset) == {"images/000.png": "pug", "images/001.png": "husky"}
    assert dataset.read(dataset.samples[0]) == (root / "images/000.png").read_bytes()
