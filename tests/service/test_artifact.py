"""Reading a package: every single defect is rejected with a message that names the file."""

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from unprivileged import run_unprivileged

from graft.service.artifact import ArtifactError, file_record, read
from graft.service.fidelity import Fidelity
from graft.service.manifest import (
    FILES,
    FORMAT_VERSION,
    GOLDEN,
    GRAPH,
    MANIFEST,
    WEIGHTS,
    Backbone,
    Calibration,
    LabelFrequencies,
    Manifest,
    Preprocessing,
)

EVERY_FILE = sorted({*FILES, MANIFEST})
UNCHANGED = Fidelity(n_images=100, agreement=1, accuracy_change=0, log_loss_change=0, max_probability_shift=0)
MAPS_OF = [
    ("last", True, [("maps", 8)]),
    ("all", True, [("stage2_maps", 4), ("stage4_maps", 6), ("maps", 8)]),
    ("last", False, []),
    ("all", False, []),
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of a few hundred bytes with dummy files: the reader checks only digests."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(f"the content of {name}".encode() * 10)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    manifest = Manifest(
        name="clothes",
        version="1",
        created="2026-01-01T00:00:00+00:00",
        labels=("bag", "coat", "dress"),
        strategy="probe",
        backbone=Backbone(name="tiny", weights="none", license="none", sha256="0" * 64, width=8),
        preprocessing=Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        multilabel=False,
        temperature=1.5,
        metric="log-loss",
        label_frequencies=LabelFrequencies(training=(0.5, 0.25, 0.25), assumed=(0.5, 0.25, 0.25)),
        calibration=Calibration(
            n_images=100,
            target_precision=0.95,
            thresholds=(0.5, None, 0.75),
            coverage=0.9,
            set_thresholds=(0.25, 0.25, 0.25),
            outlier_k=1,
            outlier_threshold=0.5,
        ),
        scores={},
        tolerance=1e-3,
        fidelity={"f32": UNCHANGED},
        libraries={},
        files={name: file_record(folder / name) for name in sorted(FILES)},
    )
    (folder / MANIFEST).write_bytes(manifest.with_digest().to_bytes())


def error_message(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read(folder)
    return str(caught.value)


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Rewrites the manifest in canonical form with its old sha256."""
    path = folder / MANIFEST
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_bytes((json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode())


def test_a_fitted_package_is_accepted(fitted):
    assert read(fitted.artifact.path).manifest.labels == fitted.artifact.manifest.labels


def test_a_fitted_package_is_rejected_after_any_flipped_byte(fitted, tmp_path):
    seed = 20260101
    dice = random.Random(seed)
    folder = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    for number in range(300):
        name = dice.choice(EVERY_FILE)
        place, mask = dice.randrange((folder / name).stat().st_size), dice.randrange(1, 256)
        flip(folder / name, place, mask)
        message = refused(folder)
        assert message.startswith(str(folder / name)), f"seed {seed}, flip {number}: {name}[{place}] ^ {mask}: {message!r}"
        flip(folder / name, place, mask)
    assert read(folder).manifest == fitted.artifact.manifest


def flip(path: Path, place: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def refused(folder: Path) -> str:
    try:
        read(folder)
    except ArtifactError as error:
        return str(error)
    return "accepted"


def test_the_manifest_is_read_back_unchanged(package):
    artifact = read(package)
    assert (artifact.path, artifact.manifest.labels) == (package, ("bag", "coat", "dress"))


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_missing_file_is_named(package, name):
    (package / name).unlink()
    assert f"{package / name} is missing" in error_message(package)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_longer_file_is_named(package, name):
    with (package / name).open("ab") as file:
        file.write(b"\0")
    assert f"{package / name} has " in error_message(package)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_truncated_file_is_named(package, name):
    content = (package / name).read_bytes()
    (package / name).write_bytes(content[:-1])
    assert str(package / name) in error_message(package)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_an_emptied_file_is_named(package, name):
    (package / name).write_bytes(b"")
    assert str(package / name) in error_message(package)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_one_replaced_byte_is_named(package, name):
    flip(package / name, 100, 1)
    assert str(package / name) in error_message(package)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_link_instead_of_a_file_is_rejected(package, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(package / name, elsewhere)
    (package / name).symlink_to(elsewhere)
    assert str(package / name) in error_message(package)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_directory_instead_of_a_file_is_rejected(package, name):
    (package / name).unlink()
    (package / name).mkdir()
    assert str(package / name) in error_message(package)


@pytest.mark.parametrize("name", ["custom_objects.pkl", ".DS_Store", "manifest.json~", "café.txt"])
def test_an_extra_file_is_named(package, name):
    (package / name).write_bytes(b"\x80\x04.")
    assert f"{package / name} is not in the manifest" in error_message(package)


def test_an_extra_directory_is_named(package):
    (package / "__pycache__").mkdir()
    assert str(package / "__pycache__") in error_message(package)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(labels=["bag", "dress", "coat"]),
        lambda fields: fields.update(labels=["bag", "coat", "dress", "hat"]),
        lambda fields: fields.update(labels=["bag"]),
        lambda fields: fields.update(temperature=1.25),
        lambda fields: fields.update(temperature=0),
        lambda fields: fields.update(sha256="0" * 64),
        lambda fields: fields.update(sha256=""),
        lambda fields: fields.update(note="an unknown key"),
        lambda fields: fields.pop("created"),
        lambda fields: fields["preprocessing"].update(crop=28),
        lambda fields: fields["files"]["README.md"].update(bytes=1),
        lambda fields: fields["files"].pop("README.md"),
        lambda fields: fields["files"].update({"../outside": {"sha256": "0" * 64, "bytes": 1}}),
    ],
)
def test_an_edited_manifest_is_rejected(package, change):
    edit(package, change)
    assert str(package / MANIFEST) in error_message(package)


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda content: content + b"\n",
        lambda content: b" " + content,
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.replace(b"1.5", b"1.50"),
        lambda content: content.replace(b'"strategy"', b'"strategy" '),
        lambda content: json.dumps(json.loads(content)).encode(),
    ],
)
def test_a_manifest_in_non_canonical_form_is_rejected(package, rewrite):
    path = package / MANIFEST
    path.write_bytes(rewrite(path.read_bytes()))
    assert str(path) in error_message(package)


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b"not json", b"\xff\xfe\x00", b"[" * 100_000, b"\x80\x04}."])
def test_an_invalid_manifest_is_rejected(package, content):
    (package / MANIFEST).write_bytes(content)
    assert f"{package / MANIFEST} is not a Graft manifest" in error_message(package)


@pytest.mark.parametrize(("found", "shown"), [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (0, "0"), ("3", "'3'"), (None, "None")])
def test_an_unsupported_format_version_is_named(package, found, shown):
    edit(package, lambda fields: fields.update(format=found))
    assert f"{package / MANIFEST} has format {shown}; this Graft reads format {FORMAT_VERSION}" in error_message(package)


def test_a_manifest_with_a_valid_digest_cannot_list_other_files(package):
    path = package / MANIFEST
    manifest = Manifest.model_validate_json(path.read_bytes())
    files = {**manifest.files, "../outside": manifest.files["README.md"]}
    path.write_bytes(manifest.model_copy(update={"files": files}).with_digest().to_bytes())
    assert f"{path} lists the wrong files (../outside)" in error_message(package)


def test_a_missing_directory_is_rejected(tmp_path):
    assert f"{tmp_path / 'nowhere'} is not a package" in error_message(tmp_path / "nowhere")


def test_a_file_is_not_a_package(package):
    assert f"{package / MANIFEST} is not a package" in error_message(package / MANIFEST)


def test_an_empty_directory_is_not_a_package(tmp_path):
    assert error_message(tmp_path) == f"{tmp_path} is not a package, and not a run with one: it has no manifest.json."


def test_a_run_stands_for_its_package(package):
    assert read(package.parent).path == package


def test_the_files_of_a_package_stay_when_its_folder_becomes_another_package(package, tmp_path):
    artifact, before = read(package), (package / GRAPH).read_bytes()
    other = Path(shutil.copytree(package, tmp_path / "other"))
    (other / GRAPH).write_bytes(b"another network")
    seal(other)
    package.rename(tmp_path / "old")
    other.rename(package)
    shutil.rmtree(tmp_path / "old")
    assert artifact.graph.read_bytes() == before
    assert read(package).graph.read_bytes() == b"another network"


def test_a_link_that_moves_does_not_change_an_open_package(package, tmp_path):
    (tmp_path / "latest").symlink_to(package)
    artifact = read(tmp_path / "latest")
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(tmp_path)
    assert artifact.golden.read_bytes() == (package / GOLDEN).read_bytes()


def test_a_file_that_is_overwritten_while_it_is_open_is_named(package):
    artifact = read(package)
    flip(package / GRAPH, 100, 1)
    with pytest.raises(ArtifactError, match=f"{package / GRAPH} has sha256"):
        _ = artifact.graph
    flip(package / GRAPH, 100, 1)
    assert artifact.graph.read_bytes() == (package / GRAPH).read_bytes()


def test_a_named_pipe_instead_of_a_file_is_rejected(package):
    (package / GRAPH).unlink()
    os.mkfifo(package / GRAPH)
    assert f"{package / GRAPH} is not a regular file" in error_message(package)


def test_a_package_closes_its_files_when_it_is_freed(package):
    before = os.listdir("/dev/fd")
    artifact = read(package)
    assert len(os.listdir("/dev/fd")) == len(before) + len(FILES) + 1
    del artifact
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("name", ["with spaces", "käse-чай-🧦", "a'b\"c"])
def test_a_package_can_be_at_any_path(package, tmp_path, name):
    moved = package.rename(tmp_path / name)
    assert read(moved).manifest.name == "clothes"


def test_a_link_to_a_package_directory_is_followed(package, tmp_path):
    (tmp_path / "latest").symlink_to(package, target_is_directory=True)
    assert read(tmp_path / "latest").manifest.name == "clothes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("bag", "coat")}, "2 labels, but 3 thresholds"),
        ({"multilabel": True}, "every label of a multilabel model needs a threshold"),
        ({"calibration": {"set_thresholds": None}}, "a multiclass model needs a set threshold for every label"),
        ({"calibration": {"set_thresholds": (0.5, 0.5)}}, "a multiclass model needs a set threshold for every label"),
        ({"calibration": {"max_error": 1.0}}, "calibration.max_error"),
        ({"calibration": {"outlier_k": 0}}, "calibration.outlier_k"),
        ({"calibration": {"outlier_threshold": 3}}, "calibration.outlier_threshold"),
    ],
)
def test_an_inconsistent_calibration_is_rejected_despite_a_valid_digest(package, changes, message):
    path = package / MANIFEST
    manifest = Manifest.model_validate_json(path.read_bytes())
    if "calibration" in changes:
        changes = {"calibration": manifest.calibration.model_copy(update=changes["calibration"])}
    path.write_bytes(manifest.model_copy(update=changes).with_digest().to_bytes())
    assert message in error_message(package)


def test_format_1_is_rejected(package):
    """Format 1 has no calibration and no neighbors."""
    (package / "neighbors.npz").unlink()
    (package / "thumbnails.npz").unlink()
    path = package / MANIFEST
    fields = json.loads(path.read_bytes())
    del fields["calibration"], fields["multilabel"], fields["files"]["neighbors.npz"], fields["files"]["thumbnails.npz"]
    fields["format"] = 1
    path.write_bytes((json.dumps(fields, indent=2) + "\n").encode())
    assert f"{path} has format 1; this Graft reads format 9. Install a matching Graft version." in error_message(package)


def test_format_2_is_rejected(package):
    """Format 2 has no thumbnails and no `pooled` field."""
    (package / "thumbnails.npz").unlink()
    path = package / MANIFEST
    fields = json.loads(path.read_bytes())
    del fields["files"]["thumbnails.npz"], fields["backbone"]["pooled"]
    fields["format"] = 2
    path.write_bytes((json.dumps(fields, indent=2) + "\n").encode())
    assert f"{path} has format 2; this Graft reads format 9. Install a matching Graft version." in error_message(package)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_an_unreadable_file_is_named(package, name):
    (package / name).chmod(0o200)
    message = run_unprivileged(package, lambda: read(package))
    assert message == f"ArtifactError: {package / name} cannot be read: Permission denied."


def test_a_read_only_package_is_accepted(package):
    for path in (*package.iterdir(), package):
        path.chmod(0o444 if path.is_file() else 0o555)
    assert run_unprivileged(package, lambda: read(package)) == ""


def test_a_pickle_instead_of_the_weights_is_rejected(package):
    n_bytes = (package / WEIGHTS).stat().st_size
    (package / WEIGHTS).write_bytes(pickle.dumps(print).ljust(n_bytes, b"\0"))
    assert f"{package / WEIGHTS} has sha256 " in error_message(package)


@pytest.mark.parametrize(("head_input", "pooled", "maps"), MAPS_OF)
def test_map_outputs_are_in_the_order_of_the_head_columns(head_input, pooled, maps):
    facts = {"name": "tiny", "weights": "", "license": "", "sha256": "", "width": 8, "stages": {1: 4, 3: 6}}
    found = Backbone(**facts, head_input=head_input, pooled=pooled).map_outputs
    assert list(found.items()) == maps


def test_adding_the_digest_twice_changes_nothing(package):
    manifest = read(package).manifest
    assert manifest.with_digest() == manifest
