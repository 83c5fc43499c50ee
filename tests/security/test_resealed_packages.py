"""Packages with right digests and wrong contents are refused when they are loaded, in one line that names the file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from int8_packages import add_int8
from resealed_packages import CONTENTS, MANIFESTS, copy, dump, put, reseal, resealed

from graft.service.artifact import ArtifactError, read
from graft.service.inference import loader, model
from graft.service.manifest import FILES, GRAPH, INT8_FILES, INT8_NAMES, MANIFEST, MAX_MANIFEST_BYTES

ROOT = Path(__file__).parents[2]
PIPE_TIMEOUT_S = 60  # a reader that waits for a writer would wait for ever


def message_of(package: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        model.load(package, "cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_an_untouched_copy_that_is_sealed_again_is_accepted(fitted, tmp_path):
    package = resealed(fitted.package, tmp_path / "package", lambda package: None)
    assert model.load(package, "cpu").manifest == fitted.artifact.manifest


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents_that_contradict_the_manifest_are_refused(fitted, tmp_path, kind):
    change, name, expected = CONTENTS[kind]
    message = message_of(resealed(fitted.package, tmp_path / "package", change))
    assert name in message
    assert expected in message


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_with_absurd_values_is_refused(fitted, tmp_path, kind):
    change, expected = MANIFESTS[kind]
    package = copy(fitted.package, tmp_path / "package")
    reseal(package, change)
    message = message_of(package)
    assert message.startswith(str(package / MANIFEST))
    assert expected in message
    assert message.isprintable()


def test_fewer_neighbors_than_the_outlier_score_needs_are_refused(fitted, tmp_path):
    package = copy(fitted.package, tmp_path / "package")
    reseal(package, lambda fields: fields["calibration"].update(outlier_k=851))
    assert "neighbors.npz has 850 vectors of width 1280; expected: at least 851" in message_of(package)


def test_a_network_without_the_feature_maps_of_the_manifest_is_refused(fitted, tmp_path):
    import onnx

    def remove_maps(package: Path) -> None:
        graph = onnx.load(package / GRAPH)
        [maps] = [output for output in graph.graph.output if output.name == "maps"]
        graph.graph.output.remove(maps)
        put(package / GRAPH, graph.SerializeToString())

    package = resealed(fitted.package, tmp_path / "package", remove_maps)
    assert "model.onnx has no output maps; the manifest needs 1,280 values" in message_of(package)


def test_an_int8_network_that_is_none_is_refused(fitted, tmp_path):
    package = add_int8(copy(fitted.package, tmp_path / "package"))
    put(package / INT8_NAMES[GRAPH], b"\x08\x0a nothing")
    reseal(package)
    if "int8" not in loader.supported_precisions("cpu"):
        pytest.skip("this CPU does not support int8")
    assert f"{package / INT8_NAMES[GRAPH]} cannot be loaded" in message_of(package)


def narrow_head(fields: dict) -> None:
    fields["backbone"]["width"] -= 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields["calibration"]["thresholds"].pop(), "10 labels, but 9 thresholds"),
        (lambda fields: fields["label_frequencies"]["assumed"].pop(), "there must be one for each label"),
        (lambda fields: fields.update(temperature=0), "int8.temperature"),
        (lambda fields: fields.pop("fidelity"), "int8.fidelity"),
        (narrow_head, "head.int8.safetensors"),
        (lambda fields: fields["backbone"].update(width=1279, head_input="last"), "head.int8.safetensors"),
        (lambda fields: fields["calibration"].update(outlier_k=10**6), "neighbors.int8.npz"),
    ],
)
def test_an_int8_model_that_contradicts_itself_is_refused(fitted, tmp_path, edit, message):
    package = add_int8(copy(fitted.package, tmp_path / "package"), edit)
    assert message in message_of(package)


def test_an_int8_entry_among_the_precisions_of_the_f32_model_is_refused(fitted, tmp_path):
    def claim(fields: dict) -> None:
        fields["fidelity"]["int8"] = fields["fidelity"]["f32"]

    package = copy(fitted.package, tmp_path / "package")
    reseal(package, claim)
    assert "int8 is a model of its own" in message_of(package)


@pytest.mark.parametrize("name", sorted(INT8_FILES))
def test_an_int8_model_without_one_of_its_files_is_refused(fitted, tmp_path, name):
    package = add_int8(copy(fitted.package, tmp_path / "package"))
    (package / name).unlink()
    assert f"{package / name} is missing" in message_of(package)


def test_a_network_for_another_image_size_is_refused(fitted, tmp_path):
    package = copy(fitted.package, tmp_path / "package")
    reseal(package, lambda fields: fields["preprocessing"].update(crop=64, resize=64))
    assert "model.onnx takes images of" in message_of(package)


def test_a_key_that_is_listed_twice_is_named(fitted, tmp_path):
    package = copy(fitted.package, tmp_path / "package")
    content = (package / MANIFEST).read_bytes()
    put(package / MANIFEST, content.replace(b'  "strategy"', b'  "strategy": "probe",\n  "strategy"'))
    assert f"{package / MANIFEST} lists strategy twice" in message_of(package)


def test_a_manifest_of_hundreds_of_megabytes_is_not_read(fitted, tmp_path):
    package = copy(fitted.package, tmp_path / "package")
    put(package / MANIFEST, b"{")
    os.truncate(package / MANIFEST, 2**40)  # has no blocks on the disk
    assert f"a manifest has at most {MAX_MANIFEST_BYTES:,}" in message_of(package)


def test_a_file_that_has_grown_is_not_read(fitted, tmp_path):
    package = copy(fitted.package, tmp_path / "package")
    put(package / "README.md", b"#")
    os.truncate(package / "README.md", 2**40)
    assert "README.md has 1,099,511,627,776 bytes" in message_of(package)


def test_a_folder_with_a_thousand_files_is_refused(fitted, tmp_path):
    package = copy(fitted.package, tmp_path / "package")
    for number in range(1000):
        (package / f"{number}.txt").touch()
    assert "has 1,000 files or more" in message_of(package)


@pytest.mark.parametrize("name", [".hidden", "sub"])
def test_hidden_files_and_folders_are_refused(fitted, tmp_path, name):
    package = copy(fitted.package, tmp_path / "package")
    (package / name).mkdir() if name == "sub" else (package / name).touch()
    reseal(package)
    assert f"{package / name} is not in the manifest" in message_of(package)


@pytest.mark.parametrize("name", sorted(FILES | {MANIFEST}))
def test_a_pipe_in_place_of_a_file_is_refused_at_once(fitted, tmp_path, name):
    package = copy(fitted.package, tmp_path / "package")
    (package / name).unlink()
    os.mkfifo(package / name)
    program = f"from graft.service.artifact import read; from pathlib import Path; read(Path({str(package)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=PIPE_TIMEOUT_S, check=False
    )
    assert f"{package / name} is not a regular file" in result.stderr


def test_a_package_is_refused_without_the_memory_that_it_asks_for(fitted, tmp_path):
    change, *_ = CONTENTS["the golden samples are a bomb"]
    package = resealed(fitted.package, tmp_path / "package", change)
    program = (
        "import resource, sys; from pathlib import Path; from graft.service.artifact import ArtifactError, read\n"
        "from graft.service.inference.contents import load_contents\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_contents(read(Path(sys.argv[1])))\n"
        "except ArtifactError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", program, str(package)], text=True, cwd=ROOT)
    assert int(output) < 64 * 2**10  # KiB; its arrays have 256 MiB


def test_the_package_that_is_trusted_is_accepted(fitted):
    assert read(fitted.package).require_sha256(fitted.artifact.manifest.sha256).path == fitted.package
    assert read(fitted.package).require_sha256(None).path == fitted.package


def test_another_package_than_the_one_that_is_trusted_is_refused(fitted):
    sha256 = fitted.artifact.manifest.sha256
    with pytest.raises(ArtifactError, match=f"manifest.json has sha256 {sha256}, but GRAFT_PACKAGE_SHA256 is {'0' * 64}"):
        read(fitted.package).require_sha256("0" * 64)


def test_the_generator_writes_the_manifest_as_the_project_does(fitted):
    content = (fitted.package / MANIFEST).read_bytes()
    assert dump(json.loads(content)) == content
