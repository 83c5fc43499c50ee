"""Which folders are splits, folds and labels. The layouts are those of well-known data sets."""

from collections import Counter

import pytest

from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, scan


def counts(dataset: Dataset) -> dict[str, int]:
    """Images by split and label, such as "train/ants"."""
    return dict(Counter(f"{sample.split}/{dataset.labels[sample.label]}".lstrip("/") for sample in dataset.samples))


def found(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.paths for finding in dataset.findings}


TRAIN_AND_TEST = {"train/ants": 3, "train/bees": 2, "test/ants": 1, "test/bees": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("Train", "Test"),
        ("train2017", "val2017"),
        ("TrainingSet", "TestSet"),
        ("trainset", "validset"),
        ("imgs-train", "imgs-eval"),
        ("data/raw/Training Images", "data/raw/Testing Images"),
        ("training_data/images", "testing_data/images"),
        ("cifar_train_images", "cifar_dev_images"),
        ("rps/rps", "rps-test-set/rps-test-set"),
    ],
)
def test_folders_named_like_splits_are_never_labels(make_folder, train: str, test: str):
    dataset = scan(make_folder({f"{train}/ants": 3, f"{train}/bees": 2, f"{test}/ants": 1, f"{test}/bees": 1}))
    assert counts(dataset) == TRAIN_AND_TEST
    assert dataset.findings == ()


def test_layout_says_what_was_understood(make_folder):
    dataset = scan(make_folder({"seg_train/ants": 3, "seg_train/bees": 2, "seg_test/ants": 1, "seg_test/bees": 1}))
    assert dataset.layout == "split/label (seg_test is test, seg_train is train)"


def test_three_named_splits_are_kept_and_eval_is_validation_beside_test(make_folder):
    folders = {f"{split}/{label}": 2 for split in ("train", "eval", "test") for label in ("ants", "bees")}
    assert {sample.split for sample in scan(make_folder(folders)).samples} == {"train", "validation", "test"}


@pytest.mark.parametrize("unlabeled", ["seg_pred/seg_pred", "single_prediction", "test1", "unlabeled/images"])
def test_unlabeled_split_is_passed_over_with_a_note(make_folder, unlabeled: str):
    dataset = scan(
        make_folder({"seg_train/ants": 3, "seg_train/bees": 2, "seg_test/ants": 1, "seg_test/bees": 1, unlabeled: 4})
    )
    assert counts(dataset) == TRAIN_AND_TEST
    assert found(dataset)["unlabeled-split"][0].startswith(unlabeled.partition("/")[0])
    assert dataset.layout.endswith(f"; not used: {found(dataset)['unlabeled-split'][0]}")


@pytest.mark.parametrize("test", ["test", "test/unknown", "test1/test1", "test/images"])
def test_training_split_beside_an_unlabeled_test_split_is_split_by_graft(make_folder, test: str):
    dataset = scan(make_folder({"train/ants": 3, "train/bees": 2, test: 4}))
    assert counts(dataset) == {"ants": 3, "bees": 2}
    assert list(found(dataset)) == ["unlabeled-split"]


@pytest.mark.parametrize(
    "folders",
    [
        {"train": 3, "test": 2},
        {"train/images": 3, "valid/images": 2},
        {"training_set/training_set": 3, "test_set/test_set": 2},
        {"part_1": 3, "part_2": 3},
        {"HAM_images_part_1": 3, "HAM_images_part_2": 3},
        {"fold1": 3, "fold2": 3, "fold3": 2},
    ],
)
def test_flat_folders_named_like_splits_are_refused(make_folder, folders: dict[str, int]):
    with pytest.raises(DatasetError, match=r"by (?:their|its) names?, but ha(?:s|ve) no label folders"):
        scan(make_folder(folders))


@pytest.mark.parametrize(
    "labels",
    [
        ("train", "bus"),
        ("steam train", "freight train", "bus"),
        ("pregnancy test", "blood sample"),
        ("steam train", "crash test"),
        ("class1", "class2"),
        ("person01", "person02"),
        ("0", "1", "2"),
        ("A", "B"),
        ("invalid", "valid"),
    ],
)
def test_labels_that_resemble_splits_stay_labels(make_folder, labels: tuple[str, ...]):
    assert scan(make_folder(dict.fromkeys(labels, 2))).labels == tuple(sorted(labels))


@pytest.mark.parametrize("copies", [("amazon", "dslr", "webcam"), ("camera1", "camera2"), ("x", "y"), ("part_1", "part_2")])
def test_top_folders_with_the_same_subfolders_are_not_labels(make_folder, copies: tuple[str, ...]):
    dataset = scan(make_folder({f"{top}/{label}": 2 for top in copies for label in ("bike", "desk", "lamp")}))
    assert counts(dataset) == {label: 2 * len(copies) for label in ("bike", "desk", "lamp")}
    assert dataset.layout == f"*/label ({len(copies)} folders with the same subfolders, read as one)"


def test_nearly_the_same_subfolders_are_labels_too(make_folder):
    folders = {f"{top}/{label}": 1 for top in ("amazon", "dslr") for label in ("bike", "desk", "lamp", "mug")}
    del folders["dslr/mug"]
    assert scan(make_folder(folders)).labels == ("bike", "desk", "lamp", "mug")


def test_doubt_about_the_level_of_the_labels_is_a_warning_that_names_the_way_out(make_folder):
    folders = {f"{top}/{label}": 2 for top in ("amazon", "dslr") for label in ("bike", "desk")}
    [warning] = scan(make_folder(folders)).findings
    assert (warning.kind, warning.severity) == ("ambiguous-layout", "warning")
    assert "--layout label" in warning.text
    assert counts(scan(make_folder(folders), ReadOptions(layout="label"))) == {"amazon": 4, "dslr": 4}


def test_data_set_beside_other_folders_is_no_label(make_folder):
    folder = make_folder({f"casting/{name}": n for name, n in TRAIN_AND_TEST.items()} | {"big/ants": 1, "big/bees": 1})
    with pytest.raises(DatasetError, match=rf"casting holds a data set .*, beside big\. Did you mean {folder}/casting\?"):
        scan(folder)


@pytest.mark.parametrize("inner", [("2020", "2021"), ("images", "masks"), ("left", "right"), ("40X", "100X")])
def test_subfolders_that_say_nothing_are_no_labels(make_folder, inner: tuple[str, ...]):
    assert scan(make_folder({f"{label}/{name}": 2 for label in ("cat", "dog") for name in inner})).labels == ("cat", "dog")


def test_different_subfolders_are_details_of_their_label(make_folder):
    assert counts(scan(make_folder({"pets/cat": 2, "pets/dog": 2, "cars/bus": 2, "cars/van": 1}))) == {"cars": 3, "pets": 4}


def test_splits_can_be_inside_the_label_folders(make_folder):
    dataset = scan(make_folder({"ants/train": 3, "ants/test": 1, "bees/train": 2, "bees/test": 1}))
    assert counts(dataset) == TRAIN_AND_TEST
    assert dataset.layout.startswith("label/split")


def test_splits_can_be_inside_folders_of_sources(make_folder):
    folders = {f"{camera}/{name}": 1 for camera in ("left cam", "right cam") for name in TRAIN_AND_TEST}
    assert counts(scan(make_folder(folders))) == dict.fromkeys(TRAIN_AND_TEST, 2)


@pytest.mark.parametrize("pattern", ["fold{}", "Fold_{}", "data-fold-{}", "kfold {}"])
def test_last_fold_is_the_test_set_and_another_can_be_chosen(make_folder, pattern: str):
    folder = make_folder({f"{pattern.format(fold)}/{label}": fold for fold in (1, 2, 3) for label in ("ants", "bees")})
    assert counts(scan(folder)) == {"train/ants": 3, "train/bees": 3, "test/ants": 3, "test/bees": 3}
    assert counts(scan(folder, ReadOptions(fold=1))) == {"train/ants": 5, "train/bees": 5, "test/ants": 1, "test/bees": 1}
    assert scan(folder).layout == "fold/label; of the folds 1, 2, 3, fold 3 is the test set; --fold N selects another"


def test_fold_with_its_own_splits_is_used_alone(make_folder):
    folders = {f"fold{fold}/{name}": fold for fold in (1, 2) for name in TRAIN_AND_TEST}
    assert counts(scan(make_folder(folders), ReadOptions(fold=1))) == dict.fromkeys(TRAIN_AND_TEST, 1)


@pytest.mark.parametrize("fold", [0, 4])
def test_unknown_fold_is_refused_with_the_known_ones(make_folder, fold: int):
    folder = make_folder({f"fold{number}/{label}": 1 for number in (1, 2, 3) for label in ("ants", "bees")})
    with pytest.raises(DatasetError, match=rf"--fold {fold}: .* has the folds 1, 2, 3\."):
        scan(folder, ReadOptions(fold=fold))


def test_fold_without_folds_is_refused(make_folder):
    with pytest.raises(DatasetError, match=r"--fold 1: .* has no folds"):
        scan(make_folder({"ants": 2, "bees": 2}), ReadOptions(fold=1))


def test_copy_of_the_folders_in_one_of_them_is_passed_over(make_folder):
    folders = {"ants": 3, "bees": 2}
    dataset = scan(make_folder(folders | {f"insects/{name}": n for name, n in folders.items()}))
    assert counts(dataset) == folders
    assert found(dataset) == {"copied-folder": ("insects",)}


def test_copy_of_the_splits_in_one_of_them_is_passed_over(make_folder):
    dataset = scan(make_folder(TRAIN_AND_TEST | {f"chest_xray/{name}": n for name, n in TRAIN_AND_TEST.items()}))
    assert counts(dataset) == TRAIN_AND_TEST


@pytest.mark.parametrize(
    ("layout", "folders", "expected"),
    [
        ("label", {"train/a": 2, "test/a": 2}, {"train": 2, "test": 2}),
        ("split/label", {"learn train/a": 2, "learn train/b": 1, "test/a": 1}, {"train/a": 2, "train/b": 1, "test/a": 1}),
        ("*/label", {"a/x": 2, "b/y": 2}, {"x": 2, "y": 2}),
        ("label/*/split", {"a/1/train": 2, "a/1/test": 1, "b/1/train": 2}, {"train/a": 2, "test/a": 1, "train/b": 2}),
        ("fold/label", {"1/a": 2, "1/b": 2, "2/a": 1}, {"train/a": 2, "train/b": 2, "test/a": 1}),
    ],
)
def test_layout_option_overrides_what_is_found_out(make_folder, layout: str, folders: dict[str, int], expected: dict[str, int]):
    assert counts(scan(make_folder(folders), ReadOptions(layout=layout))) == expected


@pytest.mark.parametrize("layout", ["labels", "split/split/label", "split/ label", "/label", ""])
def test_layout_of_unknown_levels_is_refused(layout: str):
    with pytest.raises(ValueError, match="is not made of the levels split, fold, label"):
        ReadOptions(layout=layout)


def test_layout_without_a_label_level_is_refused(make_folder):
    with pytest.raises(DatasetError, match="--layout split has no label level"):
        scan(make_folder(TRAIN_AND_TEST), ReadOptions(layout="split"))


def name_images(make_folder, folders: dict[str, list[str]]):
    root = make_folder(dict.fromkeys(folders, 1))
    for folder, names in folders.items():
        encoded = (root / folder / "000.png").read_bytes()
        (root / folder / "000.png").unlink()
        for name in names:
            (root / folder / name).write_bytes(encoded)
    return root


def test_labels_can_be_in_file_names(make_folder):
    folder = name_images(make_folder, {"images": ["Abyssinian_1.png", "Abyssinian_2.png", "pug_1.png", "great_dane_7.png"]})
    dataset = scan(folder, ReadOptions(label_regex=r"([^/]+)_\d+\.png$"))
    assert counts(dataset) == {"Abyssinian": 2, "great_dane": 1, "pug": 1}


def test_labels_in_file_names_keep_the_splits_of_the_folders(make_folder):
    folder = name_images(
        make_folder,
        {"train": ["cat.0.png", "cat.1.png", "dog.0.png"], "valid": ["cat.7.png", "dog.8.png"]},
    )
    dataset = scan(folder, ReadOptions(label_regex=r"(cat|dog)\.\d+"))
    assert counts(dataset) == {"train/cat": 2, "train/dog": 1, "test/cat": 1, "test/dog": 1}


def test_file_name_without_a_label_is_an_error(make_folder):
    folder = name_images(make_folder, {".": ["cat.0.png", "dog.0.png", "odd.png"]})
    assert found(scan(folder, ReadOptions(label_regex=r"(cat|dog)\.\d+"))) == {"no-label-in-name": ("odd.png",)}


def test_label_regex_is_suggested_where_file_names_have_labels(make_folder):
    folder = name_images(make_folder, {"train": ["cat.0.png", "cat.1.png", "dog.0.png", "dog.1.png"], "test": ["1.png"]})
    with pytest.raises(
        DatasetError, match=r"labels are in the file names \(cat, dog, \.\.\.\), use --label-regex '(.*)'\."
    ) as error:
        scan(folder)
    pattern = str(error.value).split("--label-regex '")[1].split("'")[0]
    assert counts(scan(folder / "train", ReadOptions(label_regex=pattern))) == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(("pattern", "message"), [("cat(", "is not a valid regular expression"), ("cat", "has no group")])
def test_label_regex_must_be_valid_and_have_a_group(pattern: str, message: str):
    with pytest.raises(ValueError, match=message):
        ReadOptions(label_regex=pattern)
