"""Packages whose digests are all right and whose contents are wrong, as an attacker can make them."""

import hashlib
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graft.service.artifact import file_record
from graft.service.manifest import GOLDEN, GRAPH, MANIFEST, NEIGHBORS, THUMBNAILS, WEIGHTS

Change = Callable[[Path], object]  # alters the files in a copy of a package
Fields = dict[str, Any]


def copy(package: Path, target: Path) -> Path:
    """A copy that shares the bytes of its files; `put` replaces a file and leaves the original."""
    shutil.copytree(package, target, copy_function=os.link)
    return target


def put(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def dump(fields: Fields) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def reseal(package: Path, edit: Callable[[Fields], object] = id) -> None:
    """Writes new digests of all files; `edit` changes the manifest first. Checks nothing, unlike the project's own code."""
    fields = json.loads((package / MANIFEST).read_bytes())
    fields["files"] = {name: file_record(package / name).model_dump() for name in fields["files"]}
    edit(fields)
    fields["sha256"] = ""
    fields["sha256"] = hashlib.sha256(dump(fields)).hexdigest()
    put(package / MANIFEST, dump(fields))


def npz(compress: bool = False, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def with_arrays(name: str, compress: bool = False, **changes: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Replaces arrays of an .npz file."""

    def change(package: Path) -> None:
        arrays = arrays_of(package / name)
        put(package / name, npz(compress, **arrays | {key: function(arrays[key]) for key, function in changes.items()}))

    return change


def with_index(**changes: Callable[[list[Any]], object]) -> Change:
    """Replaces lists in the index of the neighbors."""

    def edited(index: np.ndarray) -> np.ndarray:
        fields = json.loads(index.tobytes())
        return to_array(json.dumps(fields | {key: function(fields[key]) for key, function in changes.items()}).encode())

    return with_arrays(NEIGHBORS, index=edited)


def to_array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def every_thumbnail(file: bytes) -> Change:
    """Replaces all thumbnails by one file."""

    def change(package: Path) -> None:
        n_files = len(arrays_of(package / THUMBNAILS)["ends"])
        ends = np.arange(1, n_files + 1, dtype=np.int64) * len(file)
        put(package / THUMBNAILS, npz(content=to_array(file * n_files), ends=ends))

    return change


def with_header(name: str, array: str, header: bytes) -> Change:
    """Replaces the header of one array, and leaves out its values."""

    def change(package: Path) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for key in arrays_of(package / name):
                encoded = io.BytesIO()
                np.save(encoded, np.zeros(0))
                padded = header.ljust(117) + b"\n"
                lie = b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded
                archive.writestr(f"{key}.npy", lie if key == array else encoded.getvalue())
        put(package / name, file.getvalue())

    return change


def with_file(name: str, content: bytes) -> Change:
    return lambda package: put(package / name, content)


def with_tensors(change_header: Callable[[Fields], object]) -> Change:
    """Rewrites the header of the weights, and leaves the tensors."""

    def change(package: Path) -> None:
        content = (package / WEIGHTS).read_bytes()
        n_header = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + n_header])
        change_header(fields)
        header = json.dumps(fields).encode()
        put(package / WEIGHTS, len(header).to_bytes(8, "little") + header + content[8 + n_header :])

    return change


def many_members(n_members: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(n_members):
            archive.writestr(f"{number}.npy", b"")
    return file.getvalue()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
# The first bytes of a JPEG that declares 60,000 x 60,000 pixels.
HUGE_JPEG = (
    b"\xff\xd8\xff\xc0\0\x11\x08\xea\x60\xea\x60\x03\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0\0\xff\xd9"
)

# Name -> (change of the files, the file that the message must name, a part of the message).
CONTENTS: dict[str, tuple[Change, str, str]] = {
    "a neighbor has a label that does not exist": (
        with_index(labels=lambda rows: [[10], *rows[1:]]),
        NEIGHBORS,
        "labels outside 0 to 9",
    ),
    "a neighbor has a negative label": (with_index(labels=lambda rows: [*rows[1:], [-1]]), NEIGHBORS, "labels outside 0 to 9"),
    "a label is a fraction": (with_index(labels=lambda rows: [[0.5], *rows[1:]]), NEIGHBORS, "not lists of whole numbers"),
    "a label is true": (with_index(labels=lambda rows: [[True], *rows[1:]]), NEIGHBORS, "not lists of whole numbers"),
    "there are fewer labels than vectors": (with_index(labels=lambda rows: rows[1:]), NEIGHBORS, "849 labels and 850 paths"),
    "there are fewer paths than vectors": (with_index(paths=lambda rows: rows[:-3]), NEIGHBORS, "850 labels and 847 paths"),
    "a path is null": (with_index(paths=lambda rows: [None, *rows[1:]]), NEIGHBORS, "paths that are not text"),
    "a path has a lone surrogate": (with_index(paths=lambda rows: ["\ud83d", *rows[1:]]), NEIGHBORS, "paths that are not text"),
    "a path has a million characters": (with_index(paths=lambda rows: ["p" * 10**6, *rows[1:]]), NEIGHBORS, "at most 4,096"),
    "the paths are one text": (with_index(paths=lambda rows: "p" * 850), NEIGHBORS, "a list of paths"),
    "the index is a list": (with_arrays(NEIGHBORS, index=lambda index: to_array(b"[[], []]")), NEIGHBORS, "a list of labels"),
    "the index is nested without end": (
        with_arrays(NEIGHBORS, index=lambda index: to_array(b"[" * 10**6)),
        NEIGHBORS,
        "not JSON",
    ),
    "a vector is NaN": (
        with_arrays(NEIGHBORS, vectors=lambda vectors: np.where(vectors == vectors.max(), np.float16(np.nan), vectors)),
        NEIGHBORS,
        "not of length 1",
    ),
    "the vectors are infinite": (
        with_arrays(NEIGHBORS, vectors=lambda vectors: np.full_like(vectors, np.inf)),
        NEIGHBORS,
        "length",
    ),
    "the vectors are long": (with_arrays(NEIGHBORS, vectors=lambda vectors: vectors * np.float16(3)), NEIGHBORS, "length 1"),
    "the vectors are narrow": (with_arrays(NEIGHBORS, vectors=lambda vectors: vectors[:, :9].copy()), NEIGHBORS, "of width 9"),
    "the vectors are float32": (with_arrays(NEIGHBORS, vectors=lambda vectors: vectors.astype("<f4")), NEIGHBORS, "type <f4"),
    "the neighbors are a million empty members": (with_file(NEIGHBORS, many_members(60_000)), NEIGHBORS, "not an .npz file"),
    "the neighbors have an array more": (
        lambda package: put(package / NEIGHBORS, npz(**arrays_of(package / NEIGHBORS), more=np.zeros(1))),
        NEIGHBORS,
        "exactly vectors.npy, index.npy",
    ),
    "there is a thumbnail less": (with_arrays(THUMBNAILS, ends=lambda ends: np.delete(ends, 4)), THUMBNAILS, "849 thumbnails"),
    "a thumbnail ends before it starts": (
        with_arrays(THUMBNAILS, ends=lambda ends: np.concatenate([[ends[-1]], ends[1:]])),
        THUMBNAILS,
        "do not divide its content",
    ),
    "the last thumbnail ends beyond the content": (
        with_arrays(THUMBNAILS, ends=lambda ends: np.concatenate([ends[:-1], [2**62]])),
        THUMBNAILS,
        "do not divide its content",
    ),
    "a thumbnail starts before the content": (
        with_arrays(THUMBNAILS, ends=lambda ends: np.concatenate([[-5], ends[1:]])),
        THUMBNAILS,
        "do not divide its content",
    ),
    "the thumbnails are SVG": (every_thumbnail(SVG), THUMBNAILS, "is not a JPEG file: number 0"),
    "the thumbnails are only a JPEG's first bytes": (every_thumbnail(b"\xff\xd8\xff\xe0"), THUMBNAILS, "is not a JPEG file"),
    "the thumbnails declare 3.6 gigapixels": (every_thumbnail(HUGE_JPEG), THUMBNAILS, "60000x60000 pixels"),
    "the thumbnails have 20 KB": (every_thumbnail(HUGE_JPEG + bytes(20_000)), THUMBNAILS, "more than 4,096"),
    "the weights are a pickle": (with_file(WEIGHTS, b"\x80\x04\x8c\x05posix\x94."), WEIGHTS, "not a safetensors file"),
    "the weights are empty": (with_file(WEIGHTS, b""), WEIGHTS, "not a safetensors file"),
    "the header of the weights has 2**63 bytes": (
        with_file(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
        WEIGHTS,
        "header is wrong",
    ),
    "the header of the weights has 30 MB": (
        with_file(WEIGHTS, struct.pack("<Q", 30_000_000) + b"{}" + b" " * 29_999_998),
        WEIGHTS,
        "the length of its header is wrong",
    ),
    "the header of the weights is nested": (
        with_file(WEIGHTS, struct.pack("<Q", 10**6) + b"[" * 10**6),
        WEIGHTS,
        "its header is not valid",
    ),
    "a tensor is outside the file": (
        with_tensors(lambda fields: fields["head.bias"].update(data_offsets=[2**40, 2**40 + 40])),
        WEIGHTS,
        "does not describe its content",
    ),
    "two tensors share their bytes": (
        with_tensors(lambda fields: fields["head.bias"].update(data_offsets=fields["head.weight"]["data_offsets"])),
        WEIGHTS,
        "does not describe its content",
    ),
    "a tensor has another shape": (
        with_tensors(lambda fields: fields["head.bias"].update(shape=[5, 2])),
        WEIGHTS,
        "head.bias of F32 and shape (5, 2)",
    ),
    "the weights have no head": (
        with_tensors(lambda fields: fields.update(tail=fields.pop("head.bias"))),
        WEIGHTS,
        "head.bias is missing",
    ),
    "the golden samples are pickled": (
        with_arrays(GOLDEN, content=lambda content: np.array([print], dtype=object)),
        GOLDEN,
        "content of type |O",
    ),
    "the golden samples are a bomb": (
        with_arrays(GOLDEN, compress=True, content=lambda content: np.zeros(2**28, np.uint8)),
        GOLDEN,
        "compressed arrays",
    ),
    "the golden samples declare a terabyte": (
        with_header(
            GOLDEN,
            "content",
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }",
        ),
        GOLDEN,
        "does not fit its 0 bytes",
    ),
    "the golden samples have a header that is code": (
        with_header(GOLDEN, "content", b"__import__('os').abort()"),
        GOLDEN,
        "without a valid header",
    ),
    "the golden logits are NaN": (
        with_arrays(GOLDEN, logits_f32=lambda logits: logits * np.float32(np.nan)),
        GOLDEN,
        "not finite",
    ),
    "there are no golden images": (
        with_arrays(
            GOLDEN, content=lambda content: content[:0], ends=lambda ends: ends[:0], logits_f32=lambda logits: logits[:0]
        ),
        GOLDEN,
        "has 0 images",
    ),
    "there are more golden images than logits": (
        with_arrays(GOLDEN, logits_f32=lambda logits: logits[1:]),
        GOLDEN,
        "7 rows of logits",
    ),
    "there are too many golden images": (
        with_arrays(
            GOLDEN,
            ends=lambda ends: np.concatenate([ends, [ends[-1]] * 900]),
            logits_f32=lambda logits: np.zeros((len(logits) + 900, 10), np.float32),
        ),
        GOLDEN,
        "has 908 images",
    ),
    "the golden logits have another number of labels": (
        with_arrays(GOLDEN, logits_f32=lambda logits: logits[:, :7].copy()),
        GOLDEN,
        "has 7 logits",
    ),
    "a golden image is no image": (
        with_arrays(GOLDEN, content=np.zeros_like),
        GOLDEN,
        "cannot be decoded",
    ),
    "the network is text": (with_file(GRAPH, b"import os"), GRAPH, "cannot be loaded"),
    "the network is empty": (with_file(GRAPH, b""), GRAPH, "cannot be loaded"),
}


# Name -> (change of the manifest's fields, a part of the message).
MANIFESTS: dict[str, tuple[Callable[[Fields], object], str]] = {
    "a label twice": (lambda fields: fields["labels"].__setitem__(3, fields["labels"][0]), "is listed twice"),
    "an empty label": (lambda fields: fields["labels"].__setitem__(3, ""), "labels.3: must not be empty"),
    "a blank label": (lambda fields: fields["labels"].__setitem__(3, " \u3000"), "labels.3: must not be empty"),
    "a label of 201 characters": (
        lambda fields: fields["labels"].__setitem__(3, "é" * 201),
        "200 characters or fewer, not 201",
    ),
    "a label with a line break": (lambda fields: fields["labels"].__setitem__(3, "a\nb"), "control character U+000A"),
    "a label with an escape": (lambda fields: fields["labels"].__setitem__(3, "a\x1b[2J"), "control character U+001B"),
    "a label that changes the direction": (lambda fields: fields["labels"].__setitem__(3, "\u2067gpj.exe"), "U+2067"),
    "a label with a line separator": (lambda fields: fields["labels"].__setitem__(3, "a\u2028b"), "U+2028"),
    "a label with a lone surrogate": (
        lambda fields: fields["labels"].__setitem__(3, "\udfff"),
        "control character U+DFFF",
    ),
    "a name with an override": (
        lambda fields: fields.update(name="\u202dbirds"),
        "name: must not contain the control character",
    ),
    "an empty name": (lambda fields: fields.update(name=""), "name: must not be empty"),
    "a long version": (lambda fields: fields.update(version="1" * 5_000), "version: must have 200 characters or fewer"),
    "a license with a bell": (lambda fields: fields["backbone"].update(license="MIT\a"), "backbone.license: must not contain"),
    "a huge tolerance": (lambda fields: fields.update(tolerance=1e300), "tolerance: must be at most 0.01"),
    "a tolerance of a tenth": (lambda fields: fields.update(tolerance=0.1), "tolerance: must be at most 0.01"),
    "a reference that shifts": (
        lambda fields: fields["fidelity"]["f32"].update(max_probability_shift=1.0),
        "f32 is the reference",
    ),
    "a tiny temperature": (lambda fields: fields.update(temperature=1e-300), "temperature: must be at least 0.01"),
    "a huge temperature": (lambda fields: fields.update(temperature=1e300), "temperature: must be at most 100"),
    "an unknown metric": (lambda fields: fields.update(metric="auc"), "metric: must be log-loss, accuracy"),
    "no label frequencies": (lambda fields: fields.update(label_frequencies=None), "a multiclass model needs them"),
    "label frequencies of one label": (
        lambda fields: fields["label_frequencies"].update(assumed=[1.0]),
        "there must be one for each label",
    ),
    "label frequencies above 1 in all": (
        lambda fields: fields["label_frequencies"].update(training=[1.0] * len(fields["labels"])),
        "they must sum to 1",
    ),
    "a label frequency of zero": (
        lambda fields: fields["label_frequencies"]["assumed"].__setitem__(0, 0.0),
        "label_frequencies.assumed.0: must be greater than 0",
    ),
    "a huge crop": (lambda fields: fields["preprocessing"].update(crop=5_000, resize=5_000), "must be at most 4096"),
    "a crop larger than the image": (lambda fields: fields["preprocessing"].update(crop=300, resize=299), "cannot be cut out"),
    "a mean of a billion": (
        lambda fields: fields["preprocessing"].update(mean=[1e9, 0, 0]),
        "preprocessing.mean.0: must be at most 1",
    ),
    "a deviation of zero": (
        lambda fields: fields["preprocessing"].update(std=[1, 0, 1]),
        "preprocessing.std.1: must be at least",
    ),
    "a threshold above one": (
        lambda fields: fields["calibration"]["thresholds"].__setitem__(0, 1.01),
        "calibration.thresholds.0: must be at most 1",
    ),
    "a negative threshold": (
        lambda fields: fields["calibration"]["thresholds"].__setitem__(0, -1e-9),
        "calibration.thresholds.0: must be at least 0",
    ),
    "a thousand libraries": (
        lambda fields: fields.update(libraries={f"library {number}": "1" for number in range(1000)}),
        "libraries: must have 100 values or fewer",
    ),
    "a file of a petabyte": (
        lambda fields: fields["files"][GRAPH].update(bytes=2**50),
        "model.onnx has 1,125,899,906,842,624 bytes",
    ),
    "a digest that is no digest": (
        lambda fields: fields["files"][GRAPH].update(sha256="x"),
        "must match the regular expression",
    ),
    "a huge format": (lambda fields: fields.update(format="5" * 10**6), "has format '555"),
    "a field with a long name": (lambda fields: fields.update({"x" * 10**6: 1}), "does not exist"),
}


def resealed(package: Path, target: Path, change: Change) -> Path:
    """A copy of a package, changed and sealed again."""
    change(copy(package, target))
    reseal(target)
    return target
